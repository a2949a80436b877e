"""Recordings that lack video, behaviour or channels of it: every task, adapted, scored and predicted."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from small_models import SMALLEST

from omnimouse import (
    TASKS,
    OmniMouseConfig,
    OmniMouseModel,
    evaluate,
    finetune,
    open_recording,
    predict,
    recording_from_arrays,
    save_recording,
    train,
)
from omnimouse.cli.main import main
from omnimouse.evaluation import Scores
from omnimouse.evaluation.report import write_report
from omnimouse.model.masking.mask_fitting import NotRecordedError, fit_mask
from omnimouse.model.masking.masks import TRAINING_MASKS, Mask
from omnimouse.pretrained.measured import measured_scores
from omnimouse.training.pretraining.corpus_recordings import find_sessions
from omnimouse.training.pretraining.pretraining_recipe import RecordingsRecipe

N_NEURONS, SECONDS, RATE = 12, 40, 30
KINDS = {
    "nothing": (),
    "video": ("video",),
    "running": ("running_speed",),
    "pupil": ("pupil_size",),
    "all": ("video", "pupil_size", "gaze_x", "gaze_y", "running_speed"),
}
BEHAVIOR = {"video": (), "running": ("running_speed",), "pupil": ("pupil_size", "pupil_size_derivative")}
QUICK = {"steps": 1, "batch_size": 1, "max_validation_windows": 1, "validate_every": 1, "cpu": True, "progress": False}
CONFIG = OmniMouseConfig.from_preset("tiny", **SMALLEST)


def record(kind: str, key: str = "half-1-1", n_neurons: int = N_NEURONS):
    """A recording of 40 s with nothing but responses and what its kind says."""
    generator = np.random.default_rng(5)
    samples = SECONDS * RATE
    signals = {name: generator.normal(size=samples) for name in KINDS[kind] if name != "video"}
    video = generator.integers(0, 256, (samples, 36, 64), dtype=np.uint8) if "video" in KINDS[kind] else None
    return recording_from_arrays(
        generator.gamma(0.5, size=(samples, n_neurons)), RATE, video=video, behavior=signals or None,
        trials=[(0, 20, "train"), (20, 30, "validation"), (30, 40, "final_test")], session_key=key,
    )  # fmt: skip


@pytest.fixture(scope="module")
def half_mice():
    """Kind -> (recording, a model that knows its session)."""
    torch.manual_seed(0)
    mice = {}
    for kind in KINDS:
        recording, model = record(kind), OmniMouseModel(CONFIG)
        finetune(model, recording, **QUICK)
        mice[kind] = recording, model
    return mice


def lacks(kind: str, task: str) -> str | None:
    """What is missing for a task, None where it fits."""
    family, *shown = task.split("+")
    needs = {"stimulus"} & {family, *shown} | ({"behavior"} & {family, *shown})
    there = {"stimulus"} if "video" in KINDS[kind] else set()
    there |= {"behavior"} if set(KINDS[kind]) - {"video"} else set()
    missing = sorted(needs - there, reverse=True)
    reasons = {"stimulus": "this recording has no video", "behavior": "this recording has no behavior"}
    return reasons[missing[0]] if missing else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_trained_scored_and_predicted_or_says_what_is_missing(half_mice, kind, task):
    recording, model = half_mice[kind]
    quick = {"max_windows": 2, "progress": False}
    missing = lacks(kind, task)
    calls = {
        "finetune": lambda: finetune(model, recording, masks=[task], **QUICK),
        "evaluate": lambda: evaluate(model, recording, task, **quick),
        "predict": lambda: predict(model, recording, task, **quick),
    }
    if missing:
        for name, call in calls.items():
            with pytest.raises(ValueError, match=missing) as refused:
                call()
            assert "population of" not in str(refused.value) or name == "finetune"
        return
    result = calls["finetune"]()
    assert np.isfinite(result.best_validation_loss) and result.left_out_masks == {}
    score = calls["evaluate"]()[task]
    responses = task.split("+")[0] != "behavior"
    assert (score.score is not None) == responses and score.n_windows == 2
    decodes = "behavior" not in task.split("+")[1:] and bool(set(KINDS[kind]) - {"video"})
    assert (score.behavior_loss is not None) == decodes
    predictions = calls["predict"]()
    assert (predictions.predictions is not None) == responses
    assert (predictions.behavior_predictions is not None) == decodes
    if decodes and kind in BEHAVIOR:
        assert tuple(score.behavior) == BEHAVIOR[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_all_tasks_are_those_that_fit_and_the_others_say_what_is_missing(half_mice, kind, tmp_path):
    recording, model = half_mice[kind]
    scores = evaluate(model, recording, max_windows=2, progress=False)
    assert set(scores.tasks) == {task for task in TASKS if not lacks(kind, task)}
    assert set(scores.left_out) == set(TASKS) - set(scores.tasks)
    for task, reason in scores.left_out.items():
        assert lacks(kind, task) in reason and "neurons" not in reason
    has_behavior = bool(set(KINDS[kind]) - {"video"})
    assert ("no behavior, so none is decoded" in scores.table()) == (not has_behavior)
    assert scores.settings["own_masks"] == []
    saved = Scores.load(scores.save(tmp_path / "scores.json"))
    if kind == "nothing":
        shown = predict(model, recording, "forecasting", max_windows=2, progress=False)
        write_report(tmp_path / "report.html", title="Half", scores=saved, predictions=shown)
    on_a_card = {score.task for score in measured_scores(saved)}
    assert on_a_card == set(scores.tasks)


def test_a_list_is_scored_without_the_tasks_that_need_what_is_missing(half_mice):
    recording, model = half_mice["video"]
    tasks = ["forecasting+behavior", "stimulus", "behavior"]
    scores = evaluate(model, recording, tasks, max_windows=1, progress=False)
    assert list(scores.tasks) == ["stimulus"] and list(scores.left_out) == ["forecasting+behavior", "behavior"]
    with pytest.raises(ValueError, match="'behavior': it predicts nothing but behavior, and this recording has no beh"):
        evaluate(model, recording, tasks[::2], progress=False)
    result = finetune(model, recording, masks=tasks, **QUICK)
    assert set(result.left_out_masks) == set(tasks[::2]) and result.history[0]["mask"] == "stimulus"
    with pytest.warns(UserWarning, match=r"not validated on behavior: it predicts nothing but behavior"):
        finetune(model, recording, validation_tasks=tasks[1:], **QUICK)


def test_validation_goes_without_what_is_missing(half_mice):
    expected = {
        "nothing": {"forecasting", "population"},
        "video": {"forecasting+stimulus", "population+stimulus", "stimulus"},
        "running": {"forecasting+behavior", "population+behavior", "behavior"},
        "all": {
            "forecasting+stimulus+behavior",
            "population+stimulus+behavior",
            "stimulus+behavior",
            "behavior+stimulus",
        },
    }
    for kind, tasks in expected.items():
        recording, model = half_mice[kind]
        assert set(finetune(model, recording, **QUICK).history[0]["validation_losses"]) == tasks


def test_neurons_are_matched_only_where_something_predicts_them(half_mice):
    _, model = half_mice["nothing"]
    other = record("nothing", "other-1-1")
    assert finetune(model, other, **QUICK).session == "other-1-1"  # there are neurons to match, and nothing to match by
    model.remove_session("other-1-1")
    with pytest.raises(ValueError, match=r"no video and no behavior\. Pass start_from='mean'"):
        finetune(model, other, start_from="match", **QUICK)


def test_every_training_mask_fits_or_says_what_is_missing():
    for missing in (("video",), ("behavior",), ("video", "behavior")):
        for mask in TRAINING_MASKS:
            try:
                fitted = fit_mask(mask, 4096, CONFIG, missing, go_without=True)
            except NotRecordedError as error:
                assert str(error).startswith(("it shows nothing but", "it predicts nothing but"))
                continue
            assert not (fitted.n_frames and "video" in missing)
            assert fitted.behavior == "absent" or "behavior" not in missing
            assert fitted.prefix_length == mask.prefix_length


def test_a_population_that_is_too_small_is_not_blamed_on_what_is_missing():
    mask = Mask(64, 0, 60, context_start=0, context_length=60, n_target_neurons=32, target_start=30, target_length=30)
    with pytest.raises(ValueError, match="Nothing to predict") as refused:
        fit_mask(mask, 12, CONFIG, ("behavior",))
    assert not isinstance(refused.value, NotRecordedError)
    decoding = Mask(
        64, 0, 60, context_start=0, context_length=60, n_target_neurons=32,
        target_start=30, target_length=30, behavior="decoded",
    )  # fmt: skip
    assert fit_mask(decoding, 12, CONFIG) == decoding
    with pytest.raises(NotRecordedError, match="this recording has no behavior"):
        fit_mask(decoding, 12, CONFIG, ("behavior",))


@pytest.mark.parametrize("kind", ["nothing", "video"])
def test_from_the_shell(kind, tmp_path, capsys):
    folder, core, out = tmp_path / "recording", tmp_path / "core", tmp_path / "out"
    save_recording(record(kind), folder)
    OmniMouseModel(CONFIG).save_pretrained(core)
    plot = ["--plot", str(tmp_path / "plot.png")] if kind == "nothing" else []
    assert main(["check", str(folder), *plot]) == 0
    quick = ["--steps", "1", "--batch-size", "1", "--cpu"]
    assert main(["finetune", str(folder), "--core", str(core), "--output", str(out), *quick]) == 0
    adapter = ["--session-adapter", str(out / "adapter"), "--max-windows", "1", "--cpu"]
    capsys.readouterr()
    assert main(["evaluate", str(folder), *adapter, "--output", str(tmp_path / "scores.json"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores["tasks"]) == {task for task in TASKS if not lacks(kind, task)}
    assert main(["predict", str(folder), *adapter, "--task", "forecasting", "--output", str(tmp_path / "p.npz")]) == 0
    assert main(["predict", str(folder), *adapter, "--task", "behavior+stimulus", "--output", "p.npz"]) == 2
    assert "this recording has no" in capsys.readouterr().err
    assert main(["info", str(out / "adapter")]) == 0


def test_a_corpus_of_whole_and_half_mice_is_trained_and_scored(tmp_path):
    for number, kind in enumerate(("all", "running", "video", "nothing"), 1):
        save_recording(record(kind, f"m{number}-1-1", 8 + number), tmp_path / f"m{number}")
    overrides = SMALLEST
    result = train(
        {
            "output": str(tmp_path / "run"),
            "recordings": {"paths": [str(tmp_path / "m*")]},
            "steps": 8,
            "batch_size": 1,
            "model": {"preset": "tiny", "overrides": overrides},
            "schedule": {"warmup_steps": 2},
            "evaluation": {"every": 8, "masks": ["forecasting", "stimulus", "behavior"], "max_windows": 1},
            "outputs": {"checkpoint_every": 8, "keep_every": None, "log_every": 8, "trackers": []},
            "mixed_precision": "no",
            "cpu": True,
        }
    )
    scored = [row for row in result.history if row["kind"] == "evaluation"][-1]["scores"]
    found = {name: entry["n_sessions"] for name, entry in scored.items()}
    assert found == {"forecasting": 4, "stimulus": 2, "behavior": 2}


def test_a_pattern_finds_half_mice(tmp_path):
    for number, kind in enumerate(("all", "nothing"), 1):
        save_recording(record(kind, f"m{number}-1-1"), tmp_path / f"m{number}")
    (tmp_path / "more").mkdir()  # no session
    assert set(find_sessions(RecordingsRecipe(paths=(str(tmp_path / "m*"),)))) == {"m1-1-1", "m2-1-1"}
    shutil.rmtree(tmp_path / "m1")
    assert open_recording(tmp_path / "m2").animal_id == "m2"
