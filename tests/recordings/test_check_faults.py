"""One fault at a time: each finding names file, field, expected and found; none raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from omnimouse.recordings import Finding, check_recording, open_recording


def edit(path: Path, **changes) -> None:
    content = yaml.safe_load(path.read_text())
    content.update(changes)
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))


def change(path: Path, function: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Load an array, let `function` change it in place or return another one, store it."""
    array = np.load(path)
    returned = function(array)
    np.save(path, array if returned is None else returned)


def setting(key, value):
    def function(array):
        array[key] = value

    return function


def truncate(path: Path, to: int) -> None:
    path.write_bytes(path.read_bytes()[:to])


STATISTICS = ("meta/means.npy", "meta/stds.npy")
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"

# fault, severity, end of the path, field, texts that the finding must contain
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str, tuple[str, ...]]] = {
    "no meta.json": (
        lambda f: (f / "meta.json").unlink(),
        "warning", "meta.json", "file", ("no such file", "folder's name"),
    ),
    "meta.json broken": (lambda f: (f / "meta.json").write_text("{"), "fatal", "meta.json", "file", ("valid json",)),
    "meta.json is a list": (lambda f: (f / "meta.json").write_text("[]"), "fatal", "meta.json", "file", ("a list",)),
    "session key that cannot name a file": (
        lambda f: (f / "meta.json").write_text('{"data_key": "../other"}'),
        "warning", "meta.json", "scan_key", ("'../other'", "slash"),
    ),
    "frame index beyond any number": (
        lambda f: edit(f / "screen/meta/00001.yml", first_frame_idx=10**400),
        "fatal", "00001.yml", "first_frame_idx", ("an integer",),
    ),
    "responses with swapped axes": (
        lambda f: change(f / "responses/data.npy", lambda array: array.T.copy()),
        "fatal", "responses/meta.yml", "n_signals", ("swapped", "time along rows"),
    ),
    "phase shifts with NaN": (
        lambda f: (
            edit(f / "responses/meta.yml", phase_shift_per_signal=True),
            np.save(f / "responses/meta/phase_shifts.npy", np.array([0.0, np.nan, 0.0, 0.0, 0.0])),
        ),
        "fatal", "phase_shifts.npy", "phase shifts", ("1 of 5", "signal 1"),
    ),
    "no device folder": (
        lambda f: (f / "treadmill").rename(f / "wheel"), "fatal", "treadmill", "folder", ("no such folder",)
    ),
    "no meta.yml": (
        lambda f: (f / "responses/meta.yml").unlink(),
        "fatal", "responses/meta.yml", "file", ("no such file",),
    ),
    "meta.yml empty": (
        lambda f: (f / "responses/meta.yml").write_text(""), "fatal", "responses/meta.yml", "file", ("an empty file",)
    ),
    "meta.yml not text": (
        lambda f: (f / "responses/meta.yml").write_bytes(b"\xff\xfe\x00"),
        "fatal", "responses/meta.yml", "file", ("UTF-8",),
    ),
    "unknown modality": (
        lambda f: edit(f / "responses/meta.yml", modality="spikes"),
        "fatal", "responses/meta.yml", "modality", ("'spikes'",),
    ),
    "missing key": (
        lambda f: edit(f / "responses/meta.yml", n_signals=None),
        "fatal", "responses/meta.yml", "n_signals", ("no such key",),
    ),
    "wrong type": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate="30"),
        "fatal", "responses/meta.yml", "sampling_rate", ("'30' (str)",),
    ),
    "no array": (lambda f: (f / "responses/data.npy").unlink(), "fatal", "responses", "data", ("neither",)),
    "two arrays": (lambda f: (f / "responses/data.mem").write_bytes(b""), "warning", "responses", "data", ("both",)),
    "truncated npy": (
        lambda f: truncate(f / "responses/data.npy", 1000), "fatal", "responses/data.npy", "file", ("1000 bytes",)
    ),
    "git lfs pointer": (
        lambda f: (f / "eye_tracker/data.npy").write_text(LFS),
        "fatal", "eye_tracker/data.npy", "file", ("git lfs pull",),
    ),
    "git lfs yaml": (
        lambda f: (f / "eye_tracker/meta.yml").write_text(LFS),
        "fatal", "eye_tracker/meta.yml", "file", ("git lfs pull",),
    ),
    "one-dimensional": (
        lambda f: change(f / "treadmill/data.npy", np.ravel), "fatal", "treadmill/data.npy", "shape", ("(1960,)",)
    ),
    "n_signals": (
        lambda f: edit(f / "responses/meta.yml", n_signals=6),
        "fatal", "responses/meta.yml", "n_signals", ("expected 5", "found 6"),
    ),
    "n_timestamps": (
        lambda f: edit(f / "responses/meta.yml", n_timestamps=700),
        "warning", "responses/meta.yml", "n_timestamps", ("expected 720", "found 700"),
    ),
    "means length": (
        lambda f: np.save(f / "responses/meta/means.npy", np.ones((1, 4))),
        "fatal", "responses/meta/means.npy", "length", ("expected 5", "found 4"),
    ),
    "stds length": (
        lambda f: np.save(f / "treadmill/meta/stds.npy", np.ones(3)),
        "fatal", "treadmill/meta/stds.npy", "length", ("expected 1", "found 3"),
    ),
    "no stds": (
        lambda f: (f / "responses/meta/stds.npy").unlink(),
        "warning", "meta/stds.npy", "file", ("train tier",),
    ),
    "unit_ids length": (
        lambda f: np.save(f / "responses/meta/unit_ids.npy", np.arange(6)),
        "fatal", "meta/unit_ids.npy", "length", ("expected 5", "found 6"),
    ),
    "duplicate unit_ids": (
        lambda f: np.save(f / "responses/meta/unit_ids.npy", np.array([1, 2, 2, 4, 5])),
        "warning", "meta/unit_ids.npy", "unit_ids", ("1 duplicates",),
    ),
    "coordinates length": (
        lambda f: np.save(f / "responses/meta/cell_motor_coordinates.npy", np.zeros((4, 3))),
        "warning", "cell_motor_coordinates.npy", "length", ("expected 5", "(4, 3)"),
    ),
    "phase shifts missing": (
        lambda f: edit(f / "responses/meta.yml", phase_shift_per_signal=True),
        "fatal", "meta/phase_shifts.npy", "file", ("no such file",),
    ),
    "rate off by 5 %": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=28.5),
        "warning", "responses/meta.yml", "sampling_rate", ("720 rows", "28.5 Hz"),
    ),
    "rate inverted": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=1 / 30),
        "fatal", "responses/meta.yml", "sampling_rate", ("looks like the sampling interval",),
    ),
    "milliseconds": (
        lambda f: edit(f / "responses/meta.yml", start_time=1e9, end_time=1e9 + 24_000),
        "fatal", "responses/meta.yml", "sampling_rate", ("look like milliseconds",),
    ),
    "zero rate": (
        lambda f: edit(f / "responses/meta.yml", sampling_rate=0),
        "fatal", "responses/meta.yml", "sampling_rate", ("0 Hz",),
    ),
    "end before start": (
        lambda f: edit(f / "responses/meta.yml", end_time=1.0),
        "fatal", "responses/meta.yml", "end_time", ("found 1.0",),
    ),
    "infinite time": (
        lambda f: edit(f / "responses/meta.yml", end_time=float("inf")),
        "fatal", "responses/meta.yml", "end_time", ("finite number",),
    ),
    "end overshoots": (
        lambda f: edit(f / "treadmill/meta.yml", end_time=1520193099.6945 + 1960 / 75.31 + 0.5),
        "warning", "treadmill/meta.yml", "end_time", ("0.500 s later",),
    ),
    "NaN responses": (
        lambda f: change(f / "responses/data.npy", setting((slice(0, 72), 3), np.nan)),
        "warning", "responses/data.npy", "NaN values", ("1 of 5", "10.00% (signal 3)"),
    ),
    "infinite responses": (
        lambda f: change(f / "responses/data.npy", setting((0, 0), np.inf)),
        "warning", "responses/data.npy", "infinite values", ("1 of 5",),
    ),
    "NaN pupil": (
        lambda f: change(f / "eye_tracker/data.npy", setting((slice(0, 53), 1), np.nan)),
        "info", "eye_tracker/data.npy", "NaN values", ("10.00% of channel 1",),
    ),
    "channel lost": (
        lambda f: change(f / "eye_tracker/data.npy", setting((slice(None), 2), np.nan)),
        "warning", "eye_tracker/data.npy", "signals without any value", ("found 1: 2",),
    ),
    "constant neuron": (
        lambda f: change(f / "responses/data.npy", setting((slice(None), 4), 0)),
        "warning", "responses/data.npy", "constant signals", ("1 of 5: 4",),
    ),
    "bad stds": (
        lambda f: np.save(f / "responses/meta/stds.npy", np.array([[0, -1, np.nan, 2, 2]])),
        "warning", "responses/meta/stds.npy", "stds", ("1 zero, 1 negative, 1 NaN",),
    ),
    "NaN means": (
        lambda f: np.save(f / "treadmill/meta/means.npy", np.array([np.nan])),
        "warning", "treadmill/meta/means.npy", "means", ("1 NaN",),
    ),
    "foreign statistics": (
        lambda f: change(f / "responses/meta/stds.npy", lambda stds: stds * 50),
        "warning", "responses/meta/stds.npy", "scale", ("factor of 50",),
    ),
    "eye channels": (
        lambda f: (
            [change(f / "eye_tracker" / name, lambda a: a[:, :3]) for name in ("data.npy", *STATISTICS)],
            edit(f / "eye_tracker/meta.yml", n_signals=3),
        ),
        "warning", "eye_tracker/data.npy", "columns", ("expected 4", "found 3"),
    ),
    "device clock": (
        lambda f: np.save(f / "treadmill/timestamps.npy", 1520193099.6945 + np.arange(1960) / 75.0),
        "warning", "treadmill/timestamps.npy", "timestamps", ("within half a sample",),
    ),
    "device clock length": (
        lambda f: np.save(f / "treadmill/timestamps.npy", np.arange(3.0)),
        "warning", "treadmill/timestamps.npy", "timestamps", ("expected 1960", "(3,)"),
    ),
    "device clock backwards": (
        lambda f: np.save(f / "treadmill/timestamps.npy", np.arange(1960.0)[::-1]),
        "warning", "treadmill/timestamps.npy", "timestamps", ("strictly increasing",),
    ),
    "no timestamps": (
        lambda f: (f / "screen/timestamps.npy").unlink(), "fatal", "screen/timestamps.npy", "file", ("no such file",)
    ),
    "frames back in time": (
        lambda f: change(f / "screen/timestamps.npy", setting(50, 0.0)),
        "fatal", "screen/timestamps.npy", "timestamps", ("1 steps back", "at frame 50"),
    ),
    "repeated frame time": (
        lambda f: change(f / "screen/timestamps.npy", lambda t: np.insert(np.delete(t, 50), 50, t[49])),
        "warning", "screen/timestamps.npy", "timestamps", ("1 repeated",),
    ),
    "NaN frame time": (
        lambda f: change(f / "screen/timestamps.npy", setting(7, np.nan)),
        "fatal", "screen/timestamps.npy", "timestamps", ("1 of 726 are NaN",),
    ),
    "too few frame times": (
        lambda f: change(f / "screen/timestamps.npy", lambda t: t[:-3]),
        "fatal", "screen/timestamps.npy", "length", ("expected 726", "found 723"),
    ),
    "no trials": (
        lambda f: [path.unlink() for path in (f / "screen/meta").iterdir()], "fatal", "screen/meta", "trials", ("none",)
    ),
    "trial broken": (
        lambda f: (f / "screen/meta/00004.yml").write_text("a: ["), "fatal", "00004.yml", "file", ("valid yml",)
    ),
    "trial modality": (
        lambda f: edit(f / "screen/meta/00004.yml", modality="movie"), "fatal", "00004.yml", "modality", ("'movie'",)
    ),
    "no num_frames": (
        lambda f: edit(f / "screen/meta/00001.yml", num_frames=None),
        "fatal", "00001.yml", "num_frames", ("no such key",),
    ),
    "first_frame_idx": (
        lambda f: edit(f / "screen/meta/00002.yml", first_frame_idx=120),
        "fatal", "00002.yml", "first_frame_idx", ("expected 121", "found 120"),
    ),
    "trial lost": (
        lambda f: (f / "screen/meta/00003.yml").unlink(), "fatal", "00004.yml", "first_frame_idx", ("expected 361",)
    ),
    "six digits": (
        lambda f: (f / "screen/meta/100000.yml").write_text("{}"),
        "warning", "screen/meta", "file names", ("100000.yml",),
    ),
    "no stimulus": (
        lambda f: (f / "screen/data/00001.npy").unlink(), "fatal", "screen/data", "stimuli", ("1 missing (00001)",)
    ),
    "mp4 stimulus": (
        lambda f: (f / "screen/data/00001.npy").rename(f / "screen/data/00001.mp4"),
        "fatal", "screen/data", "stimuli", (".mp4 is not read",),
    ),
    "stimulus truncated": (
        lambda f: truncate(f / "screen/data/00001.npy", 5000), "fatal", "00001.npy", "file", ("5000 bytes",)
    ),
    "too few frames": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: a[:100]),
        "fatal", "00001.npy", "frames", ("expected 120", "found 100"),
    ),
    "too many frames": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: np.concatenate([a, a])),
        "warning", "00001.npy", "frames", ("expected 120", "found 240"),
    ),
    "swapped axes": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: a.transpose(0, 2, 1)),
        "fatal", "00001.npy", "frame size", ("found 64 x 36", "swapped"),
    ),
    "image_size": (
        lambda f: edit(f / "screen/meta/00001.yml", image_size=[72, 128]),
        "warning", "00001.npy", "image_size", ("(72, 128)", "(36, 64)"),
    ),
    "colour": (
        lambda f: change(f / "screen/data/00004.npy", lambda a: np.stack([a] * 3, axis=-1)),
        "fatal", "00004.npy", "colour", ("(36, 64, 3)",),
    ),
    "mixed sizes": (
        lambda f: change(f / "screen/data/00004.npy", lambda a: a[:18]),
        "warning", "screen/data", "frame sizes", ("18 x 64, 36 x 64",),
    ),
    "scaled to 0-1": (
        lambda f: [change(path, lambda a: a / np.float32(255)) for path in (f / "screen/data").iterdir()],
        "warning", "screen/data", "value range", ("0 to 255", "at most"),
    ),
    "normalised pixels": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: (a - 113.0) / 59),
        "warning", "00001.npy", "grey levels", ("0 to 255", "-1.915"),
    ),
    "NaN pixels": (
        lambda f: change(f / "screen/data/00004.npy", lambda a: np.full(a.shape, np.nan)),
        "warning", "00004.npy", "pixels", ("100.00%",),
    ),
    "no tier": (
        lambda f: edit(f / "screen/meta/00001.yml", tier=None),
        "warning", "00001.yml", "tier", ("1 of 6 without: 00001",),
    ),
    "unknown tier": (
        lambda f: edit(f / "screen/meta/00001.yml", tier="mine"), "info", "screen/meta", "tier", ("'mine'",)
    ),
    "no train tier": (
        lambda f: [edit(f / f"screen/meta/{k:05d}.yml", tier="oracle") for k in (1, 4, 7)],
        "warning", "screen/meta", "tier", ("validation", "Nothing to train on"),
    ),
    "interleave_value is NaN": (
        lambda f: edit(f / "screen/meta/00003.yml", interleave_value=float("nan")),
        "fatal", "00003.yml", "interleave_value", ("found nan",),
    ),
    "no interleave_value": (
        lambda f: edit(f / "screen/meta/00003.yml", interleave_value=None),
        "fatal", "00003.yml", "interleave_value", ("found None",),
    ),
    "no windows in a tier": (
        lambda f: edit(f / "screen/meta/00004.yml", tier="test"),
        "warning", "Video-abc_30hz", "windows of tier 'test'", ("outside tiers test", "to the filter", "to duration"),
    ),
    "no windows at all": (
        lambda f: change(f / "treadmill/data.npy", lambda a: np.full_like(a, np.nan)),
        "fatal", "Video-abc_30hz", "windows", ("none in any tier",),
    ),
    "no overlap": (
        lambda f: edit(f / "treadmill/meta.yml", start_time=0.0, end_time=1960 / 75.31),
        "fatal", "Video-abc_30hz", "overlap", ("treadmill 0.000", "from 1970"),
    ),
}  # fmt: skip


def matches(finding: Finding, severity: str, path: str, field: str, texts: tuple[str, ...]) -> bool:
    return (
        (finding.severity, finding.field) == (severity, field)
        and finding.path.endswith(path)
        and all(text in str(finding) for text in texts)
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(session_to_damage, tree_hash, fault):
    folder = session_to_damage
    damage, severity, path, field, texts = FAULTS[fault]
    damage(folder)
    before = tree_hash(folder)
    findings = check_recording(folder)
    assert any(matches(finding, severity, path, field, texts) for finding in findings), "\n".join(map(str, findings))
    assert all(finding.expected and finding.found and finding.what_to_do for finding in findings)
    assert tree_hash(folder) == before
    try:
        recording = open_recording(folder)
    except ValueError as error:
        assert severity == "fatal" and field in str(error)
    else:
        assert recording.validate() == findings


def test_faults_of_all_parts_are_found_together(session_to_damage):
    folder = session_to_damage
    for fault in ("wrong type", "eye channels", "first_frame_idx"):
        FAULTS[fault][0](folder)
    np.save(folder / "treadmill/meta/stds.npy", np.zeros(1))
    (folder / "meta.json").write_text("{")
    findings = check_recording(folder)
    fields = [finding.field for finding in findings]
    assert {"sampling_rate", "columns", "first_frame_idx", "stds", "file"} <= set(fields)
    severities = [("fatal", "warning", "info").index(finding.severity) for finding in findings]
    assert severities == sorted(severities)
