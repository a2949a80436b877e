"""Aligned predictions: values, times, neuron ids, files."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from omnimouse.evaluation import Predictions, evaluate, predict
from omnimouse.model.masking.masks import TASKS, Mask

SILENT = {"progress": False}


def test_responses_are_aligned_with_times_and_neurons(fakes):
    mask = replace(TASKS["population+stimulus"], n_visible_neurons=20, n_target_neurons=60)
    result = predict(fakes.model, fakes.recording, mask, batch_size=3, **SILENT)
    windows = fakes.windows[0]
    first = 20
    targets = windows.data["responses"][:, 30:, first:]
    np.testing.assert_array_equal(result.targets, targets.numpy())
    np.testing.assert_allclose(result.predictions, fakes.model.response(targets).numpy(), rtol=1e-6)
    assert result.predictions.dtype == result.targets.dtype == np.float32
    assert result.times.dtype == np.float64
    np.testing.assert_array_equal(result.window_starts, windows.starts)
    np.testing.assert_array_equal(result.times, windows.starts[:, None] + np.arange(30, 60) / 30)
    assert result.neuron_index.tolist() == list(range(first, 80))
    assert result.neuron_ids.tolist() == list(range(1000 + first, 1080))
    assert fakes.model.training


def test_default_stride_tiles_time_once(fakes):
    assert predict(fakes.model, fakes.recording, "forecasting", **SILENT).times.shape == (7, 30)
    assert fakes.windows[-1].arguments["stride"] == 30
    times = predict(fakes.model, fakes.recording, "forecasting", **SILENT).times
    np.testing.assert_allclose(np.diff(times.ravel()), 1 / 30, atol=1e-6)
    predict(fakes.model, fakes.recording, "behavior+stimulus", **SILENT)
    assert fakes.windows[-1].arguments["stride"] == 60
    predict(fakes.model, fakes.recording, "forecasting", stride=7, **SILENT)
    assert fakes.windows[-1].arguments["stride"] == 7


def test_scale_converts_back_to_recorded_units(fakes):
    result = predict(fakes.model, fakes.recording, "forecasting", processor=fakes.processor, **SILENT)
    _, stds = fakes.recording.statistics("responses")
    np.testing.assert_array_equal(result.response_scale, fakes.processor.floored_response_stds(stds))


def test_behavior_has_times_and_names(fakes):
    result = predict(fakes.model, fakes.recording, "behavior+stimulus", **SILENT)
    windows = fakes.windows[0]
    assert result.predictions is result.targets is result.times is result.neuron_ids is None
    np.testing.assert_array_equal(result.behavior_targets, windows.data["behavior"].numpy())
    expected = fakes.model.behavior(windows.data["behavior"]).numpy()
    np.testing.assert_allclose(result.behavior_predictions, expected, rtol=1e-6)
    np.testing.assert_array_equal(result.behavior_times, windows.starts[:, None] + np.arange(40) / 20)
    assert list(result.behavior_channels) == fakes.model.config.behavior_channels


def test_positions_without_prediction_are_nan(fakes):
    mask = Mask(
        None, 0, 40, context_start=0, context_length=40, n_target_neurons=None,
        target_start=30, target_length=30,
    )  # fmt: skip
    result = predict(fakes.model, fakes.recording, mask, **SILENT)
    assert result.task == "mask 1"
    valid = mask.resolve(80, fakes.model.config).target_mask
    np.testing.assert_array_equal(np.isnan(result.predictions), np.broadcast_to(~valid, result.predictions.shape))


def test_results_print_as_what_they_hold_and_not_as_all_their_numbers(fakes):
    result = predict(fakes.model, fakes.recording, "stimulus", **SILENT)
    assert f"predictions {[len(result.times), 30, 80]}" in repr(result) and len(repr(result)) < 500
    scores = evaluate(fakes.model, fakes.recording, "stimulus", **SILENT)
    assert repr(scores) == scores.table() and "array" not in repr(scores["stimulus"])


def test_windows_with_nan_are_left_out(fakes):
    def spoil(windows):
        windows.data["video"][[0, 5]] = math.nan

    fakes.spoil = spoil
    with pytest.warns(UserWarning, match="task 'stimulus': 2 of 7 windows left out: NaN"):
        result = predict(fakes.model, fakes.recording, "stimulus", batch_size=2, **SILENT)
    kept = [1, 2, 3, 4, 6]
    assert result.n_windows_left_out == 2
    np.testing.assert_array_equal(result.window_starts, fakes.windows[0].starts[kept])
    np.testing.assert_array_equal(result.behavior_targets, fakes.windows[0].data["behavior"][kept].numpy())
    fakes.spoil = lambda windows: windows.data["video"].fill_(math.nan)
    with pytest.raises(ValueError, match=r"nothing to predict .*7 of 7 windows left out"):
        predict(fakes.model, fakes.recording, "stimulus", **SILENT)


def test_part_of_a_large_population(fakes):
    fakes.model.config.max_population = 50
    result = predict(fakes.model, fakes.recording, "forecasting", all_neurons=False, max_windows=2, **SILENT)
    assert result.neuron_index.tolist() == list(range(50))
    np.testing.assert_array_equal(result.targets, fakes.windows[0].data["responses"][:2, 30:, :50].numpy())
    np.testing.assert_array_equal(result.window_starts, fakes.windows[0].starts[:2])


@pytest.mark.parametrize("task", ["stimulus", "behavior+stimulus"])
def test_file_round_trip(fakes, tmp_path, task):
    path = tmp_path / "new" / "out.npz"
    result = predict(fakes.model, fakes.recording, task, output=path, **SILENT)
    assert [file.name for file in path.parent.iterdir()] == ["out.npz"]
    loaded = Predictions.load(path)
    for name, value in vars(result).items():
        stored = getattr(loaded, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(stored, value)
            assert stored.dtype == value.dtype
        else:
            assert stored == value


def test_without_unit_ids_positions_are_the_ids(fakes, tmp_path):
    fakes.recording.unit_ids = None
    result = predict(fakes.model, fakes.recording, "forecasting", **SILENT)
    assert result.neuron_ids.tolist() == list(range(80))
    np.load(result.save(tmp_path / "out.npz"), allow_pickle=False)["neuron_ids"]


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="does not hold predictions: found arrays a, expected"):
        Predictions.load(tmp_path / "other.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"is no \.npz file"):
        Predictions.load(tmp_path / "array.npy")


def test_a_damaged_file_is_refused(fakes, tmp_path):
    path = predict(fakes.model, fakes.recording, "forecasting", **SILENT).save(tmp_path / "out.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"out\.npz is damaged \(Bad CRC"):
        Predictions.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tier": "nights"}, "no trials of tier 'nights'"),
        ({"task": "dreaming"}, "Unknown task 'dreaming'"),
        ({"max_windows": 0}, "max_windows is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"max_windows": 1.5}, "max_windows is 1.5; expected a whole number"),
        ({"stride": "8"}, "stride is '8'; expected a whole number"),
        ({"batch_size": "8"}, "batch_size is '8'; expected a whole number"),
        ({"rollout": 1.5}, "rollout is 1.5; expected a whole number"),
        ({"rollout": True}, "rollout is True; expected a whole number"),
        ({"resume": "no"}, "resume is 'no'; expected True or False"),
        ({"session": "9-9-9"}, "session '9-9-9' is not in the model"),
    ],
)
def test_bad_arguments(fakes, arguments, message):
    with pytest.raises(ValueError, match=message):
        predict(fakes.model, fakes.recording, **{"task": "stimulus", **SILENT, **arguments})
    assert torch.is_grad_enabled()
