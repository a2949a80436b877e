"""Recordings from plain arrays: clocks, frames, channels, what is refused, and windows equal to a folder's."""

from __future__ import annotations

import copy
import pickle

import h5py
import numpy as np
import pytest
import torch

from omnimouse import OmniMouseModel, OmniMouseProcessor, Windows, evaluate, finetune, open_recording
from omnimouse import recording_from_arrays as from_arrays
from omnimouse.recordings import plot_recording
from omnimouse.recordings.data.frames import area_resize, area_weights
from omnimouse.recordings.formats.arrays.clocks import Clock, as_clock, hold
from omnimouse.recordings.formats.arrays.trials import tier_blocks

RNG = np.random.default_rng(5)
SECONDS, RATE = 40, 30.0
RESPONSES = RNG.gamma(2, 2, (int(SECONDS * RATE), 6)).astype(np.float32)
VIDEO = RNG.integers(0, 256, (SECONDS * 30, 36, 64), dtype=np.uint8)
BEHAVIOR = {
    "pupil_size": RNG.normal(50, 3, SECONDS * 20),
    "gaze_x": RNG.normal(0, 1, SECONDS * 20),
    "gaze_y": RNG.normal(0, 1, SECONDS * 20),
    "running_speed": RNG.gamma(1, 1, SECONDS * 100),
}
RATES = {"responses": RATE, "video": 30.0, "behavior": 20.0, "running_speed": 100.0}


def windows_of(recording, tier="train"):
    return Windows(recording, tier, 5, processor=OmniMouseProcessor())


def test_windows_equal_those_of_the_folder_the_arrays_come_from(stored_session):
    """Irregular screen times, images, blanks and behaviour at rates of its own; all that a folder can say."""
    folder = stored_session("17797-4-7")
    source = open_recording(folder)
    shown, times = [], source.screen.timestamps
    for trial in source.trials:
        frames = source.screen.frames_at(
            times[trial.first_frame : trial.first_frame + trial.n_frames], height=36, width=64
        )
        shown.append(frames)
    video = np.concatenate(shown)
    valid = ~np.isnan(video).any(axis=(1, 2))
    index = np.where(valid, np.arange(len(video)), -1)
    devices = {name: getattr(source, name) for name in ("responses", "eye_tracker", "treadmill")}
    clocks = {
        name: device.start_time + np.arange(device.shape[0]) / device.sampling_rate for name, device in devices.items()
    }
    eye = np.asarray(source.eye_tracker.data)
    names = ("pupil_size", "pupil_size_derivative", "gaze_x", "gaze_y")
    recording = from_arrays(
        source.responses.data,
        times={
            "responses": clocks["responses"], "video": times, "behavior": clocks["eye_tracker"],
            "running_speed": clocks["treadmill"],
        },
        video=np.nan_to_num(video),
        video_index=index,
        behavior={**dict(zip(names, eye.T, strict=True)), "running_speed": source.treadmill.data[:, 0]},
        trials=[(t.start, min(t.end, times[-1] + 1), t.tier) for t in source.trials if t.tier is not None],
    )  # fmt: skip
    for device in devices.values():
        copy = getattr(recording, device.name)
        copy.means, copy.stds = source.statistics(device)
    ours, theirs = (
        Windows(each, "train", 1, include_blanks=False, processor=OmniMouseProcessor()) for each in (recording, source)
    )
    shared = [(i, j) for i, s in enumerate(ours.starts) for j in np.flatnonzero(np.abs(theirs.starts - s) < 1e-4)]
    assert len(shared) == len(theirs) > 20
    for i, j in shared[:: max(1, len(shared) // 12)]:
        for name in ("responses", "video", "behavior"):
            assert torch.equal(ours[i][name], theirs[j][name]), name


def test_one_call_gives_tiers_channels_and_windows():
    recording = from_arrays(RESPONSES, RATES, video=VIDEO, behavior=BEHAVIOR, session_key="m7-1-2")
    assert (recording.session_key, recording.animal_id, recording.n_neurons) == ("m7-1-2", "m7", 6)
    assert set(recording.tiers) == {"train", "validation", "final_test"}
    assert set(recording.behavior_channels) == {*BEHAVIOR, "pupil_size_derivative"}
    windows = windows_of(recording)
    assert len(windows) > 5 and windows.missing_channels == () and windows.missing == ()
    row = round(windows.starts[0] * RATE)
    stds = recording.statistics(recording.responses)[1]
    expected = RESPONSES[row : row + 60] / stds.astype(np.float32)
    assert np.allclose(windows[0]["responses"], expected, rtol=1e-6)
    assert np.allclose(windows[0]["video"][0, :, 3, 4], (VIDEO[row : row + 60, 3, 4] - 113.0) / 59)
    speed = BEHAVIOR["running_speed"][round(windows.starts[0] * 100) :][:200:5]
    means, stds = recording.statistics(recording.treadmill)
    assert np.allclose(windows[0]["behavior"][4], (speed - means[0]) / stds[0], atol=1e-5)
    assert not [finding for finding in recording.validate() if finding.severity != "info"]


def test_a_rate_and_the_same_number_of_rows_are_enough():
    behavior = RNG.normal(size=(len(RESPONSES), 5))
    recording = from_arrays(RESPONSES, RATE, video=VIDEO, behavior=behavior)
    assert windows_of(recording)[0]["behavior"].shape == (5, 40)


def test_missing_modalities_stay_missing():
    bare = from_arrays(RESPONSES, RATE)
    assert windows_of(bare).missing == ("video", "behavior") and set(windows_of(bare)[0]) == {"responses"}
    gaze = from_arrays(RESPONSES, RATES, behavior={"gaze_y": BEHAVIOR["gaze_y"], "lick": BEHAVIOR["gaze_x"]})
    assert windows_of(gaze).missing_channels == (0, 1, 2, 4)


def test_the_pupil_derivative_is_derived_and_said_so():
    recording = from_arrays(RESPONSES, RATES, behavior={"pupil_size": BEHAVIOR["pupil_size"]})
    assert recording.behavior_channels == ("pupil_size", "pupil_size_derivative")
    derived = recording.eye_tracker.data[:, 1]
    assert np.allclose(derived[1:-1], (BEHAVIOR["pupil_size"][2:] - BEHAVIOR["pupil_size"][:-2]) * 10)
    assert recording.findings[0].field == "pupil_size_derivative"


def test_arrays_on_disk_are_read_window_by_window(tmp_path):
    class Slices:
        """Stands for h5py and zarr: only slices of the first axis, noted."""

        def __init__(self, array):
            self.array, self.shape, self.dtype, self.rows = array, array.shape, array.dtype, 0

        def __getitem__(self, part):
            assert isinstance(part, slice) and part.step is None
            self.rows += part.stop - (part.start or 0)
            return self.array[part]

    responses, video = Slices(RESPONSES), Slices(VIDEO)
    recording = from_arrays(responses, RATES, video=video, behavior=BEHAVIOR)
    windows = windows_of(recording)
    responses.rows = video.rows = 0
    window = windows[3]
    assert (responses.rows, video.rows) == (60, 60)
    plain = windows_of(from_arrays(RESPONSES, RATES, video=VIDEO, behavior=BEHAVIOR))[3]
    assert all(torch.equal(window[name], plain[name]) for name in window)
    np.save(tmp_path / "responses.npy", RESPONSES)
    mapped = from_arrays(np.load(tmp_path / "responses.npy", mmap_mode="r"), RATES, video=VIDEO, behavior=BEHAVIOR)
    assert torch.equal(windows_of(mapped)[3]["responses"], plain["responses"])
    copy = pickle.loads(pickle.dumps(from_arrays(RESPONSES, RATES, video=VIDEO, behavior=BEHAVIOR)))
    assert torch.equal(windows_of(copy)[3]["video"], plain["video"])


def test_a_movie_shown_several_times_with_blanks():
    index = np.tile([*range(10), -1, -1], 100)
    recording = from_arrays(RESPONSES, RATES, video=VIDEO[:10], video_index=index, blank_level=128)
    window = windows_of(recording)[0]["video"][0] * 59 + 113
    row = round(windows_of(recording).starts[0] * 30)
    shown = index[row : row + 60]
    assert np.allclose(window[shown == -1], 128, atol=1e-4)
    assert np.allclose(window[shown >= 0], VIDEO[shown[shown >= 0]], atol=1e-4)


def test_frames_of_other_sizes_and_ranges():
    large = np.kron(VIDEO[:1200].astype(np.float32) / 255, np.ones((1, 2, 2), dtype=np.float32))
    recording = from_arrays(RESPONSES, RATES, video=large, video_range=(0, 1))
    plain = from_arrays(RESPONSES, RATES, video=VIDEO)
    assert torch.allclose(windows_of(recording)[0]["video"], windows_of(plain)[0]["video"], atol=1e-4)


@pytest.mark.parametrize(("n_in", "n_out"), [(144, 36), (100, 36), (36, 36), (20, 36), (37, 36), (1, 3)])
def test_area_weights_keep_the_mean_and_count_shares(n_in, n_out):
    weights = area_weights(n_in, n_out)
    assert np.allclose(weights.sum(axis=1), 1) and np.allclose(weights.sum(axis=0), n_out / n_in)
    # Against counting on a grid so fine that both sizes divide it.
    line = RNG.normal(size=n_in)
    fine = np.repeat(line, n_out).reshape(n_out, n_in).mean(axis=1)
    assert np.allclose(weights @ line, fine, atol=1e-6)
    assert area_resize(np.ones((2, n_in, n_in)), n_out, n_out).shape == (2, n_out, n_out)


def test_jitter_is_regular_and_lost_samples_are_held_then_missing():
    times = np.arange(100) / 20 + RNG.uniform(-0.01, 0.01, 100)
    assert as_clock("x", 100, None, times).rows is None
    kept = np.delete(np.arange(100), [*range(40, 60), 80])
    clock = as_clock("x", len(kept), None, kept / 20)
    held = hold(kept.astype(float), clock, Clock(0.0, 20.0, 100))
    assert np.array_equal(held[:43], [*range(40), 39, 39, 39]) and np.isnan(held[43:60]).all()
    assert np.array_equal(held[60:80], np.arange(60, 80)) and held[80] == 79


def test_windows_keep_away_from_a_gap_in_behaviour():
    times = np.delete(np.arange(SECONDS * 20) / 20, slice(200, 260))
    recording = from_arrays(
        RESPONSES, RATE, video=VIDEO, behavior={"gaze_x": np.sin(times)}, times={"behavior": times},
        trials=[(0, SECONDS, "train")],
    )  # fmt: skip
    starts = windows_of(recording).starts
    assert len(starts) and not ((starts > 8.2) & (starts < 12.9)).any()


def test_blocks_share_time_out_along_the_recording():
    blocks = tier_blocks(0.0, 1200.0, {"train": 0.8, "validation": 0.1, "test": 0.1}, 60.0)
    assert [sum(b[2] == tier for b in blocks) for tier in ("train", "validation", "test")] == [16, 2, 2]
    assert blocks[0][0] == 0 and blocks[-1][1] == 1200
    halves = [{b[2] for b in blocks[:10]}, {b[2] for b in blocks[10:]}]
    assert all(half == {"train", "validation", "test"} for half in halves)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"responses": RESPONSES[:, 0]}, r"responses: shape \(1200,\), expected \[samples, neurons\]"),
        ({"responses": [[1.0]]}, "list is no array"),
        ({"responses": RESPONSES.astype(object)}, "dtype object, expected real numbers"),
        ({"rate": None}, "neither rate nor times"),
        ({"rate": 0}, "expected Hz above 0"),
        ({"times": np.arange(10)}, r"times have shape \(10,\), expected \[1200\]"),
        ({"times": np.zeros(1200)}, "not finite and increasing; the first fault is at row 1"),
        ({"times": np.r_[np.arange(600), np.arange(1000, 1600)] / 30.0}, "times have gaps"),
        ({"video": VIDEO[:100]}, r'video: 100 rows, but the responses have 1200.*"video": ...'),
        ({"video": VIDEO[..., None].repeat(3, -1)}, "in colour"),
        ({"video": VIDEO / 255}, r"video_range=\(0, 1\)"),
        ({"video": VIDEO, "video_range": (0, 0)}, "values of black and white"),
        ({"video": VIDEO, "video_index": [0, 1200]}, "row number below 1200"),
        ({"video_index": [0]}, "no video"),
        ({"behavior": np.zeros((1200, 3))}, "3 columns for 5 channels"),
        ({"behavior": {"gaze_x": np.zeros((3, 4))}}, r"behavior 'gaze_x': shape \(3, 4\)"),
        ({"trials": [(0, 1)]}, r"trials\[0\]"),
        ({"trials": [(1, 0, "train")]}, "end after the start"),
        ({"trials": [(0, 2, "train"), (1, 3, "test")]}, "begins before"),
        ({"trials": []}, "trials is empty"),
        ({"trials": [(0, 9, "train")], "split": {"train": 1}}, "exclude each other"),
        ({"split": {"train": -1}}, "shares above 0"),
        ({"unit_ids": [1, 1, 2, 3, 4, 5]}, "5 distinct of 6, expected 6"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(**{"responses": RESPONSES, "rate": RATE, **arguments})


def test_validate_reports_what_is_wrong_with_the_values():
    broken = RESPONSES.copy()
    broken[5, 2] = np.nan
    findings = from_arrays(broken, RATE).validate()
    assert any(finding.field == "NaN values" and finding.severity == "warning" for finding in findings)
    short = from_arrays(RESPONSES[:60], RATE).validate()
    assert short[0].severity == "fatal" and short[0].field == "overlap"


def test_arrays_are_drawn_like_folders(tmp_path):
    recording = from_arrays(RESPONSES, RATES, video=VIDEO, behavior={"gaze_x": BEHAVIOR["gaze_x"]})
    picture = plot_recording(recording, tmp_path / "picture.svg").read_text()
    assert "Gaze x (stored units)" in picture and "there is no treadmill" in picture


def test_datasets_of_h5py_are_fine_tuned_and_scored(tmp_path):
    """A second thread cuts windows meanwhile: open files cannot be copied, and arrays should not be."""
    with h5py.File(tmp_path / "lab.h5", "w") as file:
        file["responses"], file["video"] = RESPONSES, VIDEO
    file = h5py.File(tmp_path / "lab.h5", "r")
    model = OmniMouseModel.from_pretrained("omnimouse-tiny")
    recording = from_arrays(file["responses"], RATES, video=file["video"], behavior=BEHAVIOR, session_key="m7-1-2")
    copied = copy.deepcopy(recording)
    assert copied.responses.data is recording.responses.data and copied.screen.frames is recording.screen.frames
    finetune(model, recording, steps=2, batch_size=2, max_validation_windows=1, progress=False)
    scores = evaluate(model, recording, tasks=["stimulus+behavior"], progress=False, max_windows=2)
    assert np.isfinite(scores.tasks["stimulus+behavior"].response_loss)
