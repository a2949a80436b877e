"""Targets that the simulator expects in the place of recorded ones."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from omnimouse import OmniMouseConfig, Windows, open_recording, simulate_recording, train
from omnimouse.model.masking.masks import as_mask
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.held_windows import HeldWindows
from omnimouse.recordings.simulation.simulated import load_truth, truth_folder
from omnimouse.training.pretraining.expected_targets import expect_responses

N = 8
CONFIG = OmniMouseConfig.from_preset("tiny")


@pytest.fixture(scope="module")
def mouse(tmp_path_factory):
    path = tmp_path_factory.mktemp("mice") / "m"
    simulate_recording(path, 4, n_neurons=N, minutes=1.5, animal="m")
    return path


@pytest.fixture(scope="module")
def windows(mouse):
    return Windows(open_recording(mouse), "train", 30, processor=OmniMouseProcessor())


def cut(windows, task):
    """Recorded and expected responses of three windows, the truth in the same units, and the neurons."""
    indices = np.array([0, 2, 3])
    rng = np.random.default_rng(0)
    neurons = np.stack([rng.permutation(N) for _ in indices])
    recorded = windows.batch(indices.tolist())["responses"]
    before = recorded.clone()
    expected = expect_responses(recorded, windows, indices, neurons, as_mask(task).resolve(N, CONFIG))
    assert torch.equal(recorded, before)
    held = HeldWindows(windows, recorded.device)
    assert torch.equal(expected, expect_responses(recorded, held, indices, neurons, as_mask(task).resolve(N, CONFIG)))
    recording = windows.recording
    truth = load_truth(recording)
    stds = windows.processor.floored_response_stds(recording.statistics(recording.responses)[1])
    rows = [windows.response_indices(i) for i in indices]
    given = [
        np.stack([array[r] / stds for r in rows])
        for array in (truth.given_stimulus_and_behavior, truth.given_everything)
    ]
    return recorded, expected, given, neurons


@pytest.mark.parametrize("task", ["stimulus", "stimulus+behavior"])
def test_without_visible_responses_all_are_expected_given_stimulus_and_behavior(windows, task):
    recorded, expected, (given_stimulus, _), _ = cut(windows, task)
    assert np.allclose(expected, given_stimulus, rtol=1e-5) and not torch.allclose(expected, recorded)


def test_with_others_visible_the_hidden_ones_are_expected_given_everything(windows):
    recorded, expected, (_, given_everything), neurons = cut(windows, "population+stimulus")
    visible = as_mask("population+stimulus").resolve(N, CONFIG).n_visible
    assert 0 < visible < N
    for row in range(len(neurons)):
        seen, hidden = neurons[row, :visible], neurons[row, visible:]
        assert torch.equal(expected[row][:, seen], recorded[row][:, seen])
        assert np.allclose(expected[row][:, hidden], given_everything[row][:, hidden], rtol=1e-5)


@pytest.mark.parametrize("task", ["forecasting", "forecasting+stimulus+behavior", "behavior"])
def test_neurons_whose_past_is_visible_keep_what_was_recorded(windows, task):
    recorded, expected, _, _ = cut(windows, task)
    assert torch.equal(expected, recorded)


def test_expected_responses_are_the_mean_of_recorded_ones(windows):
    """The optimum is the same: over time, both have the same mean for every neuron."""
    recording = windows.recording
    truth = load_truth(recording)
    mean = np.asarray(recording.responses.data).mean(0)
    spread = np.asarray(recording.responses.data).std(0) / np.sqrt(90)  # samples a second apart
    assert (np.abs(truth.given_stimulus_and_behavior.mean(0) - mean) < 4 * spread).all()


def test_a_run_trains_on_them_and_says_so_in_its_identity(mouse, tmp_path):
    recipe = {
        "output": str(tmp_path / "run"),
        "recordings": {"paths": [str(mouse)], "targets": "expected"},
        "model": {"preset": "tiny", "overrides": {"hidden_size": 32, "num_attention_heads": 2, "identity_size": 8}},
        "masks": {"names": ["stimulus"]},
        "steps": 2,
        "batch_size": 1,
        "schedule": {"warmup_steps": 0},
        "evaluation": {"every": None},
        "outputs": {"trackers": [], "checkpoint_every": 2, "keep_every": None},
        "mixed_precision": "no",
        "cpu": True,
    }
    expected = train(recipe, progress=False).history[-1]["loss"]
    recipe["output"] = str(tmp_path / "other")
    recorded = train(recipe, overrides=["recordings.targets=recorded"], progress=False).history[-1]["loss"]
    assert expected != recorded
    recipe["output"] = str(tmp_path / "run")
    with pytest.raises(ValueError, match=r"recordings\.targets"):
        train(recipe, overrides=["recordings.targets=recorded", "steps=3"], progress=False)


def test_recordings_without_truth_are_refused_before_the_first_step(mouse, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(mouse, bare)
    assert not truth_folder(bare).exists()
    recipe = {"output": str(tmp_path / "run"), "recordings": {"paths": [str(bare)], "targets": "expected"}}
    with pytest.raises(ValueError, match=r"no truth beside it \(bare\.truth\).*recordings\.targets to recorded"):
        train(recipe, overrides=["model.preset=tiny", "cpu=true"], progress=False)
    assert not (tmp_path / "run").exists()
