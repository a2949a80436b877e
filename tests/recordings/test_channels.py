"""Behaviour channels by name, and modalities that were not recorded, through windows, checks and the model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from omnimouse import Mask, OmniMouseModel, OmniMouseProcessor, Windows, evaluate, finetune, open_recording, predict
from omnimouse.model.masking.mask_fitting import without_modalities
from omnimouse.model.masking.masks import TRAINING_MASKS, as_mask
from omnimouse.recordings import check_recording

NAMES = ("pupil_size", "pupil_size_derivative", "gaze_x", "gaze_y", "running_speed")


@pytest.fixture
def write_channels(write_session, edit_yaml):
    """A function that writes a session whose eye tracker has given columns and names; None keeps them unnamed."""

    def write(name, columns, names):
        folder = write_session(name)
        device = folder / "eye_tracker"
        stored = np.load(device / "data.npy")
        extra = np.random.default_rng(1).normal(5, 2, (len(stored), 1))
        array = np.concatenate([stored, extra], axis=1)[:, columns]
        np.save(device / "data.npy", array)
        for statistic in ("means", "stds"):
            values = np.nanmean(array, axis=0) if statistic == "means" else np.nanstd(array, axis=0)
            np.save(device / f"meta/{statistic}.npy", values)
        edit_yaml(device / "meta.yml", n_signals=len(columns), channel_names=names)
        return folder

    return write


@pytest.fixture
def without_eye(write_session):
    """A session folder that declares its eye tracker missing."""
    folder = write_session("noeye")
    shutil.rmtree(folder / "eye_tracker")
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "missing": ["eye_tracker"]}))
    return folder


@pytest.fixture
def without_video(write_session):
    """A session folder that knows its trials, but not what was shown."""
    folder = write_session("novideo")
    shutil.rmtree(folder / "screen/data")
    (folder / "screen/meta.yml").write_text("modality: screen\nframes: false\n")
    return folder


def cut(folder, **settings):
    return Windows(open_recording(folder), "train", 7, processor=OmniMouseProcessor(**settings))


def test_named_channels_go_by_name_and_others_are_ignored(write_session, write_channels):
    usual = cut(write_session("usual"))
    shuffled = cut(write_channels("shuffled", [4, 3, 0, 1, 2], ["lick", "gaze_y", *NAMES[:3]]))
    assert len(usual) == len(shuffled) > 3 and shuffled.missing_channels == ()
    for i in range(len(usual)):
        assert torch.equal(usual[i]["behavior"], shuffled[i]["behavior"])


def test_a_channel_that_was_not_recorded_is_nan_and_the_others_stay(write_session, write_channels):
    usual = cut(write_session("usual"))
    partial = cut(write_channels("partial", [2, 3], ["gaze_x", "gaze_y"]))
    assert partial.missing_channels == (0, 1) and partial.missing == ()
    behavior = partial[0]["behavior"]
    assert behavior[:2].isnan().all() and torch.equal(behavior[2:], usual[0]["behavior"][2:])


def test_channels_without_names_must_be_the_usual_ones(write_channels):
    folder = write_channels("unnamed", [0, 2, 3], None)
    finding = check_recording(folder)[0]
    assert (finding.severity, finding.field) == ("fatal", "behavior channels")
    assert "4 channels together without names" in finding.found and "channel_names" in finding.found
    with pytest.raises(ValueError, match="channel_names"):
        cut(folder)
    # As many as the processor names: they go by position.
    assert cut(folder, behavior_channels=["size", "x", "y", "speed"])[0]["behavior"].shape == (4, 40)


@pytest.mark.parametrize("names", [["a", "b"], "gaze_x", [1, 2, 3, 4]])
def test_names_that_are_no_list_of_names_are_fatal(write_session, edit_yaml, names):
    folder = write_session()
    edit_yaml(folder / "eye_tracker/meta.yml", channel_names=names)
    with pytest.raises(ValueError, match="channel_names: expected a list of 4 names"):
        open_recording(folder)


def test_a_name_that_is_there_twice_is_refused(write_session, edit_yaml):
    folder = write_session()
    edit_yaml(folder / "eye_tracker/meta.yml", channel_names=["gaze_x", "gaze_x", "a", "b"])
    with pytest.raises(ValueError, match="gaze_x are there twice"):
        cut(folder)


def test_a_missing_eye_tracker_is_declared_not_guessed(write_session, without_eye):
    usual, windows = cut(write_session("usual")), cut(without_eye)
    assert windows.missing_channels == (0, 1, 2, 3)
    assert torch.equal(windows[0]["behavior"][4], usual[0]["behavior"][4])
    findings = {finding.field: finding for finding in check_recording(without_eye)}
    assert findings["behavior channels"].severity == "info"
    assert "all but pupil_size" in findings["behavior channels"].found
    (without_eye / "meta.json").write_text(json.dumps({"missing": []}))
    with pytest.raises(ValueError, match="the device folder 'eye_tracker'"):
        open_recording(without_eye)


@pytest.mark.parametrize("missing", ["eye_tracker", ["responses"], [1]])
def test_only_behaviour_devices_can_be_declared_missing(without_eye, missing):
    (without_eye / "meta.json").write_text(json.dumps({"missing": missing}))
    with pytest.raises(ValueError, match="missing: expected a list of eye_tracker and treadmill"):
        open_recording(without_eye)


def test_without_any_behaviour_windows_have_none(without_eye):
    shutil.rmtree(without_eye / "treadmill")
    (without_eye / "meta.json").write_text(json.dumps({"missing": ["treadmill", "eye_tracker"]}))
    windows = cut(without_eye)
    assert windows.missing == ("behavior",) and set(windows[0]) == {"responses", "video"}
    assert not any(finding.severity == "fatal" for finding in check_recording(without_eye))


def test_without_video_windows_have_none(write_session, without_video):
    usual, windows = cut(write_session("usual")), cut(without_video)
    assert np.array_equal(usual.starts, windows.starts) and windows.missing == ("video",)
    assert set(windows[0]) == {"responses", "behavior"}
    findings = {finding.field: finding for finding in check_recording(without_video)}
    assert findings["video"].found == "not recorded"
    assert {finding.severity for finding in findings.values()} == {"info"}


@pytest.fixture(scope="module")
def core():
    model = OmniMouseModel.from_pretrained("omnimouse-tiny")
    model.add_session("a-1-1", n_neurons=3, animal_id="a")
    return model


def test_a_missing_channel_has_no_token_and_no_loss(core):
    behavior, video = torch.randn(2, 5, 40), torch.randn(2, 1, 60, 36, 64)
    lacking = behavior.clone()
    lacking[:, [0, 3]] = torch.nan
    with torch.no_grad():
        full = core("a-1-1", video=video, behavior=behavior, mask="stimulus+behavior", all_neurons=True)
        part = core("a-1-1", video=video, behavior=lacking, mask="stimulus+behavior", all_neurons=True)
        zeros = core("a-1-1", video=video, behavior=lacking.nan_to_num(), mask="stimulus+behavior", all_neurons=True)
        responses = torch.rand(2, 60, 3)
        decoded = core("a-1-1", responses, video, lacking, mask="behavior+stimulus", all_neurons=True)
    assert part.response_predictions.isfinite().all()
    assert not torch.allclose(part.response_predictions, full.response_predictions)
    assert not torch.allclose(part.response_predictions, zeros.response_predictions)
    errors = (decoded.behavior_predictions - behavior)[:, [1, 2, 4]] ** 2
    assert decoded.behavior_loss == pytest.approx(errors.clamp(max=10).mean().item(), rel=1e-6)


def test_what_a_missing_channel_held_before_it_was_lost_cannot_matter(core):
    """The tokens of the others, and nothing else, are what is left: the same as in a plan of three channels."""
    plan = core.window_plan("stimulus+behavior", 3, (1, 2, 4))
    behavior = torch.randn(2, 5, 40)
    identity, meta = core._embed("a-1-1", None, 2)
    tokens = core.tokens.context(None, behavior, identity, meta, plan)
    every = core.tokens.context(None, behavior, identity, meta, core.window_plan("stimulus+behavior", 3))
    assert torch.allclose(tokens, every[:, [1, 2, 4]], atol=1e-6) and tokens.shape[1] == 3


def test_behaviour_that_is_nan_altogether_needs_a_task_without(core):
    behavior, video = torch.full((1, 5, 40), torch.nan), torch.zeros(1, 1, 60, 36, 64)
    with pytest.raises(ValueError, match=r"all of it is NaN\. Choose a task without behavior"):
        core("a-1-1", video=video, behavior=behavior, mask="stimulus+behavior")


def test_masks_go_without_what_is_missing():
    mask = as_mask("forecasting+stimulus+behavior")
    assert without_modalities(mask, ()) == mask
    bare = without_modalities(mask, ("video", "behavior"))
    assert (bare.n_frames, bare.behavior, bare.prefix_length) == (0, "absent", mask.prefix_length)
    assert all(isinstance(without_modalities(mask, ("behavior",)), Mask) for mask in TRAINING_MASKS)


@pytest.mark.parametrize("kind", ["eye", "video"])
def test_a_recording_without_a_modality_is_fine_tuned_and_scored(request, kind):
    folder = request.getfixturevalue(f"without_{kind}")
    model = OmniMouseModel.from_pretrained("omnimouse-tiny", sessions=["core00-1-1"])
    start_from = "match" if kind == "video" else "mean"
    finetune(model, folder, steps=2, batch_size=2, max_validation_windows=1, start_from=start_from, progress=False)
    tasks = "all" if kind == "video" else ["behavior+stimulus", "stimulus+behavior"]
    scores = evaluate(model, folder, tasks=tasks, tier="final_test", progress=False, max_windows=1)
    key = open_recording(folder).session_key
    assert all(torch.isfinite(tensor).all() for tensor in model.session_state(key).values())
    if kind == "video":
        assert "forecasting" in scores.tasks and "stimulus" not in scores.tasks
        assert "no video" in scores.left_out["stimulus+behavior"]
        with pytest.raises(ValueError, match=r"'stimulus'.*no video"):
            evaluate(model, folder, tasks="stimulus", tier="final_test", progress=False)
        with pytest.raises(
            ValueError, match=r"'stimulus' cannot be predicted on \S+: it shows video, but this .*no video"
        ):
            predict(model, folder, "stimulus", tier="final_test", progress=False)
    else:
        task = scores.tasks["behavior+stimulus"]
        assert list(task.behavior) == ["running_speed"] and np.isfinite(task.behavior_loss)
        assert np.isfinite(scores.tasks["stimulus+behavior"].response_loss)
