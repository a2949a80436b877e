"""Faults of SENSORIUM 2022 folders, as `static_folders.write_static` writes them."""

from __future__ import annotations

import shutil

import numpy as np
from static_folders import NEURONS, TIERS, change

from faults.tools import Group

EVERY = range(len(TIERS))

GROUPS: dict[str, Group] = {}
GROUPS["Files of trials"] = {
    "no folder of a kind": (
        lambda f: shutil.rmtree(f / "data/pupil_center"),
        "fatal", "data/pupil_center", "folder", (),
    ),
    "a trial without one of its files": (
        lambda f: (f / "data/images/4.npy").unlink(),
        "fatal", "data/images", "files", ("0.npy to 19.npy", "1 missing (4)"),
    ),
    "gaps in the numbers": (
        lambda f: (f / "data/behavior/9.npy").rename(f / "data/behavior/30.npy"),
        "fatal", "data/behavior", "files", ("(9)", "too many (30)"),
    ),
    "tiers of another length than the trials": (
        lambda f: np.save(f / "meta/trials/tiers.npy", np.array(TIERS[:18])),
        "fatal", "data/images", "files", ("0.npy to 17.npy", "(18, 19)"),
    ),
    "no tiers": (
        lambda f: (f / "meta/trials/tiers.npy").unlink(),
        "fatal", "meta/trials/tiers.npy", "file", ("no such file",),
    ),
    "an array that is cut off": (
        lambda f: (f / "data/images/4.npy").write_bytes(b"\x93NUMPY"),
        "fatal", "4.npy", "file", ("do not load",),
    ),
    "trial_idx of another length": (
        lambda f: np.save(f / "meta/trials/trial_idx.npy", np.arange(19)),
        "warning", "meta/trials/trial_idx.npy", "trial_idx", ("20 numbers or hashes", "found 19"),
    ),
    "trial_idx that are there twice": (
        lambda f: np.save(f / "meta/trials/trial_idx.npy", np.zeros(20, dtype=int)),
        "warning", "meta/trials/trial_idx.npy", "trial_idx", ("19 duplicates",),
    ),
    "no frame_image_id, or of another length": (
        lambda f: np.save(f / "meta/trials/frame_image_id.npy", np.arange(21)),
        "warning", "meta/trials/frame_image_id.npy", "frame_image_id", ("found 21",),
    ),
    "behaviour that is a fill value": (
        lambda f: change(f, "behavior", lambda a: a * 0 - 9999, [4]),
        "warning", "data/behavior/4.npy", "NaN in behavior", ("-9999", "pupil_size"),
    ),
    "images without an id": (
        lambda f: np.save(f / "meta/trials/frame_image_id.npy", np.where(np.arange(20) < 3, np.nan, np.arange(20.0))),
        "warning", "meta/trials/frame_image_id.npy", "frame_image_id", ("nan", "3 of 20", "(0, 1, 2)"),
    ),
    "trials without a number": (
        lambda f: np.save(f / "meta/trials/trial_idx.npy", np.where(np.arange(20) < 2, np.nan, np.arange(20.0))),
        "warning", "meta/trials/trial_idx.npy", "trial_idx", ("2 of 20", "(0, 1)"),
    ),
    "single images, as usual: each is held for a window": (
        lambda f: None,
        "info", "data/images", "time", ("single images, one response each",),
    ),
}  # fmt: skip
GROUPS["Shapes, values and pixels"] = {
    "an image without its axis of one": (
        lambda f: change(f, "images", lambda a: a[0], [2]),
        "fatal", "2.npy", "shape of images", ("(1, 144, 256)", "(144, 256)"),
    ),
    "images of no whole multiple of 36 x 64": (
        lambda f: change(f, "images", lambda a: a[:, :100], EVERY),
        "fatal", "data/images", "image size", ("100 x 256",),
    ),
    "responses of another number of neurons": (
        lambda f: change(f, "responses", lambda a: a[:5], [6]),
        "fatal", "6.npy", "shape of responses", ("(7,)", "(5,)"),
    ),
    "behaviour of another number of channels": (
        lambda f: change(f, "behavior", lambda a: a[:2], [3]),
        "fatal", "3.npy", "shape of behavior", ("(3,)", "(2,)"),
    ),
    "gaze of another number of channels": (
        lambda f: change(f, "pupil_center", lambda a: a[:1], [3]),
        "fatal", "3.npy", "shape of pupil_center", ("(2,)", "(1,)"),
    ),
    "an array of texts": (
        lambda f: change(f, "behavior", lambda a: a.astype("U8"), [3]),
        "fatal", "3.npy", "dtype", (),
    ),
    "grey levels from 0 to 1": (
        lambda f: change(f, "images", lambda a: a / 255, EVERY),
        "warning", "data/images", "value range", ("0 to 255", "at most 1"),
    ),
    "grey levels outside 0 to 255": (
        lambda f: change(f, "images", lambda a: a - 20, [3, 5]),
        "warning", "data/images/3.npy", "grey levels", ("-20 to 235", "1 more"),
    ),
    "NaN in gaze": (
        lambda f: change(f, "pupil_center", lambda a: a * [np.nan, 1], [4]),
        "warning", "data/pupil_center/4.npy", "NaN in pupil_center", ("gaze_x",),
    ),
}  # fmt: skip
GROUPS["Responses and behaviour that are withheld"] = {
    "no responses in any tier": (
        lambda f: [np.save(file, np.zeros(NEURONS)) for file in (f / "data/responses").iterdir()],
        "fatal", "data/responses", "responses", ("none in any tier",),
    ),
    "a tier without responses": (
        lambda f: None,
        "warning", "data/responses", "responses of tier 'final_test'", ("zeros in all 2 trials",),
    ),
    "a single trial without responses": (
        lambda f: change(f, "responses", np.zeros_like, [4]),
        "warning", "data/responses/4.npy", "silent trials", (),
    ),
    "behaviour of one value in all trials": (
        lambda f: change(f, "behavior", lambda a: a * [1, 1, 0] + [0, 0, 3], EVERY),
        "warning", "data", "constant behavior channels", ("running_speed (3)",),
    ),
}  # fmt: skip
GROUPS["Statistics and neurons"] = {
    "statistics of another number of neurons": (
        lambda f: np.save(f / "meta/statistics/responses/all/std.npy", np.ones(5)),
        "fatal", "responses/all/std.npy", "length", ("expected 7", "(5,)"),
    ),
    "unit_ids of another length": (
        lambda f: np.save(f / "meta/neurons/unit_ids.npy", np.arange(5)),
        "fatal", "unit_ids.npy", "length", ("expected 7", "found 5"),
    ),
    "statistics are missing": (
        lambda f: shutil.rmtree(f / "meta/statistics"),
        "warning", "responses/all/mean.npy", "file", ("no such file",),
    ),
    "behaviour stds that cannot scale": (
        lambda f: np.save(f / "meta/statistics/behavior/all/std.npy", np.array([0, 1, np.nan])),
        "warning", "meta/statistics", "means and stds of behavior", ("pupil_size", "running_speed"),
    ),
}  # fmt: skip
