"""Looking into the tables of a recording in the `datasets` form for what opening does not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from omnimouse.recordings.checks.check_arrays import check_channel_order, check_device
from omnimouse.recordings.checks.check_pixels import check_movie
from omnimouse.recordings.checks.check_screen import check_tiers
from omnimouse.recordings.data.devices import CHUNK_BYTES, SequenceDevice
from omnimouse.recordings.data.findings import Finding, Kind
from omnimouse.recordings.data.frames import GreyLevels
from omnimouse.recordings.data.recording_data import SessionParts
from omnimouse.recordings.formats.dataset_form.dataset_tables import (
    EXPORT_AGAIN,
    RECORDING,
    SCREEN,
    TRIALS,
    TableScreen,
    signals_table,
)

FRAME_SIZE = Kind(
    "fatal", "frame size", "{size}",
    "Resize the stimuli of the source, and write it again; nothing is resized here.",
)  # fmt: skip
ROWS = Kind("fatal", "rows", "batches as they were written", EXPORT_AGAIN)
PICTURES = Kind("fatal", "pictures", "one per frame", EXPORT_AGAIN)


def check_tables(
    parts: SessionParts, screen: TableScreen, *, frame_size: tuple[int, int], deep: bool, sound: bool
) -> Iterator[Finding]:
    """Trials, and with `deep` the values of all devices and, if nothing is fatal, the pictures of all frames.

    Windows need `frame_size` (height, width); `sound` says that opening found nothing fatal.
    """
    for finding in _check_trials_and_devices(parts, screen, frame_size, deep):
        sound = sound and finding.severity != "fatal"
        yield finding
    if not deep or not sound:
        return
    eye_tracker = parts.devices["eye_tracker"]
    if eye_tracker is not None and eye_tracker.channels is None:
        yield from check_channel_order(eye_tracker)
    try:
        yield from list(_check_pictures(screen))
    except ValueError as error:
        yield PICTURES(screen.folder / SCREEN, str(error).partition(": ")[2] or error)


def _check_trials_and_devices(
    parts: SessionParts, screen: TableScreen, frame_size: tuple[int, int], deep: bool
) -> Iterator[Finding]:
    yield from check_tiers(screen, screen.folder / TRIALS)
    if screen.frame_size is not None and screen.frame_size != frame_size:
        size, found = (f"{height} x {width}" for height, width in (frame_size, screen.frame_size))
        yield FRAME_SIZE(screen.folder / RECORDING, found, size=size)
    for device in parts.devices.values() if deep else ():
        if device is not None and device.shape[1]:
            yield from _check_rows(device, screen)


def _check_rows(device: SequenceDevice, screen: TableScreen) -> Iterator[Finding]:
    """The values of a device; findings name the tables instead of the files that a session folder has."""
    try:
        found = list(check_device(device))
    except ValueError as error:  # a batch that does not decode
        yield ROWS(device.file, str(error).partition(": ")[2] or error)
        return
    for finding in found:
        per_signal = Path(finding.path).parent.name == "meta"
        yield replace(finding, path=str(screen.folder / signals_table(device.name) if per_signal else device.file))


def _check_pictures(screen: TableScreen) -> Iterator[Finding]:
    """Read the pictures of all frames of videos and images."""
    levels = GreyLevels()
    for trial in screen.trials:
        if trial.modality not in ("video", "image") or screen.frame_size is None:
            continue
        step = max(1, CHUNK_BYTES // (4 * screen.frame_size[0] * screen.frame_size[1]))
        for low in range(0, trial.n_frames, step):
            levels.add(screen.pictures(trial.first_frame + np.arange(low, min(low + step, trial.n_frames))))
    yield from check_movie(levels, screen.folder / SCREEN)
