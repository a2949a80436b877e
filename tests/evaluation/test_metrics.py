"""The streamed metrics against slow, obvious versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnimouse.evaluation import metrics

CHANNELS = ["pupil_size", "pupil_size_derivative", "gaze_x", "gaze_y", "running_speed"]


def batches_of(seed: int, sizes: list[int], length: int, neurons: int, offset: float = 0.0) -> list[tuple]:
    """Correlated predictions and targets [B, L, Q], one pair per batch size."""
    rng = np.random.default_rng(seed)
    result = []
    for size in sizes:
        x = rng.gamma(1.0, 2.0, (size, length, neurons)) + offset
        y = 0.5 * x + rng.normal(0, 1, x.shape)
        result.append((torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)))
    return result


def streamed(pairs: list[tuple], valid: torch.Tensor | None = None) -> metrics.Moments:
    state = None
    for x, y in pairs:
        state = metrics.merge(state, metrics.moments(x, y, valid))
    assert state is not None
    return state


def slow(pairs: list[tuple], neuron: int, valid: torch.Tensor | None = None) -> float:
    """np.corrcoef of everything concatenated."""
    keep = slice(None) if valid is None else valid[:, neuron].numpy()
    x = np.concatenate([pair[0].double().numpy()[:, keep, neuron].ravel() for pair in pairs])
    y = np.concatenate([pair[1].double().numpy()[:, keep, neuron].ravel() for pair in pairs])
    return float(np.corrcoef(x, y)[0, 1])


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 1000),
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.integers(2, 7),
    st.sampled_from([0.0, 1e3, -1e4]),
)
def test_streamed_correlation_equals_corrcoef_of_everything(seed, sizes, length, offset):
    pairs = batches_of(seed, sizes, length, 3, offset)
    r = metrics.pearson(streamed(pairs))
    np.testing.assert_allclose(r, [slow(pairs, q) for q in range(3)], atol=1e-10)


def test_merging_per_position_equals_merging_per_batch():
    """The published evaluation keeps one state per (position, neuron) and merges the positions at the end."""
    pairs = batches_of(1, [4, 4, 3], 30, 5)
    state = None
    for position in range(30):
        part = [(x[:, position : position + 1], y[:, position : position + 1]) for x, y in pairs]
        state = metrics.merge(state, streamed(part))
    np.testing.assert_allclose(metrics.pearson(state), metrics.pearson(streamed(pairs)), atol=1e-13)


def test_hidden_positions_do_not_count_even_if_nan():
    pairs = batches_of(2, [4, 2], 6, 3)
    valid = torch.ones(6, 3, dtype=torch.bool)
    valid[:4, 0] = False
    valid[:, 2] = False
    hidden = [(torch.where(valid, x, math.nan), y) for x, y in pairs]
    state = streamed(hidden, valid)
    r = metrics.pearson(state)
    np.testing.assert_allclose(r[:2], [slow(pairs, 0, valid), slow(pairs, 1, valid)], atol=1e-12)
    assert math.isnan(r[2])
    assert state.count.tolist() == [12, 36, 0]
    assert metrics.session_score(r, state.count.numpy()) == pytest.approx((12 * r[0] + 36 * r[1]) / 48)


def test_neuron_without_variance_is_nan_and_counts_as_zero():
    pairs = [(x.clone(), y.clone()) for x, y in batches_of(3, [5, 5], 4, 4)]
    for x, y in pairs:
        x[..., 1] = 0.3
        y[..., 2] = 0.0
    state = streamed(pairs)
    r = metrics.pearson(state)
    assert np.isnan(r).tolist() == [False, True, True, False]
    assert metrics.session_score(r, state.count.numpy()) == pytest.approx((r[0] + r[3]) / 4)


def test_variance_floors_are_those_of_the_published_dtypes():
    signal = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]], dtype=torch.float64)
    for floor, expected in [(metrics.RESPONSE_VARIANCE_FLOOR, 1.4901e-8), (metrics.BEHAVIOR_VARIANCE_FLOOR, 3.4527e-4)]:
        assert floor == pytest.approx(expected, rel=1e-4)
        # The sample variance of this signal is 4/3 of its squared amplitude.
        below, above = (signal * math.sqrt(0.75 * floor * factor) for factor in (0.99, 1.01))
        assert math.isnan(metrics.pearson(metrics.moments(signal, below), variance_floor=floor)[0])
        assert metrics.pearson(metrics.moments(signal, above), variance_floor=floor)[0] == pytest.approx(1.0)


def test_one_sample_has_no_correlation_and_none_observed_no_score():
    state = metrics.moments(torch.ones(1, 2), torch.ones(1, 2))
    assert np.isnan(metrics.pearson(state)).all()
    assert math.isnan(metrics.session_score(np.array([math.nan]), np.array([0.0])))


def test_perfect_correlation_is_clamped_to_one():
    x = torch.rand(50, 3, dtype=torch.float64) * 1e-3
    assert (np.abs(metrics.pearson(metrics.moments(x, -x))) <= 1.0).all()
    np.testing.assert_allclose(metrics.pearson(metrics.moments(x, -2 * x)), -1.0)
    one = torch.ones(2, dtype=torch.float64)
    rounded = metrics.Moments(3 * one, one, one, one, one, torch.tensor([1 + 1e-9, -1 - 1e-9], dtype=torch.float64))
    assert metrics.pearson(rounded).tolist() == [1.0, -1.0]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"predictions have shape \(2, 3\), targets \(2, 4\)"):
        metrics.moments(torch.zeros(2, 3), torch.zeros(2, 4))


def test_behavior_channels_and_groups_have_the_names_of_their_content():
    pairs = batches_of(4, [3, 4], 40, 5)
    channels, groups = metrics.behavior_scores(streamed(pairs), CHANNELS)
    expected = [slow(pairs, c) for c in range(5)]
    np.testing.assert_allclose([channels[name] for name in CHANNELS], expected, atol=1e-12)
    assert groups == pytest.approx(
        {"pupil": np.mean(expected[:2]), "gaze": np.mean(expected[2:4]), "running": expected[4]}
    )


def test_behavior_nan_spoils_its_channel_and_group_only():
    pairs = batches_of(5, [3], 40, 5)
    pairs[0][1][0, 0, 2] = math.nan
    pairs[0][1][..., 4] = 1.0 + 1e-3 * pairs[0][1][..., 4]
    channels, groups = metrics.behavior_scores(streamed(pairs), CHANNELS)
    assert [name for name in CHANNELS if math.isnan(channels[name])] == ["gaze_x", "running_speed"]
    assert [name for name in groups if math.isnan(groups[name])] == ["gaze", "running"]


def test_groups_without_all_their_channels_are_not_reported():
    state = streamed(batches_of(6, [3], 40, 2))
    assert list(metrics.behavior_scores(state, ["pupil_size", "running_speed"])[1]) == ["running"]


def test_poisson_loss_is_the_clamped_formula():
    p = torch.tensor([[[0.5, 2.0], [1e-9, 400.0]]])
    y = torch.tensor([[[1.0, 0.0], [50.0, 0.0]]])
    valid = torch.tensor([[True, True], [True, False]])
    expected = (0.5 - math.log(0.5 + 1e-5)) + 2.0 + 100.0
    total, count = metrics.poisson_loss_sum(p, y, valid)
    assert count == 3
    assert total == pytest.approx(expected, rel=1e-6)
    assert metrics.poisson_loss_sum(p, y) == (pytest.approx(expected + 100.0, rel=1e-6), 4)


def test_the_epsilon_of_the_poisson_loss_decides_what_a_prediction_of_zero_costs():
    p, y = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 3.0]]])
    assert metrics.poisson_loss_sum(p, y)[0] == pytest.approx(-4 * math.log(1e-5))
    assert metrics.poisson_loss_sum(p, y, epsilon=1e-3)[0] == pytest.approx(-4 * math.log(1e-3))


def test_behavior_loss_is_the_clamped_square():
    assert metrics.behavior_loss_sum(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 9.0])) == (14.0, 2)


def test_sessions_are_weighted_by_neurons():
    values, sizes = {"a": 0.2, "b": 0.5}, {"a": 100, "b": 300, "unused": 5}
    assert metrics.combine_sessions(values, sizes) == pytest.approx((20 + 150) / 400)
    assert metrics.combine_sessions(values) == pytest.approx(0.35)
    assert math.isnan(metrics.combine_sessions({"a": math.nan, "b": 0.5}, sizes))
    with pytest.raises(ValueError, match=r"no neuron count for \['c'\]"):
        metrics.combine_sessions({"c": 1.0}, sizes)
    with pytest.raises(ValueError, match="got no session"):
        metrics.combine_sessions({})
