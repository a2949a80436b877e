"""`train` on one process: results, resuming, refusals, trouble, evaluation, trackers."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from omnimouse import OmniMouseModel, evaluate
from omnimouse.model.kernels import compiled_chains
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.training import load_recipe, train
from omnimouse.training.pretraining import step as pretraining_step
from omnimouse.training.pretraining.setup import build_model
from omnimouse.training.runs.run_folder import RunFolder
from omnimouse.training.runs.trackers import choose_trackers, flat_numbers, log_to

OUTPUTS = {"checkpoint_every": 3, "keep_every": None, "log_every": 2, "trackers": []}


def test_the_result_is_a_model_with_all_sessions(small_recipe, corpus_path, tmp_path):
    result = train(small_recipe(tmp_path / "run"), progress=False)
    assert (result.steps, result.resumed_from, result.n_processes) == (6, None, 1)
    model = OmniMouseModel.from_pretrained(result.model, sessions="all")
    assert model.session_keys == ["a-1-1", "a-3-1", "b-2-1", "b-4-1", "c-5-1"]
    assert model.processor.profile == "strict"
    means = torch.stack([model.session_state(key)["session_embedding"] for key in model.session_keys]).mean(0)
    torch.testing.assert_close(model.identity.initial[1], means)
    assert evaluate(model, corpus_path / "m1", "stimulus", max_windows=1, progress=False)["stimulus"].n_windows == 1
    assert load_recipe(tmp_path / "run" / "recipe.yaml") == load_recipe(small_recipe(tmp_path / "run"))
    row = result.history[-1]
    assert row["step"] == 6 and set(row["losses"]) == {"forecasting", "population", "stimulus", "behavior"}
    assert row["tokens"] > 0 and row["learning_rate"] == {"core": 7e-4, "session": 3e-3}


def test_the_same_call_again_does_nothing_and_more_steps_go_on(small_recipe, tmp_path):
    recipe = small_recipe(tmp_path / "run")
    first = train(recipe, progress=False)
    again = train(recipe, progress=False)
    assert again.resumed_from == 6 and again.history == first.history
    longer = train(recipe, overrides=["steps=8"], progress=False)
    assert (longer.resumed_from, longer.steps) == (6, 8)
    anew = train(recipe, resume=False, progress=False)
    assert anew.resumed_from is None and RunFolder(anew.output).checkpoint_steps() == [3, 6]


def test_another_run_is_refused_with_every_difference(small_recipe, corpus_path, tmp_path):
    train(small_recipe(tmp_path / "run", steps=2), progress=False)
    with pytest.raises(ValueError) as error:
        train(small_recipe(tmp_path / "run"), overrides=["seed=4", "optimizer.core.eps=1e-3"], progress=False)
    assert "seed: 3 in the checkpoint, 4 now" in str(error.value) and "optimizer.core" in str(error.value)
    paths = {"paths": [str(corpus_path / "m1")]}
    with pytest.raises(ValueError, match=r"sessions: \"5 with 50 neurons.*1 with 12 neurons"):
        train(small_recipe(tmp_path / "run", recordings=paths), progress=False)


def test_a_recording_that_changed_is_refused_by_name(small_recipe, corpus_path, tmp_path):
    shutil.copytree(corpus_path, tmp_path / "corpus")
    recordings = {"paths": [str(tmp_path / "corpus" / "m*")]}
    train(small_recipe(tmp_path / "run", steps=2), progress=False)
    assert (
        train(small_recipe(tmp_path / "run", recordings=recordings), overrides=["steps=3"], progress=False).steps == 3
    )
    file = tmp_path / "corpus" / "m2" / "responses" / "data.npy"
    np.save(file, np.load(file) * 2)
    with pytest.raises(
        ValueError, match=r"another run:\n  responses of b-2-1: .*in the checkpoint, .* now\n.*resume=False"
    ):
        train(small_recipe(tmp_path / "run", recordings=recordings), overrides=["steps=4"], progress=False)
    state = tmp_path / "run" / "checkpoint-00000003" / "state.json"
    document = json.loads(state.read_text())
    del document["recordings"]  # as earlier versions wrote it
    state.write_text(json.dumps(document))
    with pytest.warns(UserWarning, match="earlier version.*recordings"):
        assert train(small_recipe(tmp_path / "run"), overrides=["steps=4"], progress=False).resumed_from == 3


def test_what_a_run_cannot_do_is_refused_before_it_begins(small_recipe, tmp_path):
    for overrides, words in (
        (["evaluation.every=2", "evaluation.tier=nonsense"], "No recording has the tier 'nonsense' to evaluate on"),
        (
            ["evaluation.every=2", "evaluation.tier=train"],
            "evaluation.tier is 'train', which recordings.tiers trains on",
        ),
        (["masks.names=[stimulus, stimulus]"], "lists a mask twice"),
        (["masks.names=[validation/population_1024_response_behavior]"], "None of the 1 masks can train"),
        (["masks.weights=[1]"], "1 entries for 120 masks"),
        (["recordings.tiers=[nonsense]"], "has no tier nonsense"),
    ):
        with pytest.raises(ValueError, match=words):
            train(small_recipe(tmp_path / "run"), overrides=overrides, progress=False)
    assert not (tmp_path / "run").exists()


def test_fewer_steps_than_were_done_are_refused(small_recipe, tmp_path):
    train(small_recipe(tmp_path / "run"), progress=False)
    with pytest.raises(ValueError, match="beyond the 4 steps asked for"):
        train(small_recipe(tmp_path / "run", steps=4), progress=False)


def test_sessions_weigh_as_the_recipe_says(small_recipe, corpus_path, tmp_path, monkeypatch, capsys):
    visited = []
    step = pretraining_step.load_step

    def noted(run, number):
        batch = step(run, number)
        visited.append(batch.plan.session)
        return batch

    monkeypatch.setattr(pretraining_step, "load_step", noted)
    recordings = {"paths": [str(corpus_path / "m*")], "weights": {"c-*": 3}}
    train(small_recipe(tmp_path / "run", steps=7, recordings=recordings), overrides=["loader.workers=0"])
    assert sorted(visited) == ["a-1-1", "a-3-1", "b-2-1", "b-4-1", "c-5-1", "c-5-1", "c-5-1"]
    assert "5 of the sessions have too few neurons for some of the 120 masks" in capsys.readouterr().err


def test_what_may_change_on_the_way(small_recipe, tmp_path):
    train(small_recipe(tmp_path / "run", steps=2), progress=False)
    changes = ["loader.workers=0", "loader.open_recordings=1", "outputs.log_every=1", "loss_limit=50", "steps=3"]
    assert train(small_recipe(tmp_path / "run"), overrides=changes, progress=False).steps == 3


def test_blocks_compiled_or_not_it_is_the_same_run(small_recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled_chains, "BACKEND", "aot_eager")
    monkeypatch.setattr(compiled_chains, "_compiled", {})
    recipe, each = small_recipe(tmp_path / "run"), "outputs.log_every=1"
    train(recipe, overrides=["steps=3", each])
    assert "compiled" not in capsys.readouterr().err and not compiled_chains._compiled
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        longer = train(recipe, overrides=["steps=4", each, "compile_model=true"])
        assert longer.resumed_from == 3 and compiled_chains._compiled
    assert "compiled at their first use, in the first steps" in capsys.readouterr().err
    assert longer.history[-1]["first_steps"]["count"] == 1
    other = train(small_recipe(tmp_path / "other"), overrides=["steps=4", each], progress=False)
    assert abs(other.history[-1]["loss"] - longer.history[-1]["loss"]) < 1e-4


def test_how_sessions_are_found_may_change_and_which_may_not(small_recipe, corpus_path, tmp_path, monkeypatch):
    monkeypatch.setattr("omnimouse.training.pretraining.pretraining_recipe.collection", lambda name: ())
    monkeypatch.setattr(
        "omnimouse.training.pretraining.corpus_recordings.collection",
        {
            "all": ("a-1-1", "a-3-1", "b-2-1", "b-4-1", "c-5-1"),
            "some": ("a-1-1", "b-2-1"),
            "more": ("a-1-1", "d-1-1"),
        }.get,
    )
    train(small_recipe(tmp_path / "run", steps=2), progress=False)
    # Neither field is known to checkpoints of earlier versions, nor to those of runs that use them.
    state = json.loads((tmp_path / "run" / "checkpoint-00000002" / "state.json").read_text())
    assert {name for name in state["identity"] if name.startswith("recordings.")} == {
        f"recordings.{name}" for name in ("tiers", "stride", "include_blanks", "profile", "weights")
    }
    longer = small_recipe(tmp_path / "run", steps=3)
    assert train(longer, overrides=["recordings.collections=[all]"], progress=False).resumed_from == 2
    with pytest.raises(ValueError, match=r"sessions: \"5 with 50 neurons.*2 with 23 neurons"):
        train(longer, overrides=["recordings.collections=[some]"], progress=False)
    overrides = ["recordings.collections=[more]", "recordings.allow_missing=true", "steps=2"]
    with pytest.warns(UserWarning, match="1 of the 2 sessions"):
        result = train(small_recipe(tmp_path / "few"), overrides=overrides, progress=False)
    assert OmniMouseModel.from_pretrained(result.model, sessions="all").session_keys == ["a-1-1"]


def test_how_windows_are_read_changes_no_result(small_recipe, tmp_path, capsys):
    hashes = set()
    for workers, capacity, held in ((0, 1, "false"), (3, 32, "false"), (2, 1, "true")):
        overrides = [f"loader.workers={workers}", f"loader.open_recordings={capacity}", f"loader.on_device={held}"]
        result = train(small_recipe(tmp_path / str(workers)), overrides=overrides)
        hashes.add(OmniMouseModel.from_pretrained(result.model).core_hash())
        told = "windows are cut on cpu, from recordings that are held there"
        assert (told in capsys.readouterr().err) == (held == "true")
    assert len(hashes) == 1


def test_an_exploding_loss_stops_and_the_batch_is_written_down(small_recipe, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=r"above loss_limit \(0\.01\), at step 1 in process 0.*failures"):
        train(small_recipe(run), overrides=["loss_limit=0.01"], progress=False)
    (note,) = (run / "failures").glob("*.json")
    written = json.loads(note.read_text())
    assert written["step"] == 1 and written["mask"].startswith("training/") and written["processes"] == 1
    assert (run / "failures" / written["arrays"]).is_file()


@pytest.mark.parametrize("error", [ValueError("responses hold NaN."), OSError("no such file")])
@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_cannot_be_used_stop(small_recipe, tmp_path, monkeypatch, error, workers):
    cut, count = pretraining_step.cut_batch, iter(range(100))

    def broken(*args, **kwargs):
        if next(count) >= 3:
            raise error
        return cut(*args, **kwargs)

    monkeypatch.setattr(pretraining_step, "cut_batch", broken)
    with pytest.raises(ValueError, match=rf"{str(error).rstrip('.')}, at step 4 in process 0"):
        train(small_recipe(tmp_path / "run"), overrides=[f"loader.workers={workers}"], progress=False)
    assert RunFolder(tmp_path / "run").checkpoint_steps() == [3]


def test_a_gradient_that_is_not_finite_stops(small_recipe, tmp_path, monkeypatch):
    forward = pretraining_step.forward_batch

    def steep(*args):
        output, loss = forward(*args)
        return output, loss + 0 * (loss - loss.detach()).sqrt()

    monkeypatch.setattr(pretraining_step, "forward_batch", steep)
    with pytest.raises(ValueError, match="gradient"):
        train(small_recipe(tmp_path / "run"), progress=False)
    assert not RunFolder(tmp_path / "run").checkpoint_steps()


def test_evaluation_scores_the_eight_masks_as_far_as_populations_serve_them(small_recipe, tmp_path, capsys):
    evaluation = {"every": 3, "max_windows": 2, "max_sessions": 2}
    result = train(small_recipe(tmp_path / "run", evaluation=evaluation))
    rows = [row for row in result.history if row["kind"] == "evaluation"]
    assert [row["step"] for row in rows] == [3, 6] and len(rows[0]["scores"]) == 8
    scores = rows[-1]["scores"]
    assert scores["validation/video_behavior"]["n_sessions"] == 2
    assert -1 <= scores["validation/video_behavior"]["score"] <= 1
    # 1,024 visible neurons leave nothing to predict in a dozen.
    assert scores["validation/population_1024_response_behavior"]["loss"] is None
    assert scores["validation/all_response_only"]["score"] is None
    assert scores["validation/all_response_only"]["behavior_loss"] > 0
    told = capsys.readouterr().err
    assert "first steps: 6, " in told and "left" in told and "GiB" in told and "evaluation: video_behavior" in told


def test_evaluation_of_named_sessions(small_recipe, tmp_path):
    evaluation = {"every": 6, "masks": ["stimulus"], "max_windows": 1, "max_sessions": 1, "sessions": ["a-*", "c-5-1"]}
    result = train(small_recipe(tmp_path / "run", evaluation=evaluation), progress=False)
    row = result.history[-1]
    assert row["sessions"] == ["a-1-1", "a-3-1", "c-5-1"] and row["scores"]["stimulus"]["n_sessions"] == 3
    with pytest.raises(ValueError, match=r"evaluation\.sessions names z-1-1, which no session matches"):
        train(small_recipe(tmp_path / "other", evaluation={**evaluation, "sessions": ["z-1-1"]}), progress=False)


def test_the_open_initialization(small_recipe, tmp_path):
    """Blocks change what passes them little, and video tokens are no smaller than the latents beside them."""
    change, size = {}, {}
    for name in ("released", "open"):
        recipe = load_recipe(small_recipe(tmp_path / name, model={"preset": "tiny", "initialization": name}))
        model = build_model(recipe, OmniMouseProcessor()).eval()
        model.add_session("x-1-1", n_neurons=10, animal_id="x")
        seen = []
        model.fusion[0].register_forward_hook(lambda _, inputs, output, seen=seen: seen.extend((inputs[0], output)))
        with torch.no_grad():
            model("x-1-1", video=torch.randn(2, 1, 60, 36, 64), mask="stimulus", all_neurons=True)
        before, after = seen
        change[name] = ((after - before).norm() / before.norm()).item()
        latents = model.config.num_registers  # all that a mask without context has
        size[name] = (before[:, latents:].std() / before[:, :latents].std()).item()
    assert change["open"] < 0.2 * change["released"]
    assert size["open"] > 1 and size["open"] > 3 * size["released"]


def test_evaluation_changes_no_weight(small_recipe, tmp_path):
    hashes = set()
    for every in (None, 2):
        evaluation = {"every": every, "max_windows": 1, "max_sessions": 1}
        result = train(small_recipe(tmp_path / str(every), evaluation=evaluation), progress=False)
        hashes.add(OmniMouseModel.from_pretrained(result.model).core_hash())
    assert len(hashes) == 1


def test_a_core_may_be_trained_on(small_recipe, tmp_path):
    first = train(small_recipe(tmp_path / "first", steps=2), progress=False)
    model = {"start_from": str(first.model)}
    second = train(small_recipe(tmp_path / "second", steps=2, model=model), progress=False)
    keys = OmniMouseModel.from_pretrained(second.model, sessions="all").session_keys
    assert keys == OmniMouseModel.from_pretrained(first.model, sessions="all").session_keys
    again = train(small_recipe(tmp_path / "second", steps=3, model=model), progress=False)
    assert again.resumed_from == 2


# Trackers.


def test_a_missing_tracker_says_how_to_install_it(small_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_trackers("auto") == ()
    outputs = {**OUTPUTS, "trackers": ["tensorboard"]}
    with pytest.raises(ValueError, match=r'pip install "omnimouse\[tensorboard\]"'):
        train(small_recipe(tmp_path / "run", outputs=outputs), progress=False)
    with pytest.raises(ValueError, match="expected 'auto' or a list of trackio, tensorboard"):
        choose_trackers(["wandb"])


def test_trackio_is_the_default_where_it_is_installed(small_recipe, tmp_path, monkeypatch):
    calls = []
    fake = types.ModuleType("trackio")
    fake.__spec__ = importlib.util.spec_from_loader("trackio", loader=None)
    fake.init = lambda **options: calls.append(("init", options))
    fake.log = lambda values, step: calls.append(("log", step, values))
    fake.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    train(small_recipe(tmp_path / "run", outputs={**OUTPUTS, "trackers": "auto"}), progress=False)
    assert calls[0][0] == "init" and calls[0][1]["config"]["steps"] == 6 and calls[-1] == ("finish",)
    assert [call[1] for call in calls[1:-1]] == [2, 4, 6] and calls[1][2]["learning_rate/core"] > 0


def test_a_tracker_that_fails_is_left_out_and_stops_nothing():
    class Full:
        name = "full"

        def log(self, values, step):
            raise OSError("disk full")

    with pytest.warns(UserWarning, match="tracker full failed.*disk full"):
        assert log_to([Full()], {"kind": "training", "step": 1, "loss": 2.0}) == []
    assert flat_numbers({"a": {"b": 1, "c": None, "d": "x"}, "e": 2.5, "f": True}) == {"a/b": 1, "e": 2.5}
