"""Faults of trials and stimuli in experanto's layout, and of the session as a whole."""

from __future__ import annotations

import numpy as np

from faults.tools import Group, cache, change, edit, setting, truncate

GROUPS: dict[str, Group] = {}

GROUPS["Frame times and the order of trials"] = {
    "frame times that go back": (
        lambda f: change(f / "screen/timestamps.npy", setting(50, 0.0)),
        "fatal",
        "screen/timestamps.npy",
        "timestamps",
        ("1 steps back", "at frame 50"),
    ),
    "frame times that are NaN or infinite": (
        lambda f: change(f / "screen/timestamps.npy", setting(7, np.nan)),
        "fatal",
        "screen/timestamps.npy",
        "timestamps",
        ("1 of 726 are NaN",),
    ),
    "the same frame time twice": (
        lambda f: change(f / "screen/timestamps.npy", lambda t: np.insert(np.delete(t, 50), 50, t[49])),
        "warning",
        "screen/timestamps.npy",
        "timestamps",
        ("1 repeated",),
    ),
    "num_frames of all trials do not add up to the frame times": (
        lambda f: change(f / "screen/timestamps.npy", lambda t: t[:-3]),
        "fatal",
        "screen/timestamps.npy",
        "length",
        ("expected 726", "found 723"),
    ),
    "first_frame_idx that is not the sum of all num_frames before": (
        lambda f: edit(f / "screen/meta/00002.yml", first_frame_idx=120),
        "fatal",
        "00002.yml",
        "first_frame_idx",
        ("expected 121", "found 120"),
    ),
    "a trial is missing in between": (
        lambda f: (f / "screen/meta/00003.yml").unlink(),
        "fatal",
        "00004.yml",
        "first_frame_idx",
        ("expected 361",),
    ),
    "first_frame_idx beyond the last frame": (
        lambda f: edit(f / "screen/meta/00010.yml", first_frame_idx=9999),
        "fatal",
        "00010.yml",
        "first_frame_idx",
        ("expected 725", "found 9999"),
    ),
    "fewer than two frame times": (
        lambda f: change(f / "screen/timestamps.npy", lambda t: t[:1]),
        "fatal",
        "screen/timestamps.npy",
        "shape",
        ("(1,)",),
    ),
    "frames that were not stored, declared so": (
        lambda f: (f / "screen/meta.yml").write_text("modality: screen\nframes: false\n"),
        "info",
        "screen",
        "video",
        ("not recorded",),
    ),
    "trials beyond the recording": (
        lambda f: change(f / "screen/timestamps.npy", lambda t: t + 8),
        "warning",
        "screen",
        "times of trials",
        ("trials within the recording", "outside"),
    ),
    "late frames": (
        lambda f: change(f / "screen/timestamps.npy", lambda t: t + 0.025 * (np.arange(726) == 60)),
        "info",
        "screen/timestamps.npy",
        "late frames",
        ("1 intervals above 1.5 times",),
    ),
}

GROUPS["Files of trials"] = {
    "100,000 trials or more: names of six digits": (
        lambda f: (f / "screen/meta/100000.yml").write_text("{}"),
        "warning",
        "screen/meta",
        "file names",
        ("100000.yml",),
    ),
    "names that are not five digits": (
        lambda f: (f / "screen/meta/11.yml").write_text("{}"),
        "warning",
        "screen/meta",
        "file names",
        ("11.yml", "ignored"),
    ),
    "gaps in the numbers": (
        lambda f: (f / "screen/meta/00010.yml").rename(f / "screen/meta/00012.yml"),
        "warning",
        "screen/meta",
        "numbering",
        ("2 missing: 10, 11",),
    ),
    "combined_meta.json that is stale": (
        lambda f: cache(f, lambda trials: trials["00001"].update(tier="oracle")),
        "info",
        "combined_meta.json",
        "cache",
        ("something else", "delete it"),
    ),
    "combined_meta.json in another order": (
        lambda f: cache(f, lambda trials: trials.update({"00000": trials.pop("00000")})),
        "info",
        "combined_meta.json",
        "cache",
        ("something else",),
    ),
    "combined_meta.json that does not parse": (
        lambda f: (f / "screen/combined_meta.json").write_text("{"),
        "info",
        "combined_meta.json",
        "cache",
        ("something else",),
    ),
}

GROUPS["Stimuli"] = {
    "no array of a video or image": (
        lambda f: (f / "screen/data/00001.npy").unlink(),
        "fatal",
        "screen/data",
        "stimuli",
        ("1 missing (00001)",),
    ),
    "an array that is cut off": (
        lambda f: truncate(f / "screen/data/00001.npy", 5000),
        "fatal",
        "00001.npy",
        "file",
        ("5000 bytes",),
    ),
    "fewer frames than num_frames": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: a[:100]),
        "fatal",
        "00001.npy",
        "frames",
        ("expected 120", "found 100"),
    ),
    "more frames than num_frames": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: np.concatenate([a, a])),
        "warning",
        "00001.npy",
        "frames",
        ("expected 120", "found 240"),
    ),
    "another size than image_size": (
        lambda f: edit(f / "screen/meta/00001.yml", image_size=[72, 128]),
        "warning",
        "00001.npy",
        "image_size",
        ("(72, 128)", "(36, 64)"),
    ),
    "time last instead of first": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: a.transpose(1, 2, 0)),
        "fatal",
        "00001.npy",
        "shape",
        ("(120, 36, 64)", "(36, 64, 120)", "Time comes last"),
    ),
    "one stimulus scaled to 0-1 among others": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: a / 255),
        "warning",
        "00001.npy",
        "value range",
        ("as other stimuli have", "scaled to 0-1"),
    ),
    "height and width swapped": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: a.transpose(0, 2, 1)),
        "fatal",
        "00001.npy",
        "frame size",
        ("found 64 x 36", "swapped"),
    ),
    "different sizes": (
        lambda f: change(f / "screen/data/00004.npy", lambda a: a[:18]),
        "warning",
        "screen/data",
        "frame sizes",
        ("18 x 64, 36 x 64",),
    ),
    "colour": (
        lambda f: change(f / "screen/data/00004.npy", lambda a: np.stack([a] * 3, axis=-1)),
        "fatal",
        "00004.npy",
        "colour",
        ("(36, 64, 3)",),
    ),
    "grey levels from 0 to 1": (
        lambda f: [change(path, lambda a: a / np.float32(255)) for path in (f / "screen/data").iterdir()],
        "warning",
        "screen/data",
        "value range",
        ("0 to 255", "at most"),
    ),
    "grey levels outside 0 to 255": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: (a - 113.0) / 59),
        "warning",
        "00001.npy",
        "grey levels",
        ("0 to 255", "-1.915"),
    ),
    "NaN pixels": (
        lambda f: change(f / "screen/data/00004.npy", lambda a: np.full(a.shape, np.nan)),
        "warning",
        "00004.npy",
        "pixels",
        ("100.00%",),
    ),
    "one grey level in every frame": (
        lambda f: [change(path, lambda a: np.full_like(a, 128)) for path in (f / "screen/data").iterdir()],
        "warning",
        "screen/data",
        "contrast",
        ("128 in every pixel",),
    ),
    "a video in colour": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: np.stack([a] * 3, axis=-1)),
        "fatal",
        "00001.npy",
        "colour",
        ("(120, 36, 64, 3)", "grey"),
    ),
    "a video without a time axis": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: a[0]),
        "fatal",
        "00001.npy",
        "shape",
        ("(36, 64)",),
    ),
    "a video without frames": (
        lambda f: change(f / "screen/data/00001.npy", lambda a: a[:0]),
        "fatal",
        "00001.npy",
        "shape",
        ("(0, 36, 64)",),
    ),
    "an array of Python objects": (
        lambda f: np.save(f / "screen/data/00001.npy", np.array([{}]), allow_pickle=True),
        "fatal",
        "00001.npy",
        "file",
        ("without Python objects",),
    ),
    "marked as encoded": (
        lambda f: edit(f / "screen/meta/00001.yml", encoded=True),
        "warning",
        "00001.yml",
        "encoded",
        ("encoded: True", "convert"),
    ),
}

GROUPS["Tiers"] = {
    "a video or image without a tier": (
        lambda f: edit(f / "screen/meta/00001.yml", tier=None),
        "warning",
        "00001.yml",
        "tier",
        ("1 of 6 without: 00001",),
    ),
    "a tier of another name": (
        lambda f: edit(f / "screen/meta/00001.yml", tier="mine"),
        "info",
        "screen/meta",
        "tier",
        ("'mine'",),
    ),
    "no tier train": (
        lambda f: [edit(f / f"screen/meta/{k:05d}.yml", tier="oracle") for k in (1, 4, 7)],
        "warning",
        "screen/meta",
        "tier",
        ("validation", "Nothing to train on"),
    ),
    "no tier at all": (
        lambda f: [edit(f / f"screen/meta/{k:05d}.yml", tier=None) for k in (1, 2, 4, 7, 8, 9)],
        "fatal",
        "screen/meta",
        "tier",
        ("trials with a tier", "none"),
    ),
    "a tier that is no name": (
        lambda f: edit(f / "screen/meta/00001.yml", tier={"train": 1}),
        "fatal",
        "00001.yml",
        "tier",
        ("{'train': 1}",),
    ),
    "INVALID periods": (lambda f: None, "info", "00006.yml", "modality", ("1 trials, 1.0 s", "strict profile")),
}

GROUPS["Blanks"] = {
    "a blank without interleave_value": (
        lambda f: edit(f / "screen/meta/00003.yml", interleave_value=None),
        "fatal",
        "00003.yml",
        "interleave_value",
        ("found None",),
    ),
    "interleave_value that is no number": (
        lambda f: edit(f / "screen/meta/00003.yml", interleave_value=float("nan")),
        "fatal",
        "00003.yml",
        "interleave_value",
        ("found nan",),
    ),
    "interleave_value outside 0 to 255": (
        lambda f: edit(f / "screen/meta/00003.yml", interleave_value=300.0),
        "warning",
        "00003.yml",
        "interleave_value",
        ("from 0 to 255", "found 300.0"),
    ),
    "interleave_value from 0 to 1": (
        lambda f: [edit(f / f"screen/meta/{k:05d}.yml", interleave_value=0.5) for k in (0, 3, 5, 10)],
        "warning",
        "yml",
        "interleave_value",
        ("scaled to 0-1",),
    ),
}

GROUPS["The whole session"] = {
    "devices that share no time, as with two clocks": (
        lambda f: edit(f / "treadmill/meta.yml", start_time=0.0, end_time=1960 / 75.31),
        "fatal",
        "Video-abc_30hz",
        "overlap",
        ("treadmill 0.000", "from 1970"),
    ),
    "a tier without windows": (
        lambda f: edit(f / "screen/meta/00004.yml", tier="test"),
        "warning",
        "Video-abc_30hz",
        "windows of tier 'test'",
        ("outside tiers test", "to the filter", "to duration"),
    ),
    "no windows at all, as when a NaN filter leaves nothing": (
        lambda f: change(f / "treadmill/data.npy", lambda a: np.full_like(a, np.nan)),
        "fatal",
        "Video-abc_30hz",
        "windows",
        ("none in any tier",),
    ),
    "devices that share less than a window and its margins": (
        lambda f: edit(f / "responses/meta.yml", start_time=1520193100.5945 + 22, end_time=1520193100.5945 + 46),
        "fatal",
        "Video-abc_30hz",
        "overlap",
        ("at least 3 s that all devices share", "found 1.013 s (responses 1520193122.595"),
    ),
}
