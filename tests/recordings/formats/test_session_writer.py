"""Saved recordings give the windows of what they were saved from, whatever that was; whole or not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from omnimouse import OmniMouseProcessor, Windows, open_recording, recording_from_arrays
from omnimouse.recordings import describe, save_recording
from omnimouse.recordings.formats.experanto.session_writer import stretches

RNG = np.random.default_rng(11)
SECONDS = 30
RESPONSES = RNG.gamma(2, 2, (SECONDS * 30, 5)).astype(np.float32)
VIDEO = RNG.integers(0, 256, (SECONDS * 30, 36, 64), dtype=np.uint8)
BEHAVIOR = {"pupil_size": RNG.normal(50, 3, SECONDS * 20), "gaze_x": RNG.normal(size=SECONDS * 20)}
RATES = {"responses": 30.0, "video": 30.0, "behavior": 20.0, "running_speed": 100.0}


def assert_equal_windows(ours, theirs, profile="strict", *, blanks=True, at_most=25):
    """Every tier has the same starts, and windows that are equal bit for bit, NaN included."""
    assert ours.tiers == theirs.tiers and ours.withheld_tiers == theirs.withheld_tiers
    total = 0
    for tier in set(theirs.tiers) - set(theirs.withheld_tiers):
        processor = OmniMouseProcessor(profile=profile)
        pair = [Windows(each, tier, include_blanks=blanks, processor=processor, quiet=True) for each in (ours, theirs)]
        assert np.array_equal(pair[0].starts, pair[1].starts)
        total += len(pair[0])
        for index in range(0, len(pair[0]), max(1, len(pair[0]) // at_most)):
            one, other = pair[0][index], pair[1][index]
            assert one.keys() == other.keys()
            for name in one:
                assert torch.equal(torch.nan_to_num(one[name], nan=-9e9), torch.nan_to_num(other[name], nan=-9e9)), name
    assert total > 5


@pytest.fixture
def sensorium_session(tmp_path):
    """A SENSORIUM 2023 folder of six clips of 90 frames, padded to 95, the responses of two of them withheld."""
    folder = tmp_path / "dynamic7-1-2-Video-abc"
    rng = np.random.default_rng(4)
    shapes = {"videos": (36, 64), "responses": (5,), "behavior": (2,), "pupil_center": (2,)}
    for name in (*(f"data/{kind}" for kind in shapes), "meta/trials", "meta/neurons"):
        (folder / name).mkdir(parents=True)
    for trial in range(6):
        for kind, shape in shapes.items():
            array = np.full((*shape, 95), np.nan, dtype=np.float32)
            array[..., :90] = rng.uniform(0, 255, (*shape, 90))
            hidden = kind == "responses" and trial % 3 == 2
            np.save(folder / f"data/{kind}/{trial}.npy", array * (0 if hidden else 1))
    np.save(folder / "meta/trials/tiers.npy", np.array(["train", "oracle", "live_test_main"] * 2))
    np.save(folder / "meta/trials/trial_idx.npy", np.arange(6))
    np.save(folder / "meta/neurons/unit_ids.npy", np.arange(5))
    return folder


@pytest.mark.parametrize("profile", ["strict", "published", "experanto-main"])
def test_a_session_folder_saved_again(stored_session, tmp_path, profile):
    """Blanks, images, INVALID periods, odd rates, unit ids and clips of 60 frames a second."""
    source = open_recording(stored_session("17797-4-7"))
    saved = save_recording(source, tmp_path / "copy")
    assert_equal_windows(saved, source, profile)
    assert [(t.modality, t.tier, t.condition_hash, t.start, t.end) for t in saved.trials] == [
        (t.modality, t.tier, t.condition_hash, t.start, t.end) for t in source.trials
    ]
    assert (saved.session_key, saved.animal_id) == (source.session_key, source.animal_id)
    for ours, theirs in zip(saved.devices, source.devices, strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours.data, theirs.data, equal_nan=True)
        for statistic, stored in zip(saved.statistics(ours), source.statistics(theirs), strict=True):
            assert np.array_equal(statistic, stored)
    if source.unit_ids is not None:
        assert np.array_equal(saved.unit_ids, source.unit_ids)


def test_phase_shifts_are_kept(write_session, edit_yaml, tmp_path):
    folder = write_session()
    np.save(folder / "responses/meta/phase_shifts.npy", np.linspace(0, 0.03, 5))
    edit_yaml(folder / "responses/meta.yml", phase_shift_per_signal=True)
    source = open_recording(folder)
    assert_equal_windows(save_recording(source, tmp_path / "copy"), source)


@pytest.mark.parametrize("profile", ["strict", "published", "experanto-main"])
def test_arrays_with_time_in_no_trial(tmp_path, profile):
    trials = [(0.013, 9.5, "train", "a"), (10.0, 15.0, "validation", "b"), (15.0, 22.0, "train"), (24.0, 40.0, "test")]
    source = recording_from_arrays(
        RESPONSES, RATES, video=VIDEO, behavior={**BEHAVIOR, "running_speed": RNG.gamma(1, 1, SECONDS * 100)},
        trials=trials, session_key="m3-1-1", unit_ids=[5, 3, 9, 1, 2],
    )  # fmt: skip
    saved = save_recording(source, tmp_path / "saved")
    assert_equal_windows(saved, source, profile)
    gaps = [trial for trial in saved.trials if trial.tier == "unused"]
    assert [round(trial.start, 3) for trial in gaps] == [0.0, 9.5, 22.0]
    assert saved.behavior_channels == source.behavior_channels and list(saved.unit_ids) == [5, 3, 9, 1, 2]
    assert not [finding for finding in saved.validate() if finding.severity != "info"]
    with pytest.raises(ValueError, match="no tier 'unused'"):
        Windows(saved, "unused")


def test_frames_of_any_size_and_grey_level(tmp_path):
    """Reduced frames are no whole grey levels: they are stored as float32, and windows stay equal."""
    large = RNG.random((SECONDS * 30, 54, 96)).astype(np.float32)
    source = recording_from_arrays(RESPONSES, 30.0, video=large, video_range=(0, 1))
    saved = save_recording(source, tmp_path / "saved")
    assert_equal_windows(saved, source, at_most=5)
    whole = save_recording(recording_from_arrays(RESPONSES, 30.0, video=VIDEO), tmp_path / "whole")
    kinds = [{np.load(file).dtype.name for file in (each.path / "screen/data").iterdir()} for each in (saved, whole)]
    assert kinds == [{"float32"}, {"uint8"}]


def test_movies_shown_twice_with_blanks(tmp_path):
    index = np.concatenate([np.arange(300), np.full(60, -1), np.arange(300), np.full(240, -1)])
    source = recording_from_arrays(RESPONSES, 30.0, video=VIDEO[:300], video_index=index, blank_level=100.5)
    assert_equal_windows(save_recording(source, tmp_path / "saved"), source)


@pytest.mark.parametrize("present", [(), ("video",), ("behavior",)])
def test_what_was_not_recorded_stays_missing(tmp_path, present):
    given = {"video": VIDEO, "behavior": BEHAVIOR}
    source = recording_from_arrays(RESPONSES, RATES, **{name: given[name] for name in present})
    saved = save_recording(source, tmp_path / "saved")
    assert_equal_windows(saved, source)
    pair = [Windows(each, "train") for each in (saved, source)]
    assert pair[0].missing == pair[1].missing and pair[0].missing_channels == pair[1].missing_channels
    described = json.loads(json.dumps(describe(saved), allow_nan=False))
    assert described["tiers"]["train"]["windows"] > 5 and "treadmill" not in described["devices"]


def test_stimuli_of_another_size_stay_as_they_are(write_session, tmp_path):
    """Of a folder, whose frames are not resized; a processor of that size reads both."""
    folder = write_session()
    for file in (folder / "screen/data").iterdir():
        np.save(file, np.repeat(np.load(file), 2, axis=-1))
    for file in (folder / "screen/meta").glob("*.yml"):
        file.write_text(file.read_text().replace("- 64", "- 128"))
    saved = save_recording(open_recording(folder), tmp_path / "saved")
    assert {trial.image_size for trial in saved.trials} == {(36, 128)}
    assert np.load(saved.path / "screen/data/00001.npy").shape == (120, 36, 128)


def test_clips_that_stand_alone_and_withheld_tiers(sensorium_session, tmp_path):
    source = open_recording(sensorium_session)
    assert source.withheld_tiers
    saved = save_recording(source, tmp_path / "saved")
    assert_equal_windows(saved, source)
    with pytest.raises(ValueError, match="withheld"):
        Windows(saved, source.withheld_tiers[0])


def test_no_lookup_changes_where_trials_begin_between_frames():
    """Times around every edge, closer than the tolerance of lookups."""
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.choice([3e-5, 8e-5, 2e-4, 0.03], 300))
    edges = np.sort(rng.choice(times, 12, replace=False) + rng.choice([-5e-5, 0, 4e-5], 12))
    trials = [(edges[k], edges[k + 1], "train") for k in range(0, 12, 3)]
    source = recording_from_arrays(
        RESPONSES, times={"responses": np.arange(900) / 30, "video": times}, video=VIDEO[:300], trials=trials
    )
    pieces = list(stretches(source.screen))
    new = np.concatenate([piece.times for piece in pieces])
    shown = np.concatenate([piece.shown for piece in pieces])
    assert (np.diff(new) > 0).all() and new[-1] == source.screen.timestamps[-1]
    displayed = source.screen.timestamps
    for start, end, _ in trials:
        asked = np.sort(np.concatenate([rng.uniform(start, end, 200), end - rng.uniform(0, 1e-4, 50)]))
        asked = asked[(asked >= start) & (asked < end)]
        before = np.searchsorted(displayed, asked + 1e-4) - 1
        after = shown[np.searchsorted(new, asked + 1e-4) - 1]
        assert np.array_equal(before, after)


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    source = recording_from_arrays(RESPONSES, 30.0, video=VIDEO, behavior=None)
    frames_at = type(source.screen).frames_at

    def fail(self, times, *, height, width):
        if times[0] > 5:
            raise OSError("the disk went away")
        return frames_at(self, times, height=height, width=width)

    monkeypatch.setattr(type(source.screen), "frames_at", fail)
    with pytest.raises(OSError, match="went away"):
        save_recording(source, tmp_path / "saved")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "saved").mkdir()
    saved = save_recording(source, tmp_path / "saved")
    with pytest.raises(ValueError, match="not an empty folder"):
        save_recording(source, tmp_path / "saved")
    with pytest.raises(ValueError, match="inside the recording itself"):
        save_recording(saved, saved.path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    meta = yaml.safe_load((saved.path / "responses/meta.yml").read_text())
    assert (meta["n_timestamps"], meta["sampling_rate"], meta["start_time"]) == (900, 30.0, 0.0)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[3] / "docs/recordings.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = next(block for block in blocks if "recording_from_arrays" in block)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert len(names["windows"]) > 100 and names["windows"].missing_channels == (2, 3)
    assert_equal_windows(names["saved"], names["recording"], at_most=3)
    names["file"].close()


def test_unit_ids_that_are_text_are_refused(tmp_path):
    source = recording_from_arrays(RESPONSES, 30.0, unit_ids=list("abcde"))
    with pytest.raises(ValueError, match="session folders hold numbers"):
        save_recording(source, tmp_path / "saved")
    assert not list(tmp_path.iterdir())
