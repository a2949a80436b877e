"""Looking into the arrays of a SENSORIUM 2023 folder for what opening does not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omnimouse.recordings.checks.check_arrays import check_statistics, check_values, summarize
from omnimouse.recordings.checks.check_labels import check_labels, check_unit_ids
from omnimouse.recordings.checks.check_screen import check_scale
from omnimouse.recordings.data.findings import Findings, Tally
from omnimouse.recordings.data.frames import GreyLevels
from omnimouse.recordings.data.reading import open_array
from omnimouse.recordings.data.recording_data import SessionParts
from omnimouse.recordings.formats.sensorium.clips import ClipDevice, Clips, ClipScreen
from omnimouse.recordings.formats.sensorium.scan import is_silent, padding_start

SAMPLED_FRAMES = 3
"""Frames of each video whose pixels are looked at."""


def check_clips(parts: SessionParts, findings: Findings, *, frame_size: tuple[int, int]) -> None:
    """Values of all devices, padding and gaps of every trial, pixels of a few frames, ids of neurons and trials.

    Args:
        parts: a folder that was opened; parts with fatal findings are left out.
        findings: what is found goes here.
        frame_size: (height, width) that windows need.
    """
    screen = parts.screen
    assert isinstance(screen, ClipScreen)
    clips, tally = screen.clips, Tally()
    highest: dict[Path, float] = {}
    levels = GreyLevels()
    for trial in range(len(clips.lengths)):
        for kind in ("behavior", "pupil_center"):
            _check_padding(clips, trial, kind, np.asarray(clips.array(kind, trial)), tally)
        if clips.lengths[trial]:
            highest[clips.file("videos", trial)] = _check_video(clips, trial, frame_size, levels, tally)
    if isinstance(parts.devices["responses"], ClipDevice):
        check_silence(parts.devices["responses"], tally)
    check_range(highest, screen.folder, tally)
    levels.report_contrast(screen.folder, findings)
    tally.report(findings)
    for device in parts.devices.values():
        if device is not None:
            summary = summarize(device)
            check_values(device, summary, findings)
            folder = parts.path / "meta/statistics" / device.file.name / "all"
            check_statistics(device, summary, (folder / "mean.npy", folder / "std.npy"), findings)
    check_names(parts, findings)


def check_range(highest: dict[Path, float], folder: Path, tally: Tally) -> None:
    """Whether grey levels look scaled to 0-1, all or those of some files; `highest` are the highest of each."""
    most = max(highest.values(), default=0.0)
    if most > 1:
        check_scale(highest, tally)
    elif most > 0:
        tally.add(
            "warning",
            "value range",
            folder,
            expected="grey levels from 0 to 255",
            found=f"at most {most:.3g}",
            do="They look scaled to 0-1; store them times 255, or everything is nearly black to the model.",
        )


def _check_padding(clips: Clips, trial: int, kind: str, array: np.ndarray, tally: Tally) -> None:
    """Compare the NaNs of one array `[signals, frames]` with the trial's valid frames."""
    file, length = clips.file(kind, trial), int(clips.lengths[trial])
    own = padding_start(array)
    if own != length:
        tally.add(
            "info",
            f"padding of {kind}",
            file,
            expected=f"to begin at frame {length}, as it does in another kind of data",
            found=f"at frame {own}",
            do="The trial ends where the padding of any kind begins.",
        )
    gaps = np.flatnonzero(np.isnan(array[:, :length]).any(axis=0))
    if len(gaps):
        tally.add(
            "warning",
            f"NaN inside {kind}",
            file,
            expected="NaN only in the padding at the end",
            found=f"{len(gaps)} of {length} frames, the first at frame {gaps[0]}",
            do="Windows that touch them are left out."
            if kind != "videos"
            else "They reach the model as they are; repair the video.",
        )


def check_silence(responses: ClipDevice, tally: Tally) -> None:
    """Single trials without responses, in tiers that have some."""
    clips = responses.clips
    for trial in range(len(clips.lengths)):
        if trial not in responses.withheld and is_silent(clips.array("responses", trial)):
            tally.add(
                "warning",
                "silent trials",
                clips.file("responses", trial),
                expected="recorded activity, as in other trials of the tier",
                found="zeros or NaN throughout",
                do="They count as silence in training and scoring; give these trials a tier of their own.",
            )


def _check_video(clips: Clips, trial: int, frame_size: tuple[int, int], levels: GreyLevels, tally: Tally) -> float:
    """Frame size, padding and a few frames of one video; returns the highest grey level among them."""
    video, length = clips.array("videos", trial), int(clips.lengths[trial])
    file, (height, width) = clips.file("videos", trial), frame_size
    if video.shape[:2] != frame_size:
        tally.add(
            "fatal",
            "frame size",
            file,
            expected=f"({height}, {width}, frames)",
            found=str(video.shape),
            do="Height and width are swapped: transpose the frames."
            if video.shape[:2] == (width, height)
            else "Resize the videos; nothing is resized here.",
        )
    _check_padding(clips, trial, "videos", np.asarray(video[0, :1]), tally)
    chosen = np.unique(np.linspace(0, length - 1, SAMPLED_FRAMES).astype(int))
    values = np.asarray(video[:, :, chosen], dtype=np.float64)
    levels.add(values)
    return check_pixels(values, file, tally, "the sampled frames")


def check_pixels(values: np.ndarray, file: Path, tally: Tally, where: str) -> float:
    """Whether pixels are grey levels; returns the highest one, -inf without any."""
    finite = values[np.isfinite(values)]
    if finite.size < values.size:
        tally.add(
            "warning",
            "pixels",
            file,
            expected="finite grey levels",
            found=f"{1 - finite.size / values.size:.2%} NaN or infinite in {where}",
            do="They reach the model as they are; repair the file.",
        )
    if finite.size and (finite.min() < 0 or finite.max() > 255):
        tally.add(
            "warning",
            "grey levels",
            file,
            expected="0 to 255",
            found=f"{finite.min():.4g} to {finite.max():.4g}",
            do="Store grey levels from 0 to 255, not normalised ones.",
        )
    return float(finite.max()) if finite.size else -np.inf


def check_names(parts: SessionParts, findings: Findings) -> None:
    """Ids of neurons and trials, and the coordinates, which nothing else reads."""
    responses, screen = parts.devices["responses"], parts.screen
    folder = parts.path / "meta/neurons"
    if responses is not None:
        check_unit_ids(folder / "unit_ids.npy", responses.unit_ids, responses.shape[1], findings)
        check_labels(folder, responses.shape[1], findings)
    path = folder / "cell_motor_coordinates.npy"
    if responses is not None and path.is_file():
        array = open_array(path, Findings())
        if array is None or array.ndim == 0 or len(array) != responses.shape[1]:
            findings.warning(
                path,
                "length",
                expected=f"{responses.shape[1]}, one per neuron",
                found="a file that does not load" if array is None else str(array.shape),
                do="It is not used; restore it.",
            )
    ids = [trial.trial_id for trial in screen.trials if trial.trial_id is not None] if screen is not None else []
    if len(set(ids)) < len(ids):
        findings.warning(
            parts.path / "meta/trials/trial_idx.npy",
            "trial_idx",
            expected="one number or hash per trial",
            found=f"{len(ids) - len(set(ids))} duplicates",
            do="Trials cannot be told apart by it in a submission; restore the file.",
        )
