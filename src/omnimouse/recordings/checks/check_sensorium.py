"""Looking into the arrays of SENSORIUM folders, of 2023 (videos) and 2022 (images), for what opening does not read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omnimouse.recordings.checks.array_summary import summarize
from omnimouse.recordings.checks.check_arrays import check_statistics, check_values
from omnimouse.recordings.checks.check_labels import check_neurons_files
from omnimouse.recordings.checks.check_pixels import Pixels, check_contrast
from omnimouse.recordings.data.findings import Finding, Findings, Kind, merged
from omnimouse.recordings.data.recording_data import SessionParts
from omnimouse.recordings.formats.sensorium.clip_scan import padding_start
from omnimouse.recordings.formats.sensorium.clips import ClipDevice, Clips, ClipScreen
from omnimouse.recordings.formats.sensorium.meta import is_silent
from omnimouse.recordings.formats.sensorium.stills import StillScreen, reduction

SAMPLED_FRAMES = 3
"""Frames of each video whose pixels are looked at."""

# fmt: off
PADDING = Kind("info", "padding of {what}", "to begin at frame {length}, as it does in another kind of data",
               "The trial ends where the padding of any kind begins.")
GAPS = Kind("warning", "NaN inside {what}", "NaN only in the padding at the end", "{do}")
SILENT = Kind("warning", "silent trials", "recorded activity, as in other trials of the tier",
              "They count as silence in training and scoring; give these trials a tier of their own.")
FRAME_SIZE = Kind("fatal", "frame size", "({height}, {width}, frames)", "{do}")
IMAGE_SIZE = Kind("fatal", "image size", "a whole multiple of {height} x {width}, such as 144 x 256 pixels",
                  "Resize the images to such a size; they are reduced by averaging over whole blocks only.")
SAME_TRIALS = Kind("warning", "trial_idx", "one number or hash per trial",
                   "Trials cannot be told apart by it in a submission; restore the file.")
# fmt: on


def check_clips(parts: SessionParts, screen: ClipScreen, *, frame_size: tuple[int, int]) -> Iterator[Finding]:
    """Values of all devices, padding and gaps of every trial, pixels of a few frames, ids of neurons and trials.

    Windows need `frame_size` (height, width); parts with fatal findings are left out.
    """
    clips, tally, pixels = screen.clips, Findings(), Pixels()
    for trial in range(len(clips.lengths)):
        for kind in ("behavior", "pupil_center"):
            tally.extend(_check_padding(clips, trial, kind, np.asarray(clips.array(kind, trial))))
        if clips.lengths[trial]:
            tally.extend(_check_video(clips, trial, frame_size, pixels))
    tally.extend(_check_silence(parts))
    tally.extend(pixels.dark(screen.folder))
    yield from check_contrast(pixels.levels, screen.folder)
    yield from merged(tally)
    for device in parts.devices.values():
        if device is not None:
            summary = summarize(device)
            yield from check_values(device, summary)
            folder = parts.path / "meta/statistics" / device.file.name / "all"
            yield from check_statistics(device, summary, (folder / "mean.npy", folder / "std.npy"))
    yield from _check_names(parts, screen)


def check_stills(parts: SessionParts, screen: StillScreen, *, frame_size: tuple[int, int]) -> Iterator[Finding]:
    """Pixels of all images, whether they can be reduced, values of the responses, ids of neurons and trials.

    Windows need `frame_size` (height, width); behaviour was looked at when the folder was opened.
    """
    responses, clips, tally, pixels = parts.devices["responses"], screen.clips, Findings(), Pixels()
    size = screen.trials[0].image_size
    if size is not None and reduction(size, *frame_size) is None:
        swapped = ", height and width swapped" if reduction(size[::-1], *frame_size) is not None else ""
        yield IMAGE_SIZE(screen.folder, f"{size[0]} x {size[1]}{swapped}", height=frame_size[0], width=frame_size[1])
    for trial in range(len(clips.lengths)):
        image = np.asarray(clips.array("images", trial))
        tally.extend(pixels.look(image, clips.file("images", trial), "the image"))
    tally.extend(pixels.dark(screen.folder))
    yield from check_contrast(pixels.levels, screen.folder)
    if isinstance(responses, ClipDevice):
        tally.extend(_check_silence(parts))
        yield from check_values(responses, summarize(responses))
    yield from merged(tally)
    yield from _check_names(parts, screen)


def _check_padding(clips: Clips, trial: int, what: str, array: np.ndarray) -> Iterator[Finding]:
    """Compare the NaNs of one array `[signals, frames]` with the trial's valid frames."""
    file, length = clips.file(what, trial), int(clips.lengths[trial])
    own = padding_start(array)
    if own != length:
        yield PADDING(file, f"at frame {own}", what=what, length=length)
    gaps = np.flatnonzero(np.isnan(array[:, :length]).any(axis=0))
    if len(gaps):
        do = "Windows that touch them are left out."
        if what == "videos":
            do = "They reach the model as they are; repair the video."
        yield GAPS(file, f"{len(gaps)} of {length} frames, the first at frame {gaps[0]}", what=what, do=do)


def _check_silence(parts: SessionParts) -> Iterator[Finding]:
    """Single trials without responses, in tiers that have some."""
    responses = parts.devices["responses"]
    if not isinstance(responses, ClipDevice):
        return
    clips = responses.clips
    for trial in range(len(clips.lengths)):
        if trial not in responses.withheld and is_silent(clips.array("responses", trial)):
            yield SILENT(clips.file("responses", trial), "zeros or NaN throughout")


def _check_video(clips: Clips, trial: int, frame_size: tuple[int, int], pixels: Pixels) -> Iterator[Finding]:
    """Frame size, padding and a few frames of one video."""
    video, file, (height, width) = clips.array("videos", trial), clips.file("videos", trial), frame_size
    if video.shape[:2] != frame_size:
        do = "Resize the videos; nothing is resized here."
        if video.shape[:2] == (width, height):
            do = "Height and width are swapped: transpose the frames."
        yield FRAME_SIZE(file, video.shape, height=height, width=width, do=do)
    yield from _check_padding(clips, trial, "videos", np.asarray(video[0, :1]))
    chosen = np.unique(np.linspace(0, int(clips.lengths[trial]) - 1, SAMPLED_FRAMES).astype(int))
    yield from pixels.look(np.asarray(video[:, :, chosen], dtype=np.float64), file, "the sampled frames")


def _check_names(parts: SessionParts, screen: ClipScreen) -> Iterator[Finding]:
    """Ids of neurons and trials, and the coordinates, which nothing else reads."""
    responses = parts.devices["responses"]
    if responses is not None:
        folder, n = parts.path / "meta/neurons", responses.shape[1]
        yield from check_neurons_files(folder, responses.unit_ids, n, "cell_motor_coordinates")
    ids = [trial.trial_id for trial in screen.trials if trial.trial_id is not None]
    if len(set(ids)) < len(ids):
        yield SAME_TRIALS(parts.path / "meta/trials/trial_idx.npy", f"{len(ids) - len(set(ids))} duplicates")
