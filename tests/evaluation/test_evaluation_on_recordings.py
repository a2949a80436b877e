"""A real model on a simulated recording: scores, ceiling and predictions agree with each other and with the model."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from omnimouse.evaluation import evaluate, predict, write_report
from omnimouse.evaluation.rotation import Rotation
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.masks import TASKS
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.recordings import Windows
from omnimouse.recordings.simulation.simulated import correlation_ceiling, load_truth, simulate_recording

SILENT = {"progress": False}


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return simulate_recording(tmp_path_factory.mktemp("simulated") / "mouse", seed=3, n_neurons=24, minutes=1.0)


@pytest.fixture(scope="module")
def model(recording):
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny"))
    model.add_session(recording)
    return model


@pytest.fixture(scope="module")
def scores(model, recording):
    return evaluate(model, recording, tier="train", max_windows=5, batch_size=2, **SILENT)


def test_every_task_is_scored(scores):
    assert [*scores.tasks, *scores.left_out] == list(TASKS)
    for task in scores.tasks.values():
        assert task.n_windows == 5
        assert (task.score is None) == (task.per_neuron is None) == (task.response_loss is None)
        assert task.score is not None or task.behavior


def test_losses_are_those_of_the_model(model, recording, scores):
    windows = Windows(recording, "train", stride=30, processor=OmniMouseProcessor("strict"))
    indices = np.linspace(0, len(windows) - 1, 5).round().astype(int).tolist()
    model.eval()
    with torch.inference_mode():
        for name, task in scores.tasks.items():
            rotation = Rotation.of(TASKS[name], recording.session_key, recording.n_neurons, recording.unit_ids)
            ids = None if rotation is None else rotation.neuron_ids(windows.starts[indices])
            batch = windows.batch(indices)
            output = model(recording.session_key, **batch, mask=name, neuron_ids=ids, all_neurons=ids is None)
            if task.score is not None:
                assert task.response_loss == pytest.approx(output.response_loss.item(), rel=1e-5)
            if task.behavior:
                assert task.behavior_loss == pytest.approx(output.behavior_loss.item(), rel=1e-5)


def test_ceilings_are_those_of_the_truth(recording, scores):
    windows = Windows(recording, "train", stride=30, processor=OmniMouseProcessor("strict"))
    indices = np.linspace(0, len(windows) - 1, 5).round().astype(int)
    rows = np.concatenate([windows.response_indices(int(i))[30:] for i in indices])
    expected = correlation_ceiling(load_truth(recording), recording.responses.data, rows)
    for name in ("given_stimulus_and_behavior", "given_everything"):
        found = scores["stimulus"].ceilings[name].per_neuron
        np.testing.assert_allclose(found, getattr(expected, name), atol=1e-5)


def test_the_ceiling_of_a_part_of_the_population_is_that_of_the_windows_in_which_a_neuron_is_hidden(recording, scores):
    windows = Windows(recording, "train", stride=30, processor=OmniMouseProcessor("strict"))
    indices = np.linspace(0, len(windows) - 1, 5).round().astype(int)
    rotation = Rotation.of(TASKS["population"], recording.session_key, 24, recording.unit_ids)
    hidden = rotation.neuron_ids(windows.starts[indices])[:, 6:].tolist()
    expected, recorded = load_truth(recording).given_everything, recording.responses.data
    for neuron in range(24):
        rows = [windows.response_indices(int(i))[30:] for i, ids in zip(indices, hidden, strict=True) if neuron in ids]
        r = np.corrcoef(expected[np.concatenate(rows), neuron], recorded[np.concatenate(rows), neuron])[0, 1]
        assert scores["population"].ceiling.per_neuron[neuron] == pytest.approx(r, abs=1e-5)


def test_predictions_reproduce_the_score(model, recording):
    task = "forecasting+stimulus"
    score = evaluate(model, recording, task, "train", **SILENT)[task]
    result = predict(model, recording, task, tier="train", **SILENT)
    pairs = zip(result.predictions.reshape(-1, 24).T, result.targets.reshape(-1, 24).T, strict=True)
    expected = [np.corrcoef(x.astype(float), y.astype(float))[0, 1] for x, y in pairs]
    np.testing.assert_allclose(score.per_neuron, expected, atol=1e-5)
    assert result.neuron_ids.tolist() == recording.unit_ids.tolist()


def test_scaled_targets_are_the_recorded_values(model, recording):
    result = predict(model, recording, "stimulus", tier="train", max_windows=2, **SILENT)
    windows = Windows(recording, "train", stride=30, processor=OmniMouseProcessor("strict"))
    recorded = recording.responses.data[windows.response_indices(1)[30:]]
    np.testing.assert_allclose(result.targets[1] * result.response_scale, recorded, rtol=1e-5)


def test_part_of_the_population_has_the_predictions_of_its_neurons(recording):
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", max_population=10))
    model.add_session(recording)
    part = predict(model, recording, "stimulus", tier="train", max_windows=2, all_neurons=False, **SILENT)
    whole = predict(model, recording, "stimulus", tier="train", max_windows=2, **SILENT)
    assert part.neuron_index.tolist() == list(range(10))
    # Stimulus alone: no neuron's prediction depends on another's responses.
    np.testing.assert_allclose(part.predictions, whole.predictions[..., :10], atol=1e-5)


def test_report_of_a_real_evaluation(model, recording, scores, tmp_path):
    shown = predict(model, recording, "stimulus", tier="train", max_windows=4, **SILENT)
    text = write_report(tmp_path / "report.html", title="t", scores=scores, predictions=shown).read_text()
    assert text.count("<img") == 2 + sum(task.score is not None for task in scores.tasks.values())


def test_video_is_encoded_once_per_window_and_scores_are_those_of_each_task_alone(model, recording, monkeypatch):
    """Tasks with the same frames share features, where they are put to the same windows; no bit changes by it."""
    late = {"frames_start": 30, "n_frames": 30}
    masks = {name: TASKS[name] for name in ("stimulus", "population", "forecasting+stimulus+behavior")}
    masks |= {"again": TASKS["stimulus"], "late": replace(TASKS["stimulus"], **late)}
    masks |= {"behavior": TASKS["behavior+stimulus"], "late too": replace(TASKS["behavior+stimulus"], **late)}
    real, encode, forward = Windows.batch, OmniMouseModel.encode_video, OmniMouseModel.forward
    encoded, asked = [], []

    def spoiled(windows, indices):
        """The second window has no behaviour, the third no video."""
        batch = real(windows, indices)
        for row, index in enumerate(indices):
            if index in (2, 5):
                batch["behavior" if index == 2 else "video"][row] = torch.nan
        return batch

    def counted(self, video, mask):
        encoded.append(len(video))
        return encode(self, video, mask)

    def noted(self, session, *args, **kwargs):
        asked.append(kwargs["mask"])
        return forward(self, session, *args, **kwargs)

    monkeypatch.setattr(Windows, "batch", spoiled)
    monkeypatch.setattr(OmniMouseModel, "encode_video", counted)
    monkeypatch.setattr(OmniMouseModel, "forward", noted)
    settings = {"tier": "train", "max_windows": 6, "batch_size": 3, "stride": 3, **SILENT}
    monkeypatch.setattr(Windows, "__len__", lambda windows: 6)
    with pytest.warns(UserWarning, match="windows with NaN left out"):
        together = evaluate(model, recording, masks, **settings)
    # Two batches; both kinds of frames of all windows, and those of fewer where a task needs behaviour that is NaN.
    assert encoded == [3, 2, 3, 2, 2]
    assert len(asked) == 2 * 6
    for name, mask in masks.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = evaluate(model, recording, {name: mask}, **settings)
        assert alone.to_dict()["tasks"][name] == together.to_dict()["tasks"][name]
