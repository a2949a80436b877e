"""Faults of SENSORIUM 2023 folders: four trials of 66 frames padded to 70, 3 neurons."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from faults.tools import LFS, Group, change, setting

KINDS = ("videos", "responses", "behavior", "pupil_center")
GROUPS: dict[str, Group] = {}


def every(folder: Path, kind: str, function: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Change the arrays of one kind in all trials."""
    for trial in range(4):
        change(folder / f"data/{kind}/{trial}.npy", function)


def zipped(folder: Path, *, prefix: str = "session/", cut: float = 1.0, **extra: str) -> Path:
    """A zip file of the folder with further entries, perhaps cut off."""
    archive = folder.parent / "session.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            opened.write(file, f"{prefix}{file.relative_to(folder).as_posix()}")
        for name, content in extra.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o120777 if name.endswith("link") else 0o100644) << 16
            opened.writestr(entry, content)
    content = bytearray(archive.read_bytes())
    archive.write_bytes(content[: int(cut * len(content))])
    return archive


GROUPS["Files of trials"] = {
    "links to data elsewhere in config.json": (
        lambda f: (f / "config.json").write_text('{"links": {"videos": "../shared/videos"}}'),
        "warning",
        "config.json",
        "links",
        ("../shared/videos", "not followed"),
    ),
    "a link that leads nowhere": (
        lambda f: [
            (f / "data/videos/2.npy").unlink(),
            (f / "data/videos/2.npy").symlink_to(".git/annex/objects/x.npy"),
        ],
        "fatal",
        "data/videos/2.npy",
        "file",
        ("a link to '.git/annex/objects/x.npy'", "git annex get"),
    ),
    "neurons that were rejected": (
        lambda f: np.save(f / "meta/neurons/iscell.npy", np.array([[1, 0.9], [0, 0.2], [1, 0.8]])),
        "warning",
        "meta/neurons/iscell.npy",
        "rejected neurons",
        ("1 of 3",),
    ),
    "qualities of neurons": (
        lambda f: np.save(f / "meta/neurons/snr.npy", np.array([1.5, 2.5, 9.0])),
        "info",
        "meta/neurons/snr.npy",
        "quality of neurons",
        ("1.5 to 9", "not used"),
    ),
    "no folder of a kind": (
        lambda f: shutil.rmtree(f / "data/pupil_center"),
        "fatal",
        "data/pupil_center",
        "folder",
        ("4 trials", "no such"),
    ),
    "a trial without one of its files": (
        lambda f: (f / "data/behavior/2.npy").unlink(),
        "fatal",
        "data/behavior",
        "files",
        ("expected 0.npy to 3.npy", "1 missing (2)"),
    ),
    "gaps in the numbers": (
        lambda f: [(f / f"data/{kind}/3.npy").rename(f / f"data/{kind}/4.npy") for kind in KINDS],
        "fatal",
        "data/videos",
        "files",
        ("1 missing (3) and 1 too many (4)",),
    ),
    "tiers of another length than the trials": (
        lambda f: change(f / "meta/trials/tiers.npy", lambda tiers: tiers[:3]),
        "fatal",
        "data/responses",
        "files",
        ("0.npy to 2.npy", "1 too many (3)"),
    ),
    "no tiers": (
        lambda f: (f / "meta/trials/tiers.npy").unlink(),
        "fatal",
        "meta/trials/tiers.npy",
        "file",
        ("no such file",),
    ),
    "tiers with two axes": (
        lambda f: change(f / "meta/trials/tiers.npy", lambda tiers: tiers[None]),
        "fatal",
        "meta/trials/tiers.npy",
        "shape",
        ("shape (1, 4)",),
    ),
    "trial_idx of another length": (
        lambda f: change(f / "meta/trials/trial_idx.npy", lambda ids: ids[:3]),
        "warning",
        "meta/trials/trial_idx.npy",
        "trial_idx",
        ("expected 4", "found 3", "submission"),
    ),
    "trial_idx that are there twice": (
        lambda f: np.save(f / "meta/trials/trial_idx.npy", np.array([1, 2, 2, 3])),
        "warning",
        "meta/trials/trial_idx.npy",
        "trial_idx",
        ("1 duplicates",),
    ),
    "an array that is cut off": (
        lambda f: (f / "data/videos/1.npy").write_bytes(b"\x93NUMPY"),
        "fatal",
        "data/videos/1.npy",
        "file",
        ("6 bytes that do not load",),
    ),
    "a Git LFS pointer in the place of an array": (
        lambda f: (f / "data/videos/1.npy").write_text(LFS),
        "fatal",
        "data/videos/1.npy",
        "file",
        ("git lfs pull",),
    ),
    "an array of texts": (
        lambda f: change(f / "data/behavior/1.npy", lambda a: a.astype("U8")),
        "fatal",
        "data/behavior/1.npy",
        "dtype",
        ("<U8",),
    ),
    "a folder name that does not name the session": (
        lambda f: None,
        "warning",
        "renamed",
        "folder name",
        ("dynamic<animal>-<session>-<scan>", "'renamed'"),
    ),
}
GROUPS["Shapes, padding and pixels"] = {
    "time first instead of last": (
        lambda f: every(f, "videos", lambda a: a.transpose(2, 0, 1)),
        "fatal",
        "data/videos/0.npy",
        "shape of videos",
        ("expected (6, 8, 70), found (70, 6, 8)", "Time comes first"),
    ),
    "responses of another number of neurons or frames": (
        lambda f: change(f / "data/responses/3.npy", lambda a: a[:2]),
        "fatal",
        "data/responses/3.npy",
        "shape of responses",
        ("expected (3, 70), found (2, 70)",),
    ),
    "responses with time first": (
        lambda f: [
            (f / "meta/neurons/unit_ids.npy").unlink(missing_ok=True),
            every(f, "responses", lambda a: a.T),
        ],
        "fatal",
        "data/responses/0.npy",
        "shape of responses",
        ("expected (3, 70), found (70, 3)", "axes are swapped"),
    ),
    "behaviour with swapped axes": (
        lambda f: change(f / "data/behavior/3.npy", lambda a: a.T),
        "fatal",
        "data/behavior/3.npy",
        "shape of behavior",
        ("expected (2, 70), found (70, 2)", "axes are swapped"),
    ),
    "gaze of another length": (
        lambda f: change(f / "data/pupil_center/3.npy", lambda a: a[:, :50]),
        "fatal",
        "data/pupil_center/3.npy",
        "shape of pupil_center",
        ("found (2, 50)",),
    ),
    "an array without axes": (
        lambda f: change(f / "data/videos/3.npy", np.ravel),
        "fatal",
        "data/videos/3.npy",
        "shape",
        ("(height, width, frames)",),
    ),
    "height and width swapped": (
        lambda f: every(f, "videos", lambda a: a.transpose(1, 0, 2)),
        "warning",
        "data/videos/0.npy",
        "frame size",
        ("as wide as or wider than high", "(8, 6, 70)"),
    ),
    "frames of another size than the model's": (
        lambda f: every(f, "videos", lambda a: a[:5]),
        "fatal",
        "data/videos/0.npy",
        "frame size",
        ("(6, 8, frames)", "(5, 8, 70)"),
    ),
    "padding that begins at different frames": (
        lambda f: change(f / "data/pupil_center/0.npy", setting((..., slice(63, None)), np.nan)),
        "info",
        "data/behavior/0.npy",
        "padding of behavior",
        ("to begin at frame 63", "at frame 66"),
    ),
    "NaN before the padding, where the eye was lost": (
        lambda f: change(f / "data/pupil_center/0.npy", setting((0, 30), np.nan)),
        "warning",
        "data/pupil_center/0.npy",
        "NaN inside pupil_center",
        ("1 of 66 frames, the first at frame 30",),
    ),
    "fewer frames than a window": (
        lambda f: change(f / "data/videos/0.npy", setting((..., slice(40, None)), np.nan)),
        "warning",
        "data/videos/0.npy",
        "valid frames",
        ("at least 60", "found 40", "no window"),
    ),
    "NaN pixels": (
        lambda f: change(f / "data/videos/0.npy", setting((3, 3, 0), np.nan)),
        "warning",
        "data/videos/0.npy",
        "pixels",
        ("NaN or infinite in the sampled frames",),
    ),
    "grey levels outside 0 to 255": (
        lambda f: change(f / "data/videos/0.npy", lambda a: a - 113),
        "warning",
        "data/videos/0.npy",
        "grey levels",
        ("0 to 255", "-113"),
    ),
    "grey levels from 0 to 1": (
        lambda f: every(f, "videos", lambda a: a / 255),
        "warning",
        "data/videos",
        "value range",
        ("0 to 255", "at most 1"),
    ),
    "NaN in responses": (
        lambda f: change(f / "data/responses/0.npy", setting((1, 5), np.nan)),
        "warning",
        "data/responses",
        "NaN values",
        ("1 of 3 signals", "signal 1"),
    ),
}
GROUPS["Responses that are withheld"] = {
    "a tier without responses: zeros, NaN or no files": (
        lambda f: None,
        "warning",
        "data/responses",
        "responses of tier 'final_test_main'",
        ("zeros in all 1 trials: withheld", "scoring"),
    ),
    "no responses in any tier": (
        lambda f: every(f, "responses", np.zeros_like),
        "fatal",
        "data/responses",
        "responses",
        ("none in any tier",),
    ),
    "a single trial without responses": (
        lambda f: change(f / "data/responses/3.npy", np.zeros_like),
        "warning",
        "data/responses/3.npy",
        "silent trials",
        ("zeros or NaN throughout", "tier of their own"),
    ),
}
GROUPS["Statistics and neurons"] = {
    "statistics are missing": (
        lambda f: (f / "meta/statistics/responses/all/std.npy").unlink(),
        "warning",
        "responses/all/std.npy",
        "file",
        ("expected 3 numbers", "train tier"),
    ),
    "statistics of another number of neurons": (
        lambda f: change(f / "meta/statistics/responses/all/std.npy", lambda a: a[:2]),
        "fatal",
        "responses/all/std.npy",
        "length",
        ("expected 3", "(2, 70)"),
    ),
    "means and stds of different shapes": (
        lambda f: change(f / "meta/statistics/behavior/all/std.npy", lambda a: a[:, :9]),
        "fatal",
        "behavior/all",
        "shape",
        ("(2, 70) and (2, 9)",),
    ),
    "stds that are zero or no numbers": (
        lambda f: change(f / "meta/statistics/responses/all/std.npy", setting(1, np.nan)),
        "warning",
        "responses/all/std.npy",
        "stds",
        ("1 NaN or infinite: 1",),
    ),
    "means that are no numbers": (
        lambda f: change(f / "meta/statistics/responses/all/mean.npy", setting(1, np.inf)),
        "warning",
        "responses/all/mean.npy",
        "means",
        ("1 NaN or infinite: 1",),
    ),
    "stds of another scale, as of another session": (
        lambda f: change(f / "meta/statistics/responses/all/std.npy", lambda a: a * 50),
        "warning",
        "responses/all/std.npy",
        "scale",
        ("a factor of",),
    ),
    "means far from the values, as of another session": (
        lambda f: change(f / "meta/statistics/pupil_center/all/mean.npy", lambda a: a + 500),
        "warning",
        "pupil_center/all/mean.npy",
        "location",
        ("stds apart",),
    ),
    "unit_ids of another length": (
        lambda f: np.save(f / "meta/neurons/unit_ids.npy", np.arange(4)),
        "fatal",
        "meta/neurons/unit_ids.npy",
        "length",
        ("expected 3, the neurons in data/responses", "found 4"),
    ),
    "unit_ids that are there twice": (
        lambda f: np.save(f / "meta/neurons/unit_ids.npy", np.array([1, 2, 2])),
        "warning",
        "meta/neurons/unit_ids.npy",
        "unit_ids",
        ("1 duplicates",),
    ),
    "no unit_ids": (
        lambda f: (f / "meta/neurons/unit_ids.npy").unlink(),
        "info",
        "meta/neurons/unit_ids.npy",
        "file",
        ("by position",),
    ),
    "coordinates of another length": (
        lambda f: np.save(f / "meta/neurons/cell_motor_coordinates.npy", np.zeros((2, 3))),
        "warning",
        "cell_motor_coordinates.npy",
        "length",
        ("expected 3", "(2, 3)"),
    ),
    "no derivative of the pupil size, as usual: it is derived": (
        lambda f: None,
        "info",
        "data/behavior",
        "pupil_size_derivative",
        ("central differences",),
    ),
}
GROUPS["Zip archives"] = {
    "an archive that is cut off": (
        lambda f: zipped(f, cut=0.5),
        "fatal",
        "session.zip",
        "archive",
        ("a whole zip archive", "BadZipFile"),
    ),
    "names that lead out of the folder": (
        lambda f: zipped(f, **{"../outside.npy": ""}),
        "fatal",
        "session.zip",
        "archive",
        ("leads out of the folder: '../outside.npy'", "Nothing was unpacked"),
    ),
    "links or special files": (
        lambda f: zipped(f, **{"session/link": "/etc"}),
        "fatal",
        "session.zip",
        "archive",
        ("a link or special file: 'session/link'",),
    ),
    "several sessions": (
        lambda f: zipped(f, **{"other/data/videos/0.npy": ""}),
        "fatal",
        "session.zip",
        "archive",
        ("expected one session", "found 2 sessions (other/, session/)"),
    ),
    "no session": (
        lambda f: (shutil.rmtree(f / "data/videos"), zipped(f))[1],
        "fatal",
        "session.zip",
        "archive",
        ("expected one session", "found none"),
    ),
}
