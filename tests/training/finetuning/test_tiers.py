"""What is trained on, selected on and scored: other trials each, or said so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import SMALLEST

from omnimouse import (
    OmniMouseConfig,
    OmniMouseModel,
    OmniMouseProcessor,
    Windows,
    evaluate,
    finetune,
    predict,
    recording_from_arrays,
    save_recording,
    train,
)
from omnimouse.evaluation import Scores
from omnimouse.evaluation.tiers import choose_tier
from omnimouse.pretrained.cards.scores_text import score_tables
from omnimouse.pretrained.measured import measured_scores
from omnimouse.recordings.views.stimulus_identity import same_stimuli
from omnimouse.training.finetuning.training_tiers import HELD_OUT, hold_out

QUICK = {"steps": 1, "batch_size": 1, "max_validation_windows": 1, "masks": ["forecasting"], "cpu": True}
QUIET = {"progress": False}
SECONDS, RATE = 3, 30


def record(tiers, clips=None, *, video=True, conditions=None, withheld=()):
    """A recording of trials of 3 s in these tiers, each showing the clip of its number."""
    generator = np.random.default_rng(5)
    clips = range(len(tiers)) if clips is None else clips
    pictures = generator.integers(0, 256, (max(clips, default=0) + 1, SECONDS * RATE, 4, 8), dtype=np.uint8)
    frames = np.concatenate([pictures[clip] for clip in clips]).repeat(9, 1).repeat(8, 2)
    conditions = [None] * len(tiers) if conditions is None else conditions
    recording = recording_from_arrays(
        generator.gamma(0.5, size=(len(frames), 6)), RATE, video=frames if video else None, session_key="tiers-1-1",
        trials=[(SECONDS * i, SECONDS * (i + 1), *pair) for i, pair in enumerate(zip(tiers, conditions, strict=True))],
    )  # fmt: skip
    return replace(recording, withheld_tiers=withheld)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST))


def test_without_a_validation_tier_a_tenth_of_the_stimuli_is_held_out(model):
    recording = record(["train"] * 20 + ["oracle"])
    stored = list(recording.trials)
    result = finetune(model, recording, **QUICK, **QUIET)
    held_out = result.tiers.held_out
    assert len(held_out) == 2 and result.best_validation_loss is not None
    assert result.tiers.selected_on == ("train",)
    assert recording.trials == stored and recording.tiers == ["train", "oracle"]  # as stored
    other = [finetune(model, recording, **QUICK, **QUIET, seed=seed).tiers.held_out for seed in (0, 1, 2)]
    assert other[0] == held_out and len(set(other)) > 1
    everything = finetune(model, recording, validation_tier=None, **QUICK, **QUIET)
    assert everything.tiers.held_out == () and everything.best_validation_loss is None


def test_windows_of_both_sides_share_no_trial_and_the_statistics_of_the_recording():
    recording = record(["train"] * 10)
    processor = OmniMouseProcessor(profile="strict")
    view, held_out = hold_out(recording, ("train",), seed=3, processor=processor)
    train, selecting = (Windows(view, tier, processor=processor) for tier in ("train", HELD_OUT))
    assert {selecting.trial_index(i) for i in range(len(selecting))} == set(held_out)
    assert {train.trial_index(i) for i in range(len(train))} == set(range(10)) - set(held_out)
    whole = Windows(recording, "train", processor=processor)
    place = int(np.flatnonzero(whole.starts == train.starts[0])[0])
    assert torch.equal(whole[place]["responses"], train[0]["responses"])


@pytest.mark.parametrize("told", [True, False])
def test_repeats_of_a_clip_are_on_one_side(told):
    """Known by the identity stored, or by their frames."""
    clips = [i % 5 for i in range(15)]
    names = [f"clip {clip}" for clip in clips] if told else None
    recording = record(["train"] * 15, [0] * 15 if told else clips, conditions=names)
    for seed in range(4):
        _, held_out = hold_out(recording, ("train",), seed=seed, processor=OmniMouseProcessor(profile="strict"))
        assert len(held_out) == 3 and len({clips[trial] for trial in held_out}) == 1


def test_a_presentation_that_was_cut_short_is_still_a_repeat():
    recording = record(["train"] * 4, [0, 1, 0, 1])
    shorter = [replace(trial, n_frames=50) if trial.index == 2 else trial for trial in recording.trials]
    recording.screen.trials = shorter
    assert same_stimuli(recording, range(4), height=36, width=64).tolist() == [0, 1, 0, 1]
    assert same_stimuli(record(["train"] * 3, video=False), range(3), height=36, width=64).tolist() == [0, 1, 2]


def test_one_stimulus_cannot_be_split_and_the_last_weights_are_kept(model):
    recording = record(["train"] * 4, [0] * 4)
    with pytest.warns(UserWarning, match="no part of its tier train can be held out"):
        result = finetune(model, recording, **QUICK, **QUIET)
    assert result.best_validation_loss is None and result.tiers.held_out == ()


def test_a_tier_is_not_both_trained_and_validated_on(model):
    recording = record(["train"] * 10 + ["validation", "oracle"])
    with pytest.raises(ValueError, match="validation_tier is 'train', which is also trained on"):
        finetune(model, recording, validation_tier="train", **QUICK, **QUIET)
    with pytest.raises(ValueError, match="no tier 'nonsense' to validate on"):
        finetune(model, recording, validation_tier="nonsense", **QUICK, **QUIET)
    assert finetune(model, recording, **QUICK, **QUIET).tiers.selected_on == ("validation",)
    with pytest.warns(UserWarning, match="begins at were trained on tier train,"):
        both = finetune(model, recording, train_tiers=["train", "validation"], **QUICK, **QUIET)
    assert both.tiers.selected_on == ("train", "validation") and both.tiers.held_out


def test_scores_say_that_their_trials_were_trained_or_selected_on(model, tmp_path):
    recording = record(["train"] * 4 + ["validation", "oracle", "test"])
    finetune(model, recording, validation_tier="oracle", **QUICK, **QUIET)
    model.save_session(recording.session_key, tmp_path)
    model.remove_session(recording.session_key)
    model.load_session(tmp_path)
    for tier, use in (("train", "trained on"), ("oracle", "selected on")):
        with pytest.warns(UserWarning, match=f"{use} trials of tier {tier}, so the scores are too high"):
            scores = evaluate(model, recording, "forecasting", tier, **QUIET)
        assert scores.settings["tier_in_training"] == use
        assert f"on trials that the weights were {use}" in score_tables(measured_scores(scores))[0]["note"]
        assert f"{use} trials of tier {tier}" in Scores.load(scores.save(tmp_path / "scores.json")).table()
    scores = evaluate(model, recording, "forecasting", **QUIET)
    assert scores.tier == "test" and scores.settings["tier_in_training"] is None
    assert "tier test was scored, as the recording has no trials of tier final_test to score" in scores.table()
    # What was once trained on stays so.
    finetune(model, recording, train_tiers="validation", validation_tier=None, **QUICK, **QUIET)
    with pytest.warns(UserWarning, match="trained on"):
        evaluate(model, recording, "forecasting", "train", **QUIET)


@pytest.mark.parametrize(
    ("tiers", "withheld", "chosen"),
    [
        (["train", "oracle", "final_test"], (), "final_test"),
        (["train", "validation", "final_test", "oracle"], ("final_test",), "oracle"),
        (["train", "validation", "oracle", "live_test_main"], (), "live_test_main"),
        (["train", "validation", "mine"], (), "mine"),
        (["train", "validation"], (), "validation"),
    ],
)
def test_the_tier_scored_by_default_is_the_first_in_a_stated_order(tiers, withheld, chosen):
    assert choose_tier(record(tiers, withheld=withheld), None) == chosen


def test_nothing_that_was_trained_on_is_scored_by_default(model):
    recording = record(["train"] * 3 + ["oracle", "mine"])
    assert choose_tier(recording, {"selected on tiers": "oracle", "trained on tiers": "train"}) == "mine"
    assert choose_tier(recording, {"trained on tiers": "train, mine"}) == "oracle"
    with pytest.raises(ValueError, match=r"no tier whose responses are known and were not trained on; it has train"):
        choose_tier(recording, {"trained on tiers": "train, mine, oracle"})
    finetune(model, recording, **QUICK, **QUIET)
    with pytest.raises(ValueError, match="no trials of tier 'final_test'"):
        evaluate(model, recording, "forecasting", "final_test", **QUIET)
    assert predict(model, recording, "forecasting", **QUIET).tier == "oracle"


def test_pre_training_evaluates_what_each_session_has_and_stores_what_it_trained_on(small_recipe, tmp_path, capsys):
    tiers = {"m1": ["validation", "oracle"], "m2": ["oracle"], "m3": ["final_test"]}
    for name, others in tiers.items():
        recording = replace(record(["train"] * 4 + others, video=False), session_key=f"{name}-1-1", animal_id=name)
        save_recording(recording, tmp_path / "corpus" / name)
    recipe = small_recipe(
        tmp_path / "run", steps=2, recordings={"paths": [str(tmp_path / "corpus/m*")]},
        evaluation={"every": 2, "masks": ["forecasting", "population"]}, masks={"names": ["forecasting"]},
    )  # fmt: skip
    result = train(recipe, progress=False)
    row = next(row for row in result.history if row["kind"] == "evaluation")
    assert row["sessions"] == ["m1-1-1", "m2-1-1"] and row["scores"]["population"]["n_sessions"] == 2
    model = OmniMouseModel.from_pretrained(result.model, sessions="all")
    with pytest.warns(UserWarning, match="trained on trials of tier train"):
        evaluate(model, tmp_path / "corpus/m2", "forecasting", "train", **QUIET)
    capsys.readouterr()
    only = {"paths": [str(tmp_path / "corpus/m3")]}
    assert train({**recipe, "output": str(tmp_path / "other"), "recordings": only}).steps == 2
    assert "no recording has a tier validation or oracle that is not trained on" in capsys.readouterr().err


def test_no_tier_is_held_out_as_a_whole():
    recording = record(["train"] * 8 + ["rare", "odd"])
    for seed in range(20):
        view, held_out = hold_out(recording, ("train", "rare", "odd"), seed=seed, processor=OmniMouseProcessor())
        assert len(held_out) == 1 and {"train", "rare", "odd", HELD_OUT} == set(view.tiers)


def test_selecting_on_what_the_weights_were_trained_on_before_is_said(model):
    recording = record(["train"] * 6 + ["validation"] * 2)
    finetune(model, recording, train_tiers=("train", "validation"), validation_tier=None, **QUICK, **QUIET)
    with pytest.warns(UserWarning, match="begins at were trained on tier validation"):
        result = finetune(model, recording, **QUICK, **QUIET)
    assert "Recording(" not in repr(result)
