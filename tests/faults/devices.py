"""Faults of responses, eye tracker and treadmill in experanto's layout."""

from __future__ import annotations

import shutil

import numpy as np

from faults.tools import STATISTICS, Group, change, edit, setting

GROUPS: dict[str, Group] = {}

GROUPS["Numbers of signals disagree"] = {
    "n_signals other than the columns": (
        lambda f: edit(f / "responses/meta.yml", n_signals=6),
        "fatal",
        "responses/meta.yml",
        "n_signals",
        ("expected 5", "found 6"),
    ),
    "swapped axes": (
        lambda f: change(f / "responses/data.npy", lambda array: array.T.copy()),
        "fatal",
        "responses/meta.yml",
        "n_signals",
        ("swapped", "time along rows"),
    ),
    "axes that are swapped in data.npy and in meta.yml": (
        lambda f: [
            change(f / "responses/data.npy", lambda array: array.T.copy()),
            edit(f / "responses/meta.yml", n_signals=720, n_timestamps=5),
        ],
        "fatal",
        "responses/data.npy",
        "axes",
        ("(5, 720)", "5 neurons are named", "Transpose"),
    ),
    "the same of a device without companion files": (
        lambda f: [
            shutil.rmtree(f / "treadmill/meta"),
            np.save(f / "treadmill/data.npy", np.ones((2, 1960))),
            edit(f / "treadmill/meta.yml", n_signals=1960, n_timestamps=2),
        ],
        "fatal",
        "treadmill/meta.yml",
        "sampling_rate",
        ("axes look swapped", "1960 columns"),
    ),
    "unit_ids that are a link to nothing": (
        lambda f: [
            (f / "responses/meta/unit_ids.npy").unlink(),
            (f / "responses/meta/unit_ids.npy").symlink_to("../../../annex/ids.npy"),
        ],
        "fatal",
        "meta/unit_ids.npy",
        "file",
        ("a link to", "where nothing is"),
    ),
    "means of another length": (
        lambda f: np.save(f / "responses/meta/means.npy", np.ones((1, 4))),
        "fatal",
        "responses/meta/means.npy",
        "length",
        ("expected 5", "found 4"),
    ),
    "stds of another length": (
        lambda f: np.save(f / "treadmill/meta/stds.npy", np.ones(3)),
        "fatal",
        "treadmill/meta/stds.npy",
        "length",
        ("expected 1", "found 3"),
    ),
    "unit_ids of another length": (
        lambda f: np.save(f / "responses/meta/unit_ids.npy", np.arange(6)),
        "fatal",
        "meta/unit_ids.npy",
        "length",
        ("expected 5", "found 6"),
    ),
    "coordinates of another length": (
        lambda f: np.save(f / "responses/meta/cell_motor_coordinates.npy", np.zeros((4, 3))),
        "warning",
        "cell_motor_coordinates.npy",
        "length",
        ("expected 5", "(4, 3)"),
    ),
    "phase shifts without their file": (
        lambda f: edit(f / "responses/meta.yml", phase_shift_per_signal=True),
        "fatal",
        "meta/phase_shifts.npy",
        "file",
        ("no such file",),
    ),
    "phase shifts that are not finite": (
        lambda f: (
            edit(f / "responses/meta.yml", phase_shift_per_signal=True),
            np.save(f / "responses/meta/phase_shifts.npy", np.array([0.0, np.nan, 0.0, 0.0, 0.0])),
        ),
        "fatal",
        "phase_shifts.npy",
        "phase shifts",
        ("1 of 5", "signal 1"),
    ),
    "imaging fields of another length": (
        lambda f: np.save(f / "responses/meta/fields.npy", np.zeros(4)),
        "warning",
        "responses/meta/fields.npy",
        "length",
        ("expected 5", "(4,)"),
    ),
    "phase shifts of another length": (
        lambda f: (
            edit(f / "responses/meta.yml", phase_shift_per_signal=True),
            np.save(f / "responses/meta/phase_shifts.npy", np.zeros(4)),
        ),
        "fatal",
        "responses/meta/phase_shifts.npy",
        "length",
        ("expected 5", "found 4"),
    ),
    "two treadmill columns under n_signals: 1": (
        lambda f: change(f / "treadmill/data.npy", lambda a: np.hstack([a, a])),
        "fatal",
        "treadmill/meta.yml",
        "n_signals",
        ("expected 2", "found 1"),
    ),
    "unit_ids outside the device's folder": (
        lambda f: edit(f / "responses/meta.yml", neuron_properties={"unit_ids": "../../ids.npy"}),
        "warning",
        "responses/meta.yml",
        "neuron_properties.unit_ids",
        ("'../../ids.npy'", "not read"),
    ),
}

GROUPS["Rate and times of a device"] = {
    "a rate of zero": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=0),
        "fatal",
        "responses/meta.yml",
        "sampling_rate",
        ("0 Hz",),
    ),
    "a rate that contradicts rows and duration by more than 1 %": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=28.5),
        "warning",
        "responses/meta.yml",
        "sampling_rate",
        ("720 rows", "28.5 Hz"),
    ),
    "the sampling interval as rate": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=1 / 30),
        "fatal",
        "responses/meta.yml",
        "sampling_rate",
        ("looks like the sampling interval",),
    ),
    "times in milliseconds": (
        lambda f: edit(f / "responses/meta.yml", start_time=1e9, end_time=1e9 + 24_000),
        "fatal",
        "responses/meta.yml",
        "sampling_rate",
        ("look like milliseconds",),
    ),
    "an end before the start": (
        lambda f: edit(f / "responses/meta.yml", end_time=1.0),
        "fatal",
        "responses/meta.yml",
        "end_time",
        ("found 1.0",),
    ),
    "an end more than 0.3 s after the last sample": (
        lambda f: edit(f / "treadmill/meta.yml", end_time=1520193099.6945 + 1960 / 75.31 + 0.5),
        "warning",
        "treadmill/meta.yml",
        "end_time",
        ("0.500 s later",),
    ),
    "responses faster than windows": (
        lambda f: (
            change(f / "responses/data.npy", lambda a: np.repeat(a, 2, axis=0)),
            edit(f / "responses/meta.yml", n_timestamps=1440, sampling_rate=60.0),
        ),
        "warning",
        "responses/data.npy",
        "sampling rate of responses",
        ("found 60 Hz", "averages all samples"),
    ),
    "an end up to 0.3 s after the last sample, as usual": (
        lambda f: None,
        "info",
        "treadmill/meta.yml",
        "end_time",
        ("0.120 s later",),
    ),
    "a device that ends long before the others": (
        lambda f: [
            change(f / "treadmill/data.npy", lambda array: array[:600]),
            edit(f / "treadmill/meta.yml", n_timestamps=600, end_time=1520193099.6945 + 600 / 75.31),
        ],
        "warning",
        "treadmill/data.npy",
        "end",
        ("treadmill ends at 15201931", "before the responses"),
    ),
    "a rate that no device has, and times that fit": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=0.0034, end_time=1520193100.5945 + 720 / 0.0034),
        "fatal",
        "responses/meta.yml",
        "sampling_rate",
        ("1 to 1000", "0.0034"),
    ),
    "times in microseconds": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=25000.0, start_time=0, end_time=28_800),
        "fatal",
        "responses/meta.yml",
        "sampling_rate",
        ("look like microseconds",),
    ),
    "a rate in kHz": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=0.03),
        "fatal",
        "responses/meta.yml",
        "sampling_rate",
        ("expected 29.81 Hz", "found 0.03 Hz", "looks like kHz"),
    ),
    "milliseconds with a rate in kHz": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=0.03, start_time=1e9, end_time=1e9 + 700_000),
        "fatal",
        "responses/meta.yml",
        "end_time",
        ("less than a week", "look like milliseconds"),
    ),
    "times that no clock shows": (
        lambda f: edit(f / "responses/meta.yml", start_time=1.52e12, end_time=1.52e12 + 24),
        "fatal",
        "responses/meta.yml",
        "start_time",
        ("seconds", "1.52e+12"),
    ),
    "a time that is NaN": (
        lambda f: edit(f / "responses/meta.yml", start_time=float("nan")),
        "fatal",
        "responses/meta.yml",
        "start_time",
        ("finite number", "nan"),
    ),
}

GROUPS["Stored statistics"] = {
    "statistics are missing": (
        lambda f: (f / "responses/meta/stds.npy").unlink(),
        "warning",
        "meta/stds.npy",
        "file",
        ("train tier",),
    ),
    "stds that are zero, negative, NaN or infinite": (
        lambda f: np.save(f / "responses/meta/stds.npy", np.array([[0, -1, np.nan, 2, 2]])),
        "warning",
        "responses/meta/stds.npy",
        "stds",
        ("1 zero, 1 negative, 1 NaN",),
    ),
    "means that are NaN or infinite": (
        lambda f: np.save(f / "treadmill/meta/means.npy", np.array([np.nan])),
        "warning",
        "treadmill/meta/means.npy",
        "means",
        ("1 NaN",),
    ),
    "stds of another scale, as of another session": (
        lambda f: change(f / "responses/meta/stds.npy", lambda stds: stds * 50),
        "warning",
        "responses/meta/stds.npy",
        "scale",
        ("factor of 50",),
    ),
    "means far from the values, as of another session": (
        lambda f: change(f / "treadmill/meta/means.npy", lambda means: means + 50),
        "warning",
        "treadmill/meta/means.npy",
        "location",
        ("stds apart", "another session"),
    ),
}

GROUPS["Values of a device"] = {
    "NaN in responses": (
        lambda f: change(f / "responses/data.npy", setting((slice(0, 72), 3), np.nan)),
        "warning",
        "responses/data.npy",
        "NaN values",
        ("1 of 5", "10.00% (signal 3)"),
    ),
    "infinite values": (
        lambda f: change(f / "responses/data.npy", setting((0, 0), np.inf)),
        "warning",
        "responses/data.npy",
        "infinite values",
        ("1 of 5",),
    ),
    "NaN in behaviour": (
        lambda f: change(f / "eye_tracker/data.npy", setting((slice(0, 53), 1), np.nan)),
        "info",
        "eye_tracker/data.npy",
        "NaN values",
        ("10.00% of channel 1",),
    ),
    "a signal without any value": (
        lambda f: change(f / "eye_tracker/data.npy", setting((slice(None), 2), np.nan)),
        "warning",
        "eye_tracker/data.npy",
        "signals without any value",
        ("found 1: 2",),
    ),
    "a clock among the neurons": (
        lambda f: change(f / "responses/data.npy", setting((slice(None), 4), np.arange(720) / 30)),
        "warning",
        "responses/data.npy",
        "signals that only rise",
        ("found 1 of 5: 4",),
    ),
    "a signal that never changes": (
        lambda f: change(f / "responses/data.npy", setting((slice(None), 4), 0)),
        "warning",
        "responses/data.npy",
        "constant signals",
        ("1 of 5: 4",),
    ),
    "numbers that are written where there is no value": (
        lambda f: change(f / "treadmill/data.npy", setting((slice(0, 196), 0), -9999)),
        "warning",
        "treadmill/data.npy",
        "fill values",
        ("-9999 in 10.00% of signal 0",),
    ),
    "responses below 0, as dF/F": (
        lambda f: change(f / "responses/data.npy", lambda a: a - 2),
        "warning",
        "responses/data.npy",
        "negative responses",
        ("negative values", "deconvolved"),
    ),
    "responses that are never near 0, as fluorescence": (
        lambda f: change(f / "responses/data.npy", lambda a: a + 100),
        "warning",
        "responses/data.npy",
        "silence",
        ("It looks like fluorescence",),
    ),
    "a neuron of another scale": (
        lambda f: change(f / "responses/data.npy", lambda a: a * np.where(np.arange(5) == 3, 1e4, 1)),
        "warning",
        "responses/data.npy",
        "scale",
        ("1 of 5 neurons above: 3",),
    ),
    "numbers beyond float32": (
        lambda f: change(f / "treadmill/data.npy", setting((0, 0), 1e300)),
        "warning",
        "treadmill/data.npy",
        "infinite values",
        ("channel 0",),
    ),
    "most of a behaviour channel lost": (
        lambda f: change(f / "eye_tracker/data.npy", setting((slice(0, 400), 1), np.nan)),
        "warning",
        "eye_tracker/data.npy",
        "NaN values",
        ("75.47% of channel 1",),
    ),
}

GROUPS["Channels and neurons"] = {
    "an eye tracker without 4 columns": (
        lambda f: (
            [change(f / "eye_tracker" / name, lambda a: a[:, :3]) for name in ("data.npy", *STATISTICS)],
            edit(f / "eye_tracker/meta.yml", n_signals=3),
        ),
        "warning",
        "eye_tracker/data.npy",
        "columns",
        ("expected 4", "found 3"),
    ),
    "unit_ids that are there twice": (
        lambda f: np.save(f / "responses/meta/unit_ids.npy", np.array([1, 2, 2, 4, 5])),
        "warning",
        "meta/unit_ids.npy",
        "unit_ids",
        ("1 duplicates",),
    ),
    "a treadmill without 1 column": (
        lambda f: (
            [change(f / "treadmill" / name, lambda a: np.hstack([a, a])) for name in ("data.npy", *STATISTICS)],
            edit(f / "treadmill/meta.yml", n_signals=2),
        ),
        "warning",
        "treadmill/data.npy",
        "columns",
        ("expected 1 (running speed)", "found 2"),
    ),
    "unusual behaviour channels without names": (
        lambda f: (
            [change(f / "treadmill" / name, lambda a: np.hstack([a, a])) for name in ("data.npy", *STATISTICS)],
            edit(f / "treadmill/meta.yml", n_signals=2),
        ),
        "fatal",
        "Video-abc_30hz",
        "behavior channels",
        ("expected 5", "6 channels together without names"),
    ),
    "names of channels that are no list of names": (
        lambda f: edit(f / "eye_tracker/meta.yml", channel_names=["gaze_x", 2]),
        "fatal",
        "eye_tracker/meta.yml",
        "channel_names",
        ("4 names", "['gaze_x', 2]"),
    ),
    "channels with names, but not all that the model knows": (
        lambda f: edit(f / "eye_tracker/meta.yml", channel_names=["gaze_x", "gaze_y", "lick", "pupil_size"]),
        "info",
        "Video-abc_30hz",
        "behavior channels",
        ("all but pupil_size_derivative", "besides lick"),
    ),
    "eye channels in another order": (
        lambda f: change(f / "eye_tracker/data.npy", lambda a: a[:, [2, 3, 0, 1]]),
        "warning",
        "eye_tracker/data.npy",
        "channel order",
        ("column 3 follows the change of column 2",),
    ),
    "no column that follows the change of the pupil": (
        lambda f: change(f / "eye_tracker/data.npy", lambda a: np.random.default_rng(0).permuted(a, axis=0)),
        "info",
        "eye_tracker/data.npy",
        "channel order",
        ("could not be confirmed",),
    ),
}

GROUPS["timestamps.npy of a device"] = {
    "more than half a sample from the regular clock": (
        lambda f: np.save(f / "treadmill/timestamps.npy", 1520193099.6945 + np.arange(1960) / 75.0),
        "warning",
        "treadmill/timestamps.npy",
        "timestamps",
        ("within half a sample",),
    ),
    "of another length": (
        lambda f: np.save(f / "treadmill/timestamps.npy", np.arange(3.0)),
        "warning",
        "treadmill/timestamps.npy",
        "timestamps",
        ("expected 1960", "(3,)"),
    ),
    "not increasing": (
        lambda f: np.save(f / "treadmill/timestamps.npy", np.arange(1960.0)[::-1]),
        "warning",
        "treadmill/timestamps.npy",
        "timestamps",
        ("strictly increasing",),
    ),
}
