"""Faults that no recording shows by itself: those between recordings, and between a recording and a model."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import build

from omnimouse import evaluate, finetune, predict
from omnimouse.recordings import Windows, open_recording
from omnimouse.training.pretraining.corpus_recordings import find_sessions
from omnimouse.training.pretraining.pretraining_recipe import RecordingsRecipe

USES = {
    "evaluate": lambda model, recording: evaluate(model, recording, tier="oracle", progress=False),
    "predict": lambda model, recording: predict(model, recording, "stimulus", tier="oracle", progress=False),
    "finetune": lambda model, recording: finetune(model, recording, steps=1, cpu=True, progress=False),
}


@pytest.fixture
def model(write_session):
    model = build(("9-1-1", 4, "9"))
    model.add_session(open_recording(write_session("original")))
    return model


def reverse_units(folder):
    file = folder / "responses/meta/unit_ids.npy"
    np.save(file, np.load(file)[::-1])


@pytest.mark.parametrize("use", USES)
def test_the_same_neurons_in_another_order_are_refused(model, write_session, use):
    folder = write_session()
    reverse_units(folder)
    with pytest.raises(ValueError, match=r"(?s)unit ids.*'7-1-2'|'7-1-2'.*unit ids.*order"):
        USES[use](model, folder if use == "evaluate" else open_recording(folder))


@pytest.mark.parametrize("use", USES)
def test_another_number_of_neurons_is_refused(model, write_session, use):
    with pytest.raises(ValueError, match=r"has 6 neurons, but session '7-1-2' in the model has 5"):
        USES[use](model, open_recording(write_session(n_neurons=6)))


@pytest.mark.parametrize("use", ["evaluate", "predict"])
def test_a_session_that_the_model_does_not_have_is_refused(write_session, use):
    with pytest.raises(ValueError, match=r"'7-1-2' is not in the model \(its sessions: 9-1-1\); add it with"):
        USES[use](build(("9-1-1", 4, "9")), open_recording(write_session()))


def test_a_session_is_added_once(model, write_session):
    with pytest.raises(ValueError, match="7-1-2"):
        model.add_session(open_recording(write_session()))


def test_a_tier_without_trials_is_refused_with_those_there_are(model, write_session):
    recording = open_recording(write_session())
    with pytest.raises(ValueError, match=r"no tier 'live_test'; the tiers .* are: 'train', 'validation'"):
        Windows(recording, "live_test")
    with pytest.raises(ValueError, match=r"no trials of tier 'live_test'; its tiers are train, validation"):
        evaluate(model, recording, tier="live_test", progress=False)


def test_two_recordings_of_one_session_are_refused_with_both_places(write_session):
    folders = [write_session(name) for name in ("first", "second")]
    with pytest.raises(ValueError, match=r"'7-1-2' is there twice, in .*first and .*second"):
        find_sessions(RecordingsRecipe(paths=tuple(map(str, folders)), tiers=("train",)))
