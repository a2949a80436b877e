"""Windows: parity with the published pipelines, the rules of the strict profile, and what cutting them promises."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import Recording, Windows, mean_responses, open_recording, recording_from_arrays

DATA = Path(__file__).parents[1] / "data" / "recordings"
KEYS = ("17797-4-7", "22083-2-19")
SELECTIONS = ("train_stride1", "validation_stride60", "validation_noblank", "final_test_stride30", "train_noblank")


def shown_frames(folder: Path) -> dict[int, np.ndarray]:
    """Grey levels of every displayed frame by its number over the session, the slow and obvious way."""
    frames = {}
    for file in sorted((folder / "screen/meta").glob("*.yml")):
        meta = yaml.safe_load(file.read_text())
        stimulus = folder / "screen/data" / f"{file.stem}.npy"
        values = np.load(stimulus) if stimulus.exists() else np.float32(meta.get("interleave_value", np.nan))
        for number in range(meta["num_frames"]):
            value = values[number] if np.ndim(values) == 3 else values
            frames[meta["first_frame_idx"] + number] = np.broadcast_to(value, (36, 64)).astype(np.float32)
    return frames


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("profile", "branch"), [("published", "fm"), ("experanto-main", "main")])
def test_windows_equal_those_of_the_published_pipelines(stored_session, profile, branch, key, selection):
    folder = stored_session(key)
    reference = np.load(DATA / f"windows_{branch}_{key}.npz")
    chosen = json.loads(str(reference["selections"]))[selection]
    windows = Windows(
        open_recording(folder), chosen["tiers"], chosen["stride"], chosen["include_blanks"], OmniMouseProcessor(profile)
    )
    starts = reference[f"{selection}.starts"]
    assert windows.starts.dtype == np.float64
    assert windows.starts.tobytes() == starts.tobytes()
    assert len(windows) == chosen["n_windows"]
    frames = shown_frames(folder)
    for index in chosen["window_indices"]:
        window = windows[index]
        assert {name: tensor.dtype for name, tensor in window.items()} == dict.fromkeys(window, torch.float32)
        for name in ("responses", "behavior"):
            expected = reference[f"{selection}.{index}.{name}"]
            np.testing.assert_allclose(window[name].numpy(), expected, rtol=0, atol=1e-6, equal_nan=True)
        expected = np.stack([frames[number] for number in reference[f"{selection}.{index}.frames"]])
        expected = (expected - np.float32(113)) / np.float32(59)
        assert window["video"].shape == (1, 60, 36, 64)
        np.testing.assert_allclose(window["video"][0, ::7].numpy(), expected, rtol=0, atol=1e-6, equal_nan=True)


def test_every_reference_session_has_a_selection_without_windows_and_one_with_nan_video(stored_session):
    recording = open_recording(stored_session("22083-2-19"))
    assert len(Windows(recording, ["validation"], 60, include_blanks=False)) == 0
    windows = Windows(open_recording(stored_session("17797-4-7")), ["final_test"], 30)
    assert any(torch.isnan(windows[index]["video"]).any() for index in range(len(windows)))


@pytest.fixture
def recording(write_session) -> Recording:
    return open_recording(write_session())


def strict(**changes) -> OmniMouseProcessor:
    return OmniMouseProcessor("strict", **changes)


def test_strict_leaves_invalid_trials_out(recording):
    invalid = next(trial for trial in recording.trials if trial.modality == "invalid")
    windows = Windows(recording, recording.tiers, processor=strict())
    assert len(windows)
    assert not ((windows.starts + 2 > invalid.start + 0.05) & (windows.starts < invalid.end)).any()
    assert not any(torch.isnan(windows[index]["video"]).any() for index in range(0, len(windows), 7))
    published = Windows(recording, recording.tiers)
    assert ((published.starts >= invalid.start) & (published.starts < invalid.end)).any()


def test_strict_restarts_the_stride_in_every_trial(recording):
    every = Windows(recording, recording.tiers, processor=strict())
    kept = Windows(recording, recording.tiers, 25, processor=strict())
    trials = [every.trial_index(index) for index in range(len(every))]
    expected = [
        start
        for trial in dict.fromkeys(trials)
        for start in [start for start, of in zip(every.starts, trials, strict=True) if of == trial][::25]
    ]
    assert kept.starts.tolist() == expected
    published = OmniMouseProcessor("published")
    every = Windows(recording, recording.tiers, processor=published)
    assert Windows(recording, recording.tiers, 25, processor=published).starts.tolist() == every.starts[::25].tolist()


@pytest.mark.parametrize(("profile", "empty"), [("published", False), ("experanto-main", False), ("strict", True)])
def test_a_filter_that_leaves_nothing_is_ignored_or_obeyed(write_session, edit_yaml, profile, empty):
    folder = write_session()
    # Without the usual overshoot: a sliver of valid time at the end would make the filter obeyed by every profile.
    meta = folder / "eye_tracker/meta.yml"
    edit_yaml(meta, end_time=yaml.safe_load(meta.read_text())["start_time"] + 529 / 19.97)
    eye = np.load(folder / "eye_tracker/data.npy")
    eye[:, 2] = np.nan
    np.save(folder / "eye_tracker/data.npy", eye)
    windows = Windows(open_recording(folder), "train", processor=OmniMouseProcessor(profile))
    assert (len(windows) == 0) == empty
    if empty:
        assert "0 valid" in windows.explain()


def test_windows_keep_away_from_nan_samples(write_session):
    folder = write_session()
    eye = np.load(folder / "eye_tracker/data.npy")
    eye[300, 3] = np.nan
    np.save(folder / "eye_tracker/data.npy", eye)
    recording = open_recording(folder)
    at = recording.eye_tracker.start_time + 300 / 19.97
    last_point = 59 / 30
    for profile, buffer in (("strict", 0.05), ("experanto-main", 0.05), ("published", 0.05 + 2 / 19.97)):
        windows = Windows(recording, recording.tiers, processor=OmniMouseProcessor(profile))
        after, before = windows.starts - at, at - (windows.starts + last_point)
        assert ((after >= buffer - 1e-6) | (before > buffer - 1e-6)).all()
        assert after[after > 0].min() < buffer + 1 / 30
        assert all(torch.isfinite(windows[index]["behavior"]).all() for index in range(len(windows)))


def test_a_window_shows_the_frames_rows_and_samples_of_its_time(recording):
    windows = Windows(recording, ["train", "validation"], include_blanks=False, processor=strict())
    responses = np.load(recording.responses.file)
    speed = np.load(recording.treadmill.file)[:, 0]
    for index in (0, len(windows) // 2, len(windows) - 1):
        start, window = windows.starts[index], windows[index]
        trial = recording.trials[windows.trial_index(index)]
        assert trial.start <= start < trial.end
        times = start + np.arange(60) / 30
        shown = [np.flatnonzero(recording.screen.timestamps <= time + 1e-4)[-1] for time in times]
        grey = window["video"][0, :, 0, 0].numpy() * 59 + 113
        for frame, level in zip(shown, grey, strict=True):
            of = [trial for trial in recording.trials if trial.first_frame <= frame][-1]
            assert level == pytest.approx(frame - of.first_frame, abs=1e-3)
        rows = np.floor((times - recording.responses.start_time) * 30 + 3e-4).astype(int)
        assert windows.response_indices(index).tolist() == rows.tolist()
        stds = np.load(recording.responses.file.parent / "meta/stds.npy")[0]
        np.testing.assert_allclose(window["responses"].numpy(), responses[rows] / stds, rtol=1e-5)
        rows = np.floor((start + np.arange(40) / 20 - recording.treadmill.start_time) * 75.31 + 7e-4).astype(int)
        expected = (speed[rows] - recording.treadmill.means) / recording.treadmill.stds
        np.testing.assert_allclose(window["behavior"][4].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_mem_file_gives_the_same_windows(write_session):
    plain = Windows(open_recording(write_session("a")), "train", 20, include_blanks=False)
    mapped = Windows(open_recording(write_session("b", mem=True)), "train", 20, include_blanks=False)
    assert len(plain) and plain.starts.tolist() == mapped.starts.tolist()
    assert all(torch.equal(plain[i][name], mapped[i][name]) for i in range(len(plain)) for name in plain[i])


@pytest.mark.parametrize("profile", ["published", "experanto-main", "strict"])
def test_phase_shifts_look_every_neuron_up_at_its_own_time(write_session, edit_yaml, profile):
    folder = write_session()
    shifts = np.array([0.0, 0.012, 0.05, -0.02, 0.11])
    np.save(folder / "responses/meta/phase_shifts.npy", shifts)
    edit_yaml(folder / "responses/meta.yml", phase_shift_per_signal=True)
    recording = open_recording(folder)
    # With 0.5 s, queries of the neuron shifted most would fall on the very edges of rows, where rounding decides.
    windows = Windows(recording, "train", processor=OmniMouseProcessor(profile, safe_interval=0.51))
    responses, stds = np.load(folder / "responses/data.npy"), recording.responses.stds
    for index in (0, len(windows) - 1):
        seen = windows[index]["responses"].numpy()
        for neuron, shift in enumerate(shifts):
            position = (windows.starts[index] + np.arange(60) / 30 - shift - recording.responses.start_time) * 30
            expected = responses[np.floor(position).astype(int), neuron] / stds[neuron]
            np.testing.assert_allclose(seen[:, neuron], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="without phase shifts"):
        windows.response_indices(0)


def test_the_time_rules_differ_as_the_pipelines_do(write_session):
    """A grid that starts half a second after the responses drifts by np.arange, and floors land a sample earlier."""
    folder = write_session()
    timestamps = np.load(folder / "screen/timestamps.npy")
    np.save(folder / "screen/timestamps.npy", timestamps - 1.0)
    recording = open_recording(folder)
    assert recording.start_time == recording.responses.start_time
    exact = Windows(recording, recording.tiers, processor=strict(blank_rule="no_tier"))
    drifting = Windows(recording, recording.tiers, processor=OmniMouseProcessor("published"))
    assert len(exact) == len(drifting)
    first = np.array([exact.response_indices(index)[0] for index in range(len(exact))])
    expected = np.round((exact.starts - recording.start_time) * 30).astype(int)
    assert first.tolist() == expected.tolist()
    early = first - np.array([drifting.response_indices(index)[0] for index in range(len(drifting))])
    assert set(early.tolist()) <= {0, 1} and early.mean() > 0.9


def test_no_window_reads_beyond_the_stored_samples(write_session, edit_yaml):
    folder = write_session()
    responses = np.load(folder / "responses/data.npy")
    np.save(folder / "responses/data.npy", responses[:600])
    edit_yaml(folder / "responses/meta.yml", n_timestamps=600)
    recording = open_recording(folder)
    for profile in ("published", "experanto-main", "strict"):
        windows = Windows(recording, recording.tiers, processor=OmniMouseProcessor(profile))
        assert windows.response_indices(len(windows) - 1)[-1] in (598, 599)
        assert " 0 to missing samples" not in windows.explain()
        # The grid itself stays where the metadata puts it.
        whole = Windows(open_recording(write_session(profile)), recording.tiers, processor=OmniMouseProcessor(profile))
        assert set(windows.starts) < set(whole.starts)


def test_behavior_without_spread_is_left_unscaled_only_by_strict(write_session):
    folder = write_session()
    np.save(folder / "treadmill/meta/stds.npy", np.zeros((1, 1)))
    recording = open_recording(folder)
    speed = np.load(folder / "treadmill/data.npy")
    window = Windows(recording, "train", processor=strict())[0]
    assert window["behavior"][4].min() >= speed.min() - recording.treadmill.means[0] - 1e-5
    assert torch.isinf(Windows(recording, "train")[0]["behavior"][4]).any()


def test_missing_statistics_come_from_the_train_tier(write_session, tree_hash):
    folder = write_session()
    for device in ("responses", "treadmill"):
        (folder / device / "meta/stds.npy").unlink()
        (folder / device / "meta/means.npy").unlink()
    before = tree_hash(folder)
    recording = open_recording(folder)
    assert [finding.field for finding in recording.findings] == ["file"] * 4
    with pytest.warns(UserWarning, match="responses, treadmill"):
        windows = Windows(recording, "train", processor=strict())
    for device in (recording.responses, recording.treadmill):
        times = device.start_time + np.arange(device.shape[0]) / device.sampling_rate
        inside = np.zeros(len(times), dtype=bool)
        for trial in recording.trials:
            inside |= (trial.tier == "train") & (times >= trial.start) & (times < trial.end)
        values = np.asarray(device.data)[inside].astype(np.float64)
        means, stds = recording.statistics(device)
        np.testing.assert_allclose(means, values.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(stds, values.std(axis=0), rtol=1e-9)
    assert torch.isfinite(windows[0]["responses"]).all()
    assert tree_hash(folder) == before


def test_mean_responses_is_the_mean_of_processed_samples_inside_trials(recording):
    responses = np.load(recording.responses.file)
    times = recording.responses.start_time + np.arange(len(responses)) / 30
    for tiers in (("train",), ("validation", "oracle")):
        inside = [any(t.tier in tiers and t.start <= time < t.end for t in recording.trials) for time in times]
        for profile in ("published", "strict"):
            processor = OmniMouseProcessor(profile)
            scaled = responses[inside] / processor.floored_response_stds(recording.responses.stds)
            np.testing.assert_allclose(
                mean_responses(recording, processor, tiers=tiers), scaled.mean(axis=0), rtol=1e-6
            )
    with pytest.raises(ValueError, match="'final_test'"):
        mean_responses(recording, OmniMouseProcessor(), tiers=("nowhere",))


def test_mean_responses_leaves_out_what_is_not_finite(write_session):
    folder = write_session()
    stored = np.load(folder / "responses/data.npy")
    recording = open_recording(folder)
    rows = recording.row_ranges(recording.responses, ("train",))[0]
    stored[rows.start, 1], stored[rows.start + 1, 1], stored[:, 2] = np.inf, np.nan, np.inf
    np.save(folder / "responses/data.npy", stored)
    means = mean_responses(open_recording(folder), OmniMouseProcessor())
    assert np.isfinite(means[[0, 1, 3, 4]]).all() and np.isnan(means[2])


def test_batches_stack_windows_and_iteration_ends(recording):
    windows = Windows(recording, "train", 30)
    batch = windows.batch([0, 1])
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "responses": (2, 60, 5),
        "video": (2, 1, 60, 36, 64),
        "behavior": (2, 5, 40),
    }
    assert all(torch.equal(batch[name][1], windows[1][name]) for name in batch)
    assert len(list(windows)) == len(windows)
    assert torch.equal(windows[-1]["responses"], windows[len(windows) - 1]["responses"])
    with pytest.raises(ValueError, match="at least one index"):
        windows.batch([])


def test_windows_can_be_pickled_and_take_no_array_along(recording):
    windows = Windows(recording, "train", 30)
    expected = windows[0]
    stored = pickle.dumps(windows)
    assert len(stored) < 20_000
    restored = pickle.loads(stored)
    assert restored.starts.tolist() == windows.starts.tolist()
    assert all(torch.equal(restored[0][name], expected[name]) for name in expected)


def test_windows_belong_to_the_caller(recording):
    windows = Windows(recording, "train", 30)
    before = {name: tensor.clone() for name, tensor in windows[0].items()}
    for tensor in windows[0].values():
        tensor.zero_()
    assert all(torch.equal(windows[0][name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tiers": ["train", "trian"]}, r"no tier 'trian'; the tiers of this recording are: 'train', 'validation'"),
        ({"tiers": []}, "no tier was asked for"),
        ({"tiers": "train", "stride": 0}, "stride is 0"),
        ({"tiers": "train", "stride": 1.5}, "stride is 1.5"),
    ],
)
def test_wrong_requests_are_refused(recording, arguments, message):
    with pytest.raises(ValueError, match=message):
        Windows(recording, **arguments)


def test_no_window_is_no_error_and_is_explained(recording):
    windows = Windows(recording, "train", processor=strict(num_frames=600))
    assert len(windows) == 0 and list(windows) == []
    assert "to duration (less than 20 s of both follow)" in windows.explain()
    counts = windows._counts
    lost = counts["tier"] + counts["filter"] + counts["duration"] + counts["samples"]
    assert counts["grid"] == lost + counts["valid"]


def test_frames_of_another_size_are_refused_with_their_file(write_session):
    folder = write_session()
    np.save(folder / "screen/data/00001.npy", np.zeros((120, 64, 36), np.uint8))
    windows = Windows(open_recording(folder), "train", include_blanks=False)
    with pytest.raises(ValueError, match=r"00001\.npy: shape \(120, 64, 36\), expected \(frames, 36, 64\)"):
        windows[0]


def test_other_windows_lengths_and_rates(recording):
    processor = strict(num_frames=30, num_response_samples=15, response_rate=15.0, num_behavior_samples=20)
    window = Windows(recording, "train", processor=processor)[0]
    assert [tuple(window[name].shape) for name in window] == [(15, 5), (1, 30, 36, 64), (5, 20)]


def test_a_moved_folder_gives_the_same_windows(write_session, tmp_path):
    folder = write_session()
    starts = Windows(open_recording(folder), "train").starts
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    assert Windows(open_recording(moved), "train").starts.tolist() == starts.tolist()


def test_windows_begin_and_end_at_the_edges_of_trials():
    """Grid points fall on every edge: a trial has its first moment and not its last, time in no trial is nobody's."""
    spans = [(1, 4, "train"), (4, 7, "validation"), (8, 11, "train"), (11, 13, "train"), (14, 16, "train")]
    responses = np.random.default_rng(0).gamma(2, 2, (480, 3))
    recording = recording_from_arrays(responses, 30.0, trials=spans)
    for tier in ("train", "validation"):
        windows = Windows(recording, tier, processor=strict(safe_interval=0.0))
        of = [tier in [name for first, end, name in spans if first * 30 <= point < end * 30] for point in range(480)]
        expected = [point / 30 for point in range(421) if all(of[point : point + 60])]
        assert windows.starts.tolist() == expected
        found = [windows.trial_index(index) for index in range(len(windows))]
        assert found == [sum(first <= start for first, _, _ in spans) - 1 for start in expected]
    assert windows.starts[[0, -1]].tolist() == [4, 5]
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_a_recording_of_one_window_has_one():
    recording = recording_from_arrays(np.ones((60, 3)), 30.0, trials=[(0, 2, "train")])
    assert Windows(recording, "train", processor=strict(safe_interval=0.0)).starts.tolist() == [0.0]


def test_rows_of_a_tier_are_those_sampled_inside_its_trials():
    spans = [(1, 2, "train"), (2, 3, "train"), (3, 4, "validation"), (4.01, 5, "train"), (6, 9, "train")]
    recording = recording_from_arrays(np.arange(240.0)[:, None] + [0, 7], 30.0, trials=spans)
    assert recording.row_ranges(recording.responses, ("train",)) == [slice(30, 90), slice(121, 150), slice(180, 240)]
    rows = np.r_[30:90, 121:150, 180:240]
    scaled = mean_responses(recording, strict()) * recording.statistics(recording.responses)[1]
    np.testing.assert_allclose(scaled, [rows.mean(), rows.mean() + 7])
    np.testing.assert_allclose(recording.statistics(recording.responses)[1], np.std(rows))
    both = mean_responses(recording, strict(), tiers=("train", "validation"))
    assert (both != mean_responses(recording, strict())).all()


def test_a_movie_that_is_one_frame_short_is_named(write_session):
    folder = write_session()
    np.save(folder / "screen/data/00001.npy", np.zeros((119, 36, 64), np.uint8))
    screen = open_recording(folder).screen
    trial = screen.trials[1]
    last = screen.timestamps[trial.first_frame + trial.n_frames - 2 :][:1]
    assert screen.frames_at(last, height=36, width=64).shape == (1, 36, 64)
    with pytest.raises(ValueError, match=r"119 frames, but frame 119 was shown"):
        screen.frames_at(last + 1 / 30, height=36, width=64)
