"""Windows held as tensors are those that are cut from files, bit for bit, whatever the format and the profile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from static_folders import NAME, write_static

from omnimouse import OmniMouseProcessor, recording_from_arrays
from omnimouse.recordings import Windows, open_recording
from omnimouse.recordings.held_windows import HeldWindows, can_be_held, held_bytes

PROFILES = ("strict", "published", "experanto-main")
CPU = torch.device("cpu")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("key", ["17797-4-7", "22083-2-19", "written"])
def test_experanto(stored_session, write_session, held_alike, profile, key):
    recording = open_recording(write_session() if key == "written" else stored_session(key))
    windows = Windows(recording, recording.tiers, 3, processor=OmniMouseProcessor(profile))
    held = held_alike(windows)
    # INVALID trials are blanks without a grey level in the published pipelines: such frames are held as float32.
    whole = not any(torch.isnan(windows[i]["video"]).any() for i in range(len(windows)))
    assert profile != "strict" or whole
    if key == "written":
        assert (held._tables["video"].levels is not None) == whole


@pytest.mark.parametrize("profile", PROFILES)
def test_images_and_what_was_not_recorded(tmp_path, held_alike, profile):
    processor = OmniMouseProcessor(profile)
    held_alike(Windows(open_recording(write_static(tmp_path / NAME)), "train", processor=processor, quiet=True))
    rng = np.random.default_rng(2)
    responses = rng.gamma(2, 2, (600, 6))
    video, running = rng.random((600, 18, 32)), {"running_speed": rng.gamma(1, 1, 400)}
    for more in ({}, {"video": video}, {"behavior": running}):
        recording = recording_from_arrays(
            responses, {"responses": 15.0, "video": 15.0, "behavior": 10.0}, video_range=(0, 1), **more
        )
        held_alike(Windows(recording, "train", processor=processor, quiet=True))


def test_windows_that_no_loss_is_defined_for_are_known_beforehand(write_session):
    folder = write_session()
    data = np.load(folder / "responses/data.npy")
    data[100, 3] = np.inf
    np.save(folder / "responses/data.npy", data)
    windows = Windows(open_recording(folder), ("train", "oracle"), processor=OmniMouseProcessor("published"))
    held, places = HeldWindows(windows, CPU), range(len(windows))
    for name in ("responses", "video", "behavior"):
        expected = [bool(torch.isfinite(windows[i][name]).all()) for i in places]
        assert held.finite(name, places).tolist() == expected, name
    assert not held.finite("responses", places).all() and held.finite("responses", places).any()


def test_averaged_and_shifted_responses_are_not_held(write_session, edit_yaml):
    fast = recording_from_arrays(np.random.default_rng(0).gamma(2, 2, (2400, 3)), 60.0)
    strict, published = (
        Windows(fast, "train", processor=OmniMouseProcessor(name), quiet=True) for name in PROFILES[:2]
    )
    assert not can_be_held(strict) and can_be_held(published)
    folder = write_session()
    np.save(folder / "responses/meta/phase_shifts.npy", np.linspace(0, 0.02, 5))
    edit_yaml(folder / "responses/meta.yml", phase_shift_per_signal=True)
    assert not can_be_held(Windows(open_recording(folder), "train"))


def test_memory_is_told_beforehand(write_session):
    windows = Windows(open_recording(write_session(n_neurons=2000)), "train", processor=OmniMouseProcessor())
    assert held_bytes(windows) == pytest.approx(HeldWindows(windows, CPU).n_bytes, rel=0.2)
