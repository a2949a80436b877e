"""NWB files that contradict themselves, or say what cannot be: refused, or imported with a word about it."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from nwb_files import N_NEURONS, N_SAMPLES, RATE, RESPONSES, Change, add_series, add_trials, plain_file, replace

from omnimouse import import_nwb, open_recording
from omnimouse.cli.main import main
from omnimouse.recordings.nwb.importing import nwb_entries

SPEED = np.random.default_rng(1).gamma(1, 1, 600)
"""Thirty seconds at 20 Hz."""

SECONDS = N_SAMPLES / RATE


def changed(path: Path, *changes: Change) -> Path:
    """A file with changes, under a name of its own."""
    with plain_file(path) as file:
        for change in changes:
            change(file)
    return path


def warnings_of(recording) -> list[str]:
    return [str(finding) for finding in recording.validate() if finding.severity != "info"]


def with_times(times) -> Change:
    def change(file: h5py.File) -> None:
        del file[RESPONSES]["starting_time"]
        file[RESPONSES]["timestamps"] = times

    return change


def with_rate(rate) -> Change:
    return lambda file: file[RESPONSES]["starting_time"].attrs.update(rate=rate)


def with_running(data=SPEED, rate=None, times=None, **options) -> Change:
    return lambda file: add_series(file["processing"], "running_speed", data, rate, times, **options)


def with_movie(frames, rate=None, times=None) -> Change:
    return lambda file: add_series(file, "stimulus/presentation/movie", frames, rate, times)


def turned(file: h5py.File) -> None:
    replace(file[RESPONSES], "data", file[RESPONSES]["data"][()].T)


def without(*paths: str) -> Change:
    def change(file: h5py.File) -> None:
        for path in paths:
            del file[path]

    return change


ROIS, TABLE = f"{RESPONSES}/rois", "processing/ophys/ImageSegmentation"
FRAMES = np.random.default_rng(2).integers(0, 256, (300, 36, 64), dtype=np.uint8)
CLOCK = np.arange(N_SAMPLES) / RATE
STARTS = 3.0 * np.arange(10)

REFUSED = {
    "neurons first, by rois": ([turned], "8 rows and 300 columns, but .*/rois has 8.*responses_transposed: true"),
    "neurons first, by the table of regions": ([turned, without(ROIS)], "PlaneSegmentation has 8 entries"),
    "neurons first, by time stamps": (
        [turned, without(ROIS, TABLE), with_times(CLOCK)],
        "it has 300 time stamps, so its axes look swapped",
    ),
    "channels first, one": ([with_running(SPEED[None], 20.0)], r"\(1, 600\).*running_speed\[0, :\]"),
    "channels first, two": (
        [lambda file: add_series(file["processing"], "gaze", np.stack([SPEED, SPEED]), 20.0)],
        r"2 samples of 600 signals.*gaze\[0, :\]",
    ),
    "time last in frames": ([with_movie(np.moveaxis(FRAMES, 0, 2), 10.0)], r"\(36, 64, 300\).*time is not the first"),
    "frames taller than wide": ([with_movie(FRAMES.swapaxes(1, 2), 10.0)], "video_transposed: true"),
    "a period for a rate": ([with_rate(1 / 15)], "sampling interval in seconds; as a rate that is 15 Hz"),
    "a rate in mHz": ([with_rate(1e4)], "rate 10000 Hz, expected Hz, 1 to 1000"),
    "a rate that is no number": ([with_rate("fast")], "rate is 'fast', expected a finite number"),
    "milliseconds": ([with_times(CLOCK * 1e3)], "They look like milliseconds"),
    "microseconds": ([with_times(CLOCK * 1e6)], "They look like microseconds"),
    "nanoseconds": ([with_times((CLOCK * 1e9).astype(np.int64))], "They look like nanoseconds"),
    "frame numbers": ([with_times(np.arange(N_SAMPLES))], "They look like frame numbers"),
    "one time far away": ([with_times(np.append(CLOCK[:-1], 1e15))], "at most a week"),
    "a unit that is none of time": (
        [lambda file: file[RESPONSES]["starting_time"].attrs.update(unit="frames")],
        "times in 'frames', expected seconds",
    ),
    "a start that is no number": (
        [lambda file: replace(file[RESPONSES], "starting_time", "zero")],
        "expected a number of seconds",
    ),
    "behaviour in milliseconds": ([with_running(times=np.arange(600) * 50.0)], "running_speed/timestamps: .*millisec"),
    "behaviour on another clock": (
        [with_running(times=1.6e9 + np.arange(600) / 20)],
        r"running_speed: from 1.6e\+09 .*responses from 0 to 29.9 s, so they share no time",
    ),
    "trials in milliseconds": (
        [lambda file: add_trials(file, STARTS * 1e3, STARTS * 1e3 + 3e3)],
        "intervals/trials: 10 of 10 trials outside.*look like milliseconds",
    ),
    "trials in frame numbers": (
        [lambda file: add_trials(file, STARTS * RATE, (STARTS + 3) * RATE)],
        "They look like frame numbers: divide them by 10",
    ),
    "trials that overlap": ([lambda file: add_trials(file, STARTS, STARTS + 4)], "before the one from 0.0 s ends"),
    "trials of two lengths": ([lambda file: add_trials(file, STARTS, STARTS[:5])], "10 start times and 5 stop times"),
    "times that are text": ([lambda file: add_trials(file, STARTS, ["x"] * 10)], "stop_time is no column of numbers"),
    "regions beyond their table": (
        [lambda file: file[ROIS].write_direct(np.array([99]), dest_sel=np.s_[:1])],
        "points to rows 1 to 99 of .*PlaneSegmentation, which has 8",
    ),
    "a table that is gone": ([without(TABLE)], "rois: its table points to nothing in the file"),
    "no conversion": ([lambda file: file[RESPONSES]["data"].attrs.update(conversion=0.0)], "its conversion is 0"),
    "values never written": (
        [lambda file: replace_by_room(file, written=150)],
        "room for 300 x 8 values, but only 6 of 12 parts of it were ever written",
    ),
    "an absurd size": ([lambda file: replace_by_room(file, rows=10**12)], "only 0 of 40000000000 parts"),
    "a virtual data set whose files are gone": ([lambda file: virtual(file)], r"1 cannot be read \(gone.h5\)"),
    "time stamps behind a dangling link": (
        [with_times(CLOCK), lambda file: link(file, f"{RESPONSES}/timestamps", h5py.SoftLink("/nope"))],
        "timestamps is a link to /nope, which the file does not have",
    ),
    "responses behind a dangling link": (
        [lambda file: link(file, f"{RESPONSES}/data", h5py.ExternalLink("gone.h5", "/x"))],
        "no RoiResponseSeries.*plane0/data is a link to /x in another file, gone.h5",
    ),
    "an index beyond the images": ([lambda file: indexed(file, np.arange(300) + 10)], "image 309, but .* has 300"),
    "an index of fractions": ([lambda file: indexed(file, np.arange(300) + 0.5)], "0.5 at frame 0, expected one whole"),
}  # fmt: skip


def replace_by_room(file: h5py.File, rows: int = N_SAMPLES, written: int = 0) -> None:
    """Responses of which only the first rows were written."""
    values = file[RESPONSES]["data"][:written]
    del file[RESPONSES]["data"]
    room = file[RESPONSES].create_dataset("data", shape=(rows, N_NEURONS), dtype="f4", chunks=(25, N_NEURONS))
    room[:written] = values


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((N_SAMPLES, N_NEURONS), "f4")
    layout[:] = h5py.VirtualSource("gone.h5", "data", (N_SAMPLES, N_NEURONS))
    del file[RESPONSES]["data"]
    file[RESPONSES].create_virtual_dataset("data", layout)


def link(file: h5py.File, path: str, target) -> None:
    del file[path]
    file[path] = target


def indexed(file: h5py.File, index: np.ndarray) -> None:
    series = add_series(file, "stimulus/presentation/movie", index, 10.0)
    file["stimulus/templates/frames/data"] = FRAMES
    series["indexed_timeseries"] = h5py.SoftLink("/stimulus/templates/frames")


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_leaves_nothing(case, tmp_path):
    changes, message = REFUSED[case]
    file = changed(tmp_path / "session.nwb", *changes)
    nwb_entries(file)  # whatever is wrong, what there is can be listed
    with pytest.raises(ValueError, match=message):
        import_nwb(file, tmp_path / "imported")
    assert [path.name for path in tmp_path.iterdir()] == ["session.nwb"]


WARNED = {
    "neurons first, by nothing": (
        [turned, without(ROIS, TABLE)],
        "looks like .neurons, samples., imported as 300 neurons",
    ),
    "other regions than columns": (
        [lambda file: replace(file[RESPONSES], "rois", np.arange(5))],
        "rois: expected 8, .* found 5 entries",
    ),
    "ids that are there twice": (
        [lambda file: file[f"{TABLE}/PlaneSegmentation/id"].write_direct(np.array([11]), dest_sel=np.s_[:1])],
        "8 ids, 7 of them distinct",
    ),
    "running that ends early": ([with_running(SPEED[:200], 20.0)], r"ends at (9\.95|10\.00) s, .* s before"),
    "running at five times its rate": ([with_running(rate=100)], r"At 20\S* Hz instead of 100 Hz both"),
    "running that begins late": (
        [with_running(SPEED[:240], times=18 + np.arange(240) / 20)],
        r"(running_speed|treadmill) begins at 18\.00 s, 18\.00 s after the responses",
    ),
    "a movie in milliseconds": ([with_movie(FRAMES, times=CLOCK * 100)], r"ends at (2990|3000)\.00 s"),
    "trials beyond the end": (
        [lambda file: add_trials(file, STARTS + 9, STARTS + 12)],
        "trials: .*3 of 10 trials outside, the first from 30 to 33 s",
    ),
    "a trial that never ended": (
        [lambda file: add_trials(file, STARTS, np.append(STARTS[:-1] + 3, np.nan))],
        "1 of 10 trials without one of them",
    ),
    "lists of conditions": (
        [lambda file: add_trials(file, condition=["a"] * 20, condition_index=2 * np.arange(1, 11))],
        "condition: .*a list of values a row, up to 2",
    ),
    "a misspelt channel": (
        [lambda file: add_series(file["processing"], "runing_sped", SPEED, 20.0)],
        "runing_sped: .*its name is like running_speed",
    ),
    "a position for a speed": ([with_running(rate=20.0, unit="cm")], "in 'cm', which is no unit of speed"),
    "behaviour behind a dangling link": (
        [lambda file: file["processing"].__setitem__("running_speed", h5py.ExternalLink("gone.h5", "/x"))],
        "processing/running_speed: .*another file, gone.h5, which cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WARNED)
def test_what_is_odd_is_said_at_import_and_by_every_later_check(case, tmp_path):
    changes, message = WARNED[case]
    said: list[str] = []
    imported = import_nwb(changed(tmp_path / "session.nwb", *changes), tmp_path / "imported", report=said.append)
    for lines in (said, warnings_of(imported), warnings_of(open_recording(tmp_path / "imported"))):
        assert [line for line in lines if re.search(message, line)], lines
    assert main(["check", str(tmp_path / "imported")]) in (0, 1)


def test_a_sound_file_is_imported_without_a_warning(tmp_path):
    file = changed(
        tmp_path / "session.nwb",
        with_running(rate=20.0),
        with_movie(FRAMES, 10.0),
        lambda file: add_trials(file, condition=np.arange(10)),
    )
    imported = import_nwb(file, tmp_path / "imported")
    # Single trials of 3 s are short, and all that is said is of them.
    assert not [text for text in warnings_of(imported) if "windows of tier" not in text and "stds" not in text]
    assert imported.unit_ids.tolist() == list(range(10, 18))


def test_neurons_first_is_imported_right_when_the_mapping_says_so(tmp_path):
    file = changed(tmp_path / "session.nwb", turned, with_running(np.stack([SPEED, SPEED * 2]), 20.0))
    with h5py.File(file) as stored:
        values = stored[RESPONSES]["data"][()]
    mapping = {
        "responses_transposed": True,
        "behavior": {"running_speed": "processing/running_speed[1, :]", "pupil_size": "processing/running_speed[0, :]"},
    }
    imported = import_nwb(file, tmp_path / "imported", mapping=mapping)
    assert np.array_equal(imported.responses.data, values.T) and imported.unit_ids.tolist() == list(range(10, 18))
    assert np.array_equal(imported.treadmill.data[:, 0], SPEED * 2)
    assert np.array_equal(imported.eye_tracker.data[:, 0], SPEED)
    as_it_is = {"responses_transposed": False, "behavior": {"running_speed": "none"}}
    stated = import_nwb(file, tmp_path / "as it is", mapping=as_it_is)
    assert stated.n_neurons == N_SAMPLES and any("8 entries" in text for text in warnings_of(stated))
    beyond = {**mapping, "behavior": {"running_speed": "processing/running_speed[2, :]"}}
    with pytest.raises(ValueError, match=r"name one of its 2 rows as processing/running_speed\[0, :\]"):
        import_nwb(file, tmp_path / "none", mapping=beyond)


def test_clocks_conversions_and_missing_values_are_followed(tmp_path):
    def change(file: h5py.File) -> None:
        values = file[RESPONSES]["data"][()]
        values[3, 2] = -1
        data = replace(file[RESPONSES], "data", values, fillvalue=-1.0, chunks=(50, 3))
        data.attrs.update(conversion=2.0, offset=1.0)
        file[RESPONSES]["channel_conversion"] = np.arange(1.0, 9.0)
        file[RESPONSES]["starting_time"].attrs["unit"] = "milliseconds"
        replace(file[RESPONSES], "starting_time", 500.0)
        speed = SPEED.astype(np.float32)
        speed[7] = -9999
        series = add_series(file["processing"], "running_speed", speed, times=500 + np.arange(600) * 50.0)
        series["timestamps"].attrs["unit"] = "milliseconds"

    file = changed(tmp_path / "session.nwb", change)
    imported = import_nwb(file, tmp_path / "imported")
    with h5py.File(file) as stored:
        expected = stored[RESPONSES]["data"][()] * np.arange(2.0, 18.0, 2.0, dtype=np.float32) + 1
    expected[3, 2] = np.nan
    assert np.array_equal(imported.responses.data, expected, equal_nan=True)
    assert (imported.responses.start_time, imported.treadmill.start_time) == (0.5, 0.5)
    assert np.isnan(imported.treadmill.data[7, 0]) and np.isnan(imported.treadmill.data).sum() == 1
    assert any("1 of 600 values of running_speed that stand for none (-9999)" in str(f) for f in imported.findings)


def test_trials_that_adjoin_up_to_rounding_are_accepted(tmp_path):
    starts = 2.3 * np.arange(12)
    file = changed(tmp_path / "session.nwb", lambda f: add_trials(f, starts, starts + 2.3, tier=["train"] * 12))
    assert ((starts + 2.3)[:-1] > starts[1:]).any()
    assert len([t for t in import_nwb(file, tmp_path / "imported").trials if t.tier == "train"]) == 12


def test_trials_are_in_the_unit_that_their_table_states(tmp_path):
    def change(file: h5py.File) -> None:
        table = add_trials(file, STARTS * 1e3, STARTS * 1e3 + 3e3)
        for name in ("start_time", "stop_time"):
            table[name].attrs["unit"] = "ms"

    trials = import_nwb(changed(tmp_path / "session.nwb", change), tmp_path / "imported").trials
    assert [trial.start for trial in trials] == STARTS.tolist()


def test_damaged_notes_are_a_finding_and_no_obstacle(tmp_path):
    file = changed(tmp_path / "session.nwb", with_running(rate=20.0, unit="cm"))
    import_nwb(file, tmp_path / "imported")
    meta = tmp_path / "imported/meta.json"
    text = meta.read_text()
    for damaged in (text.replace('"severity"', '"sever"'), re.sub(r'"notes": \[.*?\]', '"notes": 3', text, flags=re.S)):
        meta.write_text(damaged)
        assert any(": notes: expected findings with" in text for text in warnings_of(open_recording(meta.parent)))
