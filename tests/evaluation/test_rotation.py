"""Tasks over a part of the population score every neuron, whatever its place in the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import SMALL

from omnimouse import OmniMouseConfig, OmniMouseModel, OmniMouseProcessor, Windows, recording_from_arrays
from omnimouse.evaluation import evaluate, predict
from omnimouse.evaluation.rotation import Rotation, in_file_order, in_order
from omnimouse.model.masking.masks import EVALUATION_MASKS, TASKS, Mask
from omnimouse.recordings import mean_responses

N_NEURONS, KEY = 13, "turn-1-1"
POPULATION = TASKS["population"]
HELD = Mask(
    0.25, 0, 50, full_population_prefix_length=20, context_start=0, context_length=60,
    n_target_neurons=0.75, target_start=25, target_length=35,
)  # fmt: skip
"""Shows every neuron up to sample 20, so that there is a last visible value of every target."""


def record(order=None):
    """20 s of train, 40 s of final_test; `order` is the order of the neurons in the file."""
    generator = np.random.default_rng(5)
    responses, ids = generator.gamma(0.5, 1 + generator.random(N_NEURONS), (1800, N_NEURONS)), np.arange(N_NEURONS) + 70
    order = np.arange(N_NEURONS) if order is None else order
    return recording_from_arrays(
        responses[:, order], 30.0, unit_ids=ids[order], session_key=KEY,
        trials=[(0, 20, "train"), (20, 60, "final_test")],
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALL, num_latents=4, num_registers=2))
    model.add_session(KEY, n_neurons=N_NEURONS, animal_id="turn", unit_ids=record().unit_ids)
    torch.nn.init.normal_(model.sessions.table(KEY).neuron_embedding)
    return model.eval()


def reference(model, recording, mask, starts_of):
    """Per neuron: what was predicted, recorded, and said by both baselines, window by window, without any of ours."""
    windows = Windows(recording, "final_test", 30, processor=OmniMouseProcessor(profile="strict"))
    rotation = Rotation.of(mask, KEY, N_NEURONS, recording.unit_ids)
    means = mean_responses(recording, windows.processor)
    found = {neuron: [] for neuron in range(N_NEURONS)}
    for i in range(len(windows)):
        ids = rotation.neuron_ids([windows.starts[i]])
        responses = windows[i]["responses"]
        with torch.inference_mode():
            output = model(KEY, responses[None], mask=mask, neuron_ids=ids)
        first = output.target_start
        for q, neuron in enumerate(output.target_neuron_ids[0].tolist()):
            for row in np.flatnonzero(output.target_mask[:, q].numpy()):
                held = responses[starts_of, neuron].item() if starts_of is not None else np.nan
                found[neuron].append(
                    (
                        output.response_predictions[0, row, q].item(), responses[first + row, neuron].item(),
                        held, means[neuron],
                    )
                )  # fmt: skip
    return {neuron: np.array(rows) for neuron, rows in found.items()}


@pytest.mark.parametrize(("mask", "last"), [(POPULATION, None), (HELD, 19)])
def test_scores_and_baselines_are_those_of_a_loop_over_windows_and_neurons(model, mask, last):
    recording = record()
    task = evaluate(model, recording, {"task": mask}, batch_size=4, progress=False)["task"]
    found = reference(model, recording, mask, last)
    assert task.neuron_index.tolist() == list(range(N_NEURONS))
    expected = [np.corrcoef(found[neuron][:, :2].T)[0, 1] for neuron in range(N_NEURONS)]
    np.testing.assert_allclose(task.per_neuron, expected, atol=1e-4)
    counts = np.array([len(found[neuron]) for neuron in range(N_NEURONS)])
    assert task.n_samples == counts.sum()
    assert task.score == pytest.approx((expected * counts).sum() / counts.sum(), abs=1e-4)
    rows = np.concatenate(list(found.values()))
    loss = rows[:, 3] - rows[:, 1] * np.log(rows[:, 3] + model.config.response_loss_epsilon)
    assert task.baselines["training_mean"].response_loss == pytest.approx(loss.mean(), rel=1e-4)
    held = task.baselines["last_visible_value"]
    if last is None:
        assert held is None
    else:
        expected = [np.corrcoef(found[neuron][:, 1:3].T)[0, 1] for neuron in range(N_NEURONS)]
        np.testing.assert_allclose(held.per_neuron, expected, atol=1e-4)


def test_every_neuron_is_visible_in_a_quarter_of_the_windows():
    rotation = Rotation.of(POPULATION, KEY, 100, None)
    ids = rotation.neuron_ids(1.5e9 + np.arange(2000)).numpy()
    assert all(sorted(row) == list(range(100)) for row in ids[:5].tolist())
    share = np.bincount(ids[:, :25].ravel(), minlength=100) / len(ids)
    assert share.min() > 0.2 and share.max() < 0.3


def test_which_neurons_are_visible_does_not_depend_on_the_file_or_the_batch(model):
    order = np.random.default_rng(1).permutation(N_NEURONS)
    starts = [20.0, 21.0, 25.5]
    plain = Rotation.of(POPULATION, KEY, N_NEURONS, record().unit_ids).neuron_ids(starts)
    other = Rotation.of(POPULATION, KEY, N_NEURONS, record(order).unit_ids).neuron_ids(starts)
    assert np.array_equal(order[other.numpy()], plain.numpy())
    assert torch.equal(Rotation.of(POPULATION, KEY, N_NEURONS, record().unit_ids).neuron_ids(starts[1:]), plain[1:])
    one, four = (evaluate(model, record(), "population", batch_size=size, progress=False) for size in (1, 4))
    np.testing.assert_allclose(one["population"].per_neuron, four["population"].per_neuron, atol=1e-5)
    # The file says where a neuron is, its vectors who it is.
    twin = OmniMouseModel(model.config)
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if "sessions" not in k}, strict=False)
    twin.add_session(KEY, n_neurons=N_NEURONS, animal_id="turn", unit_ids=record(order).unit_ids)
    for name, tensor in model.session_state(KEY).items():
        if name != "animal_embedding":
            target = getattr(twin.sessions.table(KEY), name)
            target.data.copy_(tensor[order] if tensor.shape[0] == N_NEURONS else tensor)
    twin.sessions.animal(KEY).data.copy_(model.session_state(KEY)["animal_embedding"])
    shuffled = evaluate(twin.eval(), record(order), "population", progress=False)["population"]
    np.testing.assert_allclose(shuffled.per_neuron, one["population"].per_neuron[order], atol=1e-4)


def test_masks_in_numbers_of_neurons_keep_file_order(model):
    masks = [*EVALUATION_MASKS["test"].values(), replace(POPULATION, n_visible_neurons=3, n_target_neurons=10)]
    assert not any(Rotation.of(mask, KEY, N_NEURONS, None) for mask in masks)
    rotating = {name for name, mask in TASKS.items() if Rotation.of(mask, KEY, N_NEURONS, None)}
    assert rotating == {name for name in TASKS if name.startswith("population")}
    task = evaluate(model, record(), {"three": masks[-1]}, progress=False)["three"]
    assert task.neuron_index.tolist() == list(range(3, 13))


def test_predictions_hold_every_neuron_and_nan_where_it_was_visible(model):
    recording = record()
    result = predict(model, recording, "population", progress=False)
    assert result.neuron_ids.tolist() == recording.unit_ids.tolist() and np.isfinite(result.targets).all()
    visible = Rotation.of(POPULATION, KEY, N_NEURONS, recording.unit_ids).neuron_ids(result.window_starts)[:, :3]
    for window, hidden in enumerate(np.isfinite(result.predictions).all(axis=1)):
        assert sorted(np.flatnonzero(~hidden)) == sorted(visible[window].tolist())
    scores = evaluate(model, recording, "population", progress=False)["population"]
    for neuron in (0, 7):
        seen = np.isfinite(result.predictions[:, :, neuron])
        r = np.corrcoef(result.predictions[:, :, neuron][seen], result.targets[:, :, neuron][seen])[0, 1]
        assert scores.per_neuron[neuron] == pytest.approx(r, abs=1e-4)


def test_of_a_single_window_the_visible_neurons_are_not_scored(model):
    task = evaluate(model, record(), "population", max_windows=1, progress=False)["population"]
    assert np.isnan(task.per_neuron).sum() == 3 and np.isfinite(task.score)
    assert task.score == pytest.approx(np.nanmean(task.per_neuron), abs=1e-6)
    assert "a target in none of these few windows, not scored: 3" in task.notes[0]
    assert not any("do not vary" in note for note in task.notes)


def test_orders_are_each_others_inverse():
    values = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    ids = torch.tensor([[2, 0, 3, 1], [1, 2, 0, 3]])
    assert torch.equal(in_file_order(in_order(values, ids), ids, 4), values)
    part = in_file_order(in_order(values, ids)[:, :, 1:], ids[:, 1:], 4)
    assert part[0, :, 2].isnan().all() and part[1, :, 1].isnan().all() and int(part.isnan().sum()) == 6
