"""Scoring against slow versions that keep everything, and what happens with bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from omnimouse.evaluation import evaluate
from omnimouse.evaluation.baselines import last_visible_sample
from omnimouse.evaluation.evaluate import spread
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.masks import EVALUATION_MASKS, TASKS, Mask
from omnimouse.model.session_tables.session_specs import hash_unit_ids
from omnimouse.support.tensor_files import hash_tensors

SILENT = {"progress": False}


def correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """np.corrcoef per last index over everything else."""
    pairs = zip(x.reshape(-1, x.shape[-1]).T, y.reshape(-1, y.shape[-1]).T, strict=True)
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])


def poisson_loss(p: torch.Tensor, y: torch.Tensor, *, epsilon: float = 1e-5, clamp: float = 100.0) -> float:
    """The loss over everything, in one expression."""
    return float((p - y * torch.log(p + epsilon)).clamp(-clamp, clamp).mean())


LAST_60 = replace(TASKS["population+stimulus"], n_visible_neurons=20, n_target_neurons=60)
"""Counts in neurons keep file order; fractions, as in the tasks, rotate."""


def test_scores_equal_those_of_everything_kept(fakes):
    masks = {"forecasting": TASKS["forecasting"], "the last 60": LAST_60}
    scores = evaluate(fakes.model, fakes.recording, masks, batch_size=3, **SILENT)
    windows = fakes.windows[0]
    for name, task in scores.tasks.items():
        resolved = masks[name].resolve(80, fakes.model.config)
        targets = windows.data["responses"][:, 30:, resolved.first_target_neuron :]
        expected = correlations(fakes.model.response(targets).double().numpy(), targets.double().numpy())
        np.testing.assert_allclose(task.per_neuron, expected, atol=1e-6)
        assert task.score == pytest.approx(expected.mean(), abs=1e-6)
        assert task.neuron_index.tolist() == list(range(resolved.first_target_neuron, 80))
        assert task.n_windows == 7
        assert task.n_samples == targets.numel() == 7 * 30 * resolved.n_target
    assert windows.most == 3
    assert fakes.model.training


def test_scores_say_which_weights_and_which_named_masks_they_belong_to(fakes):
    tasks = {"stimulus": "stimulus", "population": TASKS["forecasting"], "test/causal_response_25": TASKS["behavior"]}
    scores = evaluate(fakes.model, fakes.recording, tasks, **SILENT)
    assert scores.core_sha256 == scores.to_dict()["core_sha256"] == fakes.model.core_hash()
    assert scores.session_sha256 == hash_tensors(fakes.model.session_state("1-2-3"))
    assert scores.settings["own_masks"] == ["population", "test/causal_response_25"]


def test_scores_with_a_lora_belong_to_core_and_lora_together(fakes):
    plain = evaluate(fakes.model, fakes.recording, "stimulus", **SILENT).core_sha256
    fakes.model.injected_hash = lambda: "1f" * 32
    assert evaluate(fakes.model, fakes.recording, "stimulus", **SILENT).core_sha256 not in (None, plain)


def test_losses_are_means_over_all_samples(fakes):
    numbers = {"response_loss_epsilon": 1e-2, "response_loss_clamp": 1.5, "behavior_loss_clamp": 2.0}
    fakes.model.config = OmniMouseConfig.from_preset("tiny", **numbers)
    task = evaluate(fakes.model, fakes.recording, "stimulus", batch_size=4, **SILENT)["stimulus"]
    windows = fakes.windows[0]
    resolved = TASKS["stimulus"].resolve(80, fakes.model.config)
    y = windows.data["responses"][:, 30:, resolved.first_target_neuron :].double()
    p = fakes.model.response(y.float()).double()
    mean = torch.tensor(fakes.means)[resolved.first_target_neuron :].expand_as(y)
    assert task.response_loss == pytest.approx(poisson_loss(p, y, epsilon=1e-2, clamp=1.5), rel=1e-6)
    assert task.response_loss != pytest.approx(poisson_loss(p, y), rel=1e-3)
    baseline = task.baselines["training_mean"]
    assert baseline.response_loss == pytest.approx(poisson_loss(mean, y, epsilon=1e-2, clamp=1.5), rel=1e-6)
    assert baseline.score == 0.0
    behavior = windows.data["behavior"].double()
    errors = fakes.model.behavior(behavior) - behavior
    assert task.behavior_loss == pytest.approx(float(errors.square().clamp(max=2).mean()))
    assert baseline.behavior_loss == pytest.approx(float(behavior.square().clamp(max=2).mean()))


def test_behavior_counts_all_positions(fakes):
    task = evaluate(fakes.model, fakes.recording, "stimulus", **SILENT)["stimulus"]
    truth = fakes.windows[0].data["behavior"].transpose(1, 2).double().numpy()
    predicted = fakes.model.behavior(fakes.windows[0].data["behavior"]).transpose(1, 2).double().numpy()
    r = correlations(predicted, truth)
    assert list(task.behavior) == fakes.model.config.behavior_channels
    np.testing.assert_allclose(list(task.behavior.values()), r, atol=1e-6)
    groups = {"pupil": r[:2].mean(), "gaze": r[2:4].mean(), "running": r[4]}
    assert task.behavior_groups == pytest.approx(groups, abs=1e-6)


def test_last_visible_sample():
    def last(mask, n_neurons=50):
        return last_visible_sample(mask.resolve(n_neurons, OmniMouseConfig()))

    assert last(TASKS["forecasting"]) == 24
    assert last(TASKS["population"]) is None
    assert last(EVALUATION_MASKS["validation"]["inverse_population_causal_response_video_behavior"], 4096) == 24
    adjoining = {"context_start": 0, "context_length": 60, "n_target_neurons": None, "target_start": 30}
    assert last(Mask(None, 0, 30, **adjoining, target_length=30, behavior="encoded")) == 29
    assert last(Mask(None, 0, 60, context_start=0, context_length=60, target_start=60, behavior="decoded")) is None


def test_last_visible_value_where_there_is_one(fakes):
    scores = evaluate(fakes.model, fakes.recording, ["forecasting", "population", "stimulus"], **SILENT)
    resolved = TASKS["forecasting"].resolve(80, fakes.model.config)
    data = fakes.windows[0].data["responses"].double().numpy()
    last = np.repeat(data[:, last_visible_sample(resolved)][:, None], 30, axis=1)
    held = scores["forecasting"].baselines["last_visible_value"]
    np.testing.assert_allclose(held.per_neuron, correlations(last, data[:, 30:]), atol=1e-6)
    assert held.score == pytest.approx(held.per_neuron.mean())
    assert scores["population"].baselines["last_visible_value"] is None
    assert scores["stimulus"].baselines["last_visible_value"] is None


def test_ceilings_read_the_rows_the_windows_read(fakes):
    rng = np.random.default_rng(1)
    fakes.truth = SimpleNamespace(
        given_stimulus_and_behavior=rng.random((300, 80)).astype(np.float32),
        given_everything=rng.random((300, 80)).astype(np.float32),
    )
    scores = evaluate(fakes.model, fakes.recording, ["stimulus", "forecasting"], batch_size=3, **SILENT)
    windows = fakes.windows[0]
    rows = np.stack([windows.response_indices(i)[30:] for i in range(7)])
    first = TASKS["stimulus"].resolve(80, fakes.model.config).first_target_neuron
    recorded = windows.data["responses"][:, 30:, first:].double().numpy()
    task = scores["stimulus"]
    expected = correlations(fakes.truth.given_stimulus_and_behavior[rows][..., first:].astype(float), recorded)
    np.testing.assert_allclose(task.ceiling.per_neuron, expected, atol=1e-6)
    assert task.ceiling.median == pytest.approx(np.median(expected), abs=1e-6)
    assert task.ceiling_name == "given_stimulus_and_behavior"
    assert scores["forecasting"].ceiling_name == "given_everything"
    assert scores["forecasting"].ceiling is scores["forecasting"].ceilings["given_everything"]
    for task in scores.tasks.values():
        if task.ceiling.score > 0:
            assert task.fraction_of_ceiling == pytest.approx(task.score / task.ceiling.score)


def test_baselines_and_ceilings_count_the_scored_samples_of_usable_windows_alone(fakes):
    """The target begins with five samples that the guard takes out, and one window in the middle of a batch is NaN."""
    fakes.spoil = lambda windows: windows.data["responses"][1, 40].fill_(math.nan)
    rng = np.random.default_rng(1)
    truth = {name: rng.random((300, 80)) for name in ("given_stimulus_and_behavior", "given_everything")}
    fakes.truth = SimpleNamespace(**truth)
    mask = Mask(
        None, 0, 25, context_start=0, context_length=25, n_target_neurons=None,
        target_start=25, target_length=35,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="mask 1: 1"):
        task = evaluate(fakes.model, fakes.recording, [mask], batch_size=3, **SILENT)["mask 1"]
    windows, usable = fakes.windows[0], [0, 2, 3, 4, 5, 6]
    y = windows.data["responses"][usable, 30:].double()
    last = windows.data["responses"][usable, 24:25].double().expand_as(y)
    held = task.baselines["last_visible_value"]
    np.testing.assert_allclose(held.per_neuron, correlations(last.numpy(), y.numpy()), atol=1e-6)
    assert held.response_loss == pytest.approx(poisson_loss(last, y), rel=1e-6)
    mean = torch.tensor(fakes.means).expand_as(y)
    assert task.baselines["training_mean"].response_loss == pytest.approx(poisson_loss(mean, y), rel=1e-6)
    rows = np.stack([windows.response_indices(i)[30:] for i in usable])
    for name, expected in truth.items():
        np.testing.assert_allclose(task.ceilings[name].per_neuron, correlations(expected[rows], y.numpy()), atol=1e-6)


@pytest.mark.parametrize(
    ("n_windows", "most", "expected"),
    [(8, 4, [0, 2, 5, 7]), (10, 1, [0]), (3, 3, [0, 1, 2]), (3, 9, [0, 1, 2]), (3, None, [0, 1, 2])],
)
def test_windows_are_spread_from_the_first_to_the_last(n_windows, most, expected):
    assert spread(n_windows, most) == expected


def test_all_lists_the_tasks_a_population_cannot_serve(fakes):
    fakes.model.spec.n_neurons = fakes.recording.n_neurons = 40
    fakes.recording.unit_ids = None
    fakes.means = np.ones(40)
    impossible = []
    for name, mask in TASKS.items():
        try:
            mask.resolve(40, fakes.model.config)
        except ValueError:
            impossible.append(name)
    scores = evaluate(fakes.model, fakes.recording, **SILENT)
    assert list(scores.left_out) == impossible
    assert list(scores.tasks) == [name for name in TASKS if name not in impossible]


def test_unscored_positions_of_a_mask_are_skipped(fakes):
    mask = Mask(
        None, 0, 40, context_start=0, context_length=40, n_target_neurons=None,
        target_start=30, target_length=30,
    )  # fmt: skip
    resolved = mask.resolve(80, fakes.model.config)
    assert 0 < resolved.target_mask.sum() < resolved.target_mask.size
    task = evaluate(fakes.model, fakes.recording, [mask], **SILENT)["mask 1"]
    assert task.n_samples == 7 * resolved.target_mask.sum()
    keep = resolved.target_mask.any(axis=1)
    y = fakes.windows[0].data["responses"][:, 30:]
    expected = correlations(fakes.model.response(y)[:, keep].double().numpy(), y[:, keep].double().numpy())
    np.testing.assert_allclose(task.per_neuron, expected, atol=1e-6)


def test_windows_with_nan_are_left_out_counted_and_told(fakes):
    def spoil(windows):
        windows.data["video"][2] = math.nan
        windows.data["behavior"][4, 1, 3] = math.nan

    fakes.spoil = spoil
    with pytest.warns(UserWarning, match="windows with NaN left out, of 7: stimulus: 1, stimulus\\+behavior: 2"):
        scores = evaluate(fakes.model, fakes.recording, ["stimulus", "stimulus+behavior", "population"], **SILENT)
    counts = {name: (t.n_windows, t.n_windows_left_out, t.n_behavior_windows) for name, t in scores.tasks.items()}
    assert counts == {"stimulus": (6, 1, 5), "stimulus+behavior": (5, 2, 0), "population": (7, 0, 6)}
    assert not math.isnan(scores["stimulus"].behavior["pupil_size_derivative"])
    assert "1 of 7 windows left out: NaN in what the task needs (responses, video)" in scores.table()
    assert "population: behaviour scored in 6 of 7 windows" in scores.table()
    y = fakes.windows[0].data["responses"][[0, 1, 3, 4, 5, 6], 30:]
    y = y[..., TASKS["stimulus"].resolve(80, fakes.model.config).first_target_neuron :]
    expected = correlations(fakes.model.response(y).double().numpy(), y.double().numpy())
    np.testing.assert_allclose(scores["stimulus"].per_neuron, expected, atol=1e-6)


def test_nan_everywhere_is_an_error(fakes):
    fakes.spoil = lambda windows: windows.data["video"].fill_(math.nan)
    with pytest.raises(ValueError, match=r"no task could be scored .* stimulus: 7 of 7 windows left out: NaN .*video"):
        evaluate(fakes.model, fakes.recording, "stimulus", **SILENT)


def test_silent_neuron_counts_as_zero_and_is_told(fakes):
    fakes.spoil = lambda windows: windows.data["responses"][..., 70].zero_()
    task = evaluate(fakes.model, fakes.recording, "forecasting", **SILENT)["forecasting"]
    assert np.flatnonzero(np.isnan(task.per_neuron)).tolist() == [70]
    assert task.score == pytest.approx(np.nansum(task.per_neuron) / 80)
    assert any("counted as 0: 1" in note for note in task.notes)


def test_without_training_trials_the_mean_is_unknown(fakes):
    fakes.recording.tiers = ("final_test",)
    task = evaluate(fakes.model, fakes.recording, "stimulus", **SILENT)["stimulus"]
    assert task.baselines["training_mean"].response_loss is None
    assert any("no trials of tier 'train'" in note for note in task.notes)


def test_max_windows_are_spread_evenly(fakes):
    task = evaluate(fakes.model, fakes.recording, "forecasting", max_windows=3, batch_size=1, **SILENT)["forecasting"]
    assert task.n_windows == 3
    seen = torch.cat([call["responses"] for call in fakes.model.calls])
    torch.testing.assert_close(seen, fakes.windows[0].data["responses"][[0, 3, 6]])


def test_only_what_a_task_needs_is_passed(fakes):
    evaluate(fakes.model, fakes.recording, ["forecasting", "behavior+stimulus", "stimulus+behavior"], **SILENT)
    given = [{k for k in ("responses", "video", "behavior") if call[k] is not None} for call in fakes.model.calls]
    for mask_call, parts in zip(fakes.model.calls, given, strict=True):
        resolved = mask_call["mask"].resolve(80, fakes.model.config)
        assert ("video" in parts) == resolved.shows_video
        assert ("behavior" in parts) == (resolved.encodes_behavior or resolved.decodes_behavior)


def test_arguments_reach_the_windows(fakes):
    evaluate(
        fakes.model,
        fakes.recording,
        "stimulus",
        "train",
        stride=60,
        include_blanks=False,
        processor=fakes.processor,
        **SILENT,
    )
    expected = {"tiers": ("train",), "stride": 60, "include_blanks": False, "processor": fakes.processor}
    assert fakes.windows[0].arguments == expected


def test_default_processor_is_strict(fakes):
    evaluate(fakes.model, fakes.recording, "stimulus", **SILENT)
    assert fakes.windows[0].arguments["processor"].profile == "strict"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tier": "nights"}, "no trials of tier 'nights'; its tiers are train, final_test"),
        ({"tasks": "dreaming"}, "dreaming"),
        ({"tasks": []}, "tasks is empty"),
        ({"stride": 0}, "stride is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_windows": 0}, "max_windows is 0"),
        ({"cache_video": "no"}, "cache_video is 'no'; expected True or False"),
        ({"session": "9-9-9"}, r"session '9-9-9' is not in the model \(its sessions: 1-2-3\).*add_session"),
    ],
)
def test_bad_arguments(fakes, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(fakes.model, fakes.recording, **{"tasks": "stimulus", **arguments}, **SILENT)
    assert fakes.model.training


def test_recording_of_another_session_is_refused(fakes):
    with pytest.raises(ValueError, match="has 80 neurons, but session '1-2-3' in the model has 79"):
        evaluate(fakes.Model(79), fakes.recording, "stimulus", **SILENT)
    fakes.model.spec.unit_ids_hash = hash_unit_ids(fakes.recording.unit_ids[::-1])
    with pytest.raises(ValueError, match=r"unit ids .* others or in another order"):
        evaluate(fakes.model, fakes.recording, "stimulus", **SILENT)


def test_no_window_says_why(fakes):
    fakes.n_windows = 0
    with pytest.raises(ValueError, match="no window of tier 'final_test': 12 starts: 12 lost to the tier"):
        evaluate(fakes.model, fakes.recording, "stimulus", **SILENT)


def test_impossible_task_asked_for_by_name_is_an_error(fakes):
    mask = Mask(
        None, 30, 30, context_start=30, context_length=30, n_target_neurons=None,
        target_start=30, target_length=30,
    )  # fmt: skip
    with pytest.raises(ValueError, match="task 'mine' cannot be scored: Nothing to predict"):
        evaluate(fakes.model, fakes.recording, {"mine": mask}, **SILENT)


def test_scores_as_table_dict_and_file(fakes, tmp_path):
    fakes.spoil = lambda windows: windows.data["responses"][..., 70].zero_()
    scores = evaluate(fakes.model, fakes.recording, ["forecasting", "behavior+stimulus"], **SILENT)
    lines = scores.table().splitlines()
    assert lines[0] == "1-2-3: tier final_test, 80 neurons"
    assert lines[3].startswith("forecasting ")
    assert f"{scores['forecasting'].score:.3f}" in lines[3]
    path = scores.save(tmp_path / "new" / "scores.json")
    stored = json.loads(path.read_text())
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]
    assert stored == json.loads(json.dumps(scores.to_dict()))
    task = stored["tasks"]["forecasting"]
    assert task["score"] == scores["forecasting"].score
    assert task["per_neuron"][70] is None
    assert len(task["baselines"]["last_visible_value"]["per_neuron"]) == 80
    small = scores.to_dict(per_neuron=False)["tasks"]["forecasting"]
    assert "per_neuron" not in small and "per_neuron" not in small["baselines"]["last_visible_value"]
    with pytest.raises(ValueError, match="no score for task 'stimulus'; scored: forecasting, behavior\\+stimulus"):
        scores["stimulus"]


def test_behaviour_that_does_not_vary_is_told(fakes):
    fakes.spoil = lambda windows: windows.data["behavior"][:, 4].zero_()
    task = evaluate(fakes.model, fakes.recording, "stimulus", **SILENT)["stimulus"]
    assert math.isnan(task.behavior["running_speed"]) and math.isnan(task.behavior_groups["running"])
    assert any(note.startswith("no correlation for running_speed,") for note in task.notes)


def test_fewer_windows_at_a_time_where_they_would_take_too_much_memory(fakes, monkeypatch):
    most = {}
    for bound in (1 << 30, 1):
        monkeypatch.setattr("omnimouse.model.kernels.row_pieces.WHOLE_BYTES", {"cpu": bound})
        evaluate(fakes.model, fakes.recording, "forecasting", batch_size=5, **SILENT)
        most[bound] = fakes.windows[-1].most
    assert most == {1 << 30: 5, 1: 1}
