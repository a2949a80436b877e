"""Forecasts over several windows against a loop by hand; nothing that was recorded later is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import SMALLEST

from omnimouse import (
    TASKS,
    OmniMouseConfig,
    OmniMouseModel,
    OmniMouseProcessor,
    Windows,
    predict,
    recording_from_arrays,
)
from omnimouse.evaluation import Predictions

N, RATE, TRAIN, TEST = 6, 30, 3, 12
STRICT = OmniMouseProcessor("strict")
SILENT = {"progress": False, "tier": "test", "processor": STRICT}


def make_recording(change_from=None):
    """Three seconds of train, twelve of test in one trial; responses differ from a sample of the test trial on."""
    generator = np.random.default_rng(0)
    length = (TRAIN + TEST) * RATE
    responses = generator.random((length, N)).astype(np.float32)
    if change_from is not None:
        responses[TRAIN * RATE + change_from :] *= 3
    names = ("pupil_size", "pupil_size_derivative", "gaze_x", "gaze_y", "running_speed")
    return recording_from_arrays(
        responses,
        float(RATE),
        video=generator.integers(0, 255, (length, 36, 64)).astype(np.uint8),
        behavior={name: generator.random(length) for name in names},
        trials=[(0.0, float(TRAIN), "train"), (float(TRAIN), float(TRAIN + TEST), "test")],
        session_key="m-1-1",
        animal_id="m",
    )


@pytest.fixture(scope="module")
def recording():
    return make_recording()


@pytest.fixture(scope="module")
def model(recording):
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST))
    model.add_session(recording)
    for _, parameter in model.session_named_parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def by_hand(model, windows, start, mask, steps):
    """Predictions `[steps * 30, N]` and decoded behaviour `[5, 40 + 20 (steps - 1)]` of one window, step by step."""
    whole, decoded, before = [], [], None
    for step in range(steps):
        index = int(np.flatnonzero(np.isclose(windows.starts, start + step))[0])
        window = {name: values[None].clone() for name, values in windows[index].items()}
        if before is not None:
            window["responses"] = torch.zeros(1, 60, N)
            window["responses"][:, :25] = before[:, :25]
        with torch.inference_mode():
            out = model("m-1-1", **window, mask=mask, all_neurons=True)
        before = out.response_predictions
        whole.append(before[0])
        if out.behavior_predictions is not None:
            decoded.append(out.behavior_predictions[0][:, 0 if step == 0 else 20 :])
    return torch.cat(whole).numpy(), torch.cat(decoded, dim=1).numpy() if decoded else None


@pytest.mark.parametrize("task", ["forecasting", "forecasting+stimulus", "forecasting+stimulus+behavior"])
def test_equals_a_loop_by_hand(model, recording, task, tmp_path):
    steps = 3
    result = predict(model, recording, task, rollout=steps, max_windows=2, **SILENT)
    windows = Windows(recording, "test", processor=STRICT)
    assert result.predictions.shape == result.targets.shape == (2, 30 * steps, N)
    np.testing.assert_allclose(np.diff(result.window_starts), steps)  # tiles time by default
    np.testing.assert_allclose(result.times, result.window_starts[:, None] + np.arange(30, 30 + 30 * steps) / RATE)
    for row, start in enumerate(result.window_starts):
        predictions, decoded = by_hand(model, windows, start, task, steps)
        np.testing.assert_allclose(result.predictions[row], predictions, rtol=1e-4, atol=1e-6)
        places = [int(np.flatnonzero(np.isclose(windows.starts, start + step))[0]) for step in range(steps)]
        targets = np.concatenate([windows[place]["responses"][30:].numpy() for place in places])
        np.testing.assert_array_equal(result.targets[row], targets)
        if decoded is None:
            assert result.behavior_predictions is None
            continue
        np.testing.assert_allclose(result.behavior_predictions[row], decoded, rtol=1e-4, atol=1e-6)
        assert result.behavior_times[row] == pytest.approx(start + np.arange(40 + 20 * (steps - 1)) / 20)
        behavior = [windows[place]["behavior"].numpy()[:, 20 if step else 0 :] for step, place in enumerate(places)]
        np.testing.assert_array_equal(result.behavior_targets[row], np.concatenate(behavior, axis=1))
    path = tmp_path / "out.npz"
    predict(model, recording, task, rollout=steps, max_windows=2, output=path, **SILENT)
    for name, value in vars(Predictions.load(path)).items():
        np.testing.assert_array_equal(value, getattr(result, name), err_msg=name)


def test_nothing_recorded_after_the_first_prefix_is_seen(model, recording):
    start = Windows(recording, "test", processor=STRICT).starts[0]
    seen = round((start - TRAIN) * RATE) + 25
    asked = {"rollout": 4, "max_windows": 1, **SILENT}
    results = [
        predict(model, given, "forecasting+stimulus", **asked)
        for given in (recording, make_recording(seen), make_recording(seen - 1))
    ]
    assert np.array_equal(results[0].response_scale, results[1].response_scale)
    assert not np.array_equal(results[0].targets, results[1].targets)
    np.testing.assert_array_equal(results[0].predictions, results[1].predictions)
    assert not np.array_equal(results[0].predictions, results[2].predictions)


def test_where_the_tier_ends(model, recording):
    """Windows are 2 s of 12; the last that has one begins at 10 s."""
    steps = 4
    alone = predict(model, recording, "forecasting", rollout=steps, stride=30, **SILENT)
    shown = predict(model, recording, "forecasting+stimulus", rollout=steps, stride=30, **SILENT)
    last = alone.window_starts[-1]
    known = (alone.window_starts[:, None] + np.arange(steps) <= last + 1e-6).repeat(30, axis=1)
    assert known.any() and not known.all()
    assert np.isfinite(alone.predictions).all()
    for result in (alone, shown):
        np.testing.assert_array_equal(np.isfinite(result.targets).all(axis=2), known)
    np.testing.assert_array_equal(np.isfinite(shown.predictions).all(axis=2), known)
    assert np.isfinite(shown.behavior_predictions[0]).all() and np.isnan(shown.behavior_predictions[-1][:, 40:]).all()


def test_a_part_of_the_population_is_rolled_out_alone(model, recording):
    most, model.config.max_population = model.config.max_population, 4
    asked = {**SILENT, "all_neurons": False}
    try:
        result = predict(model, recording, "forecasting", rollout=2, max_windows=1, **asked)
    finally:
        model.config.max_population = most
    assert result.predictions.shape == (1, 60, 4) and np.isfinite(result.predictions).all()


@pytest.mark.parametrize("task", ["population", "stimulus", "behavior", "test/population_64_response"])
def test_what_forecasts_no_neuron_is_refused(model, recording, task):
    with pytest.raises(ValueError, match=r"cannot be rolled out.*task='forecasting\+stimulus', or rollout=1"):
        predict(model, recording, task, rollout=2, **SILENT)


def test_a_target_that_does_not_reach_the_next_prefix_is_refused(model, recording):
    short = replace(TASKS["forecasting"], target_length=15)
    with pytest.raises(ValueError, match=r"predicts 15 samples from 30 on, so the next window would show .* 15 on"):
        predict(model, recording, short, rollout=2, **SILENT)
    with pytest.raises(ValueError, match="rollout is 0"):
        predict(model, recording, "forecasting", rollout=0, **SILENT)
