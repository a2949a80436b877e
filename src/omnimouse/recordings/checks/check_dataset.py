"""Looking into the tables of a recording in the `datasets` form for what opening does not read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from omnimouse.recordings.checks.check_arrays import check_channel_order, check_device
from omnimouse.recordings.checks.check_screen import check_tiers
from omnimouse.recordings.data.devices import CHUNK_BYTES
from omnimouse.recordings.data.findings import Findings
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


def check_tables(parts: SessionParts, findings: Findings, *, frame_size: tuple[int, int], deep: bool) -> None:
    """Trials, and with `deep` the values of all devices and the pictures of all frames.

    Args:
        parts: a folder that was opened; parts with fatal findings are left out.
        findings: what is found goes here.
        frame_size: (height, width) that windows need.
        deep: read samples and pictures too.
    """
    screen = parts.screen
    assert isinstance(screen, TableScreen)
    check_tiers(screen, screen.folder / TRIALS, findings)
    if screen.frame_size is not None and screen.frame_size != frame_size:
        expected, found = (f"{height} x {width}" for height, width in (frame_size, screen.frame_size))
        do = "Resize the stimuli of the source, and write it again; nothing is resized here."
        findings.fatal(screen.folder / RECORDING, "frame size", expected=expected, found=found, do=do)
    if not deep:
        return
    for device in parts.devices.values():
        if device is None or not device.shape[1]:
            continue
        noted = Findings()
        try:
            check_device(device, noted)
        except ValueError as error:  # a batch that does not decode
            found = str(error).partition(": ")[2] or str(error)
            findings.fatal(device.file, "rows", expected="batches as they were written", found=found, do=EXPORT_AGAIN)
            continue
        for finding in noted:  # which names the files that a session folder has
            per_signal = Path(finding.path).parent.name == "meta"
            file = screen.folder / signals_table(device.name) if per_signal else device.file
            findings.append(replace(finding, path=str(file)))
    if findings.has_fatal:
        return
    eye_tracker = parts.devices["eye_tracker"]
    if eye_tracker is not None and eye_tracker.channels is None:
        check_channel_order(eye_tracker, findings)
    try:
        _check_pictures(screen, findings)
    except ValueError as error:
        found = str(error).partition(": ")[2] or str(error)
        findings.fatal(screen.folder / SCREEN, "pictures", expected="one per frame", found=found, do=EXPORT_AGAIN)


def _check_pictures(screen: TableScreen, findings: Findings) -> None:
    """Read the pictures of all frames of videos and images."""
    levels = GreyLevels()
    for trial in screen.trials:
        if trial.modality not in ("video", "image") or screen.frame_size is None:
            continue
        step = max(1, CHUNK_BYTES // (4 * screen.frame_size[0] * screen.frame_size[1]))
        for low in range(0, trial.n_frames, step):
            levels.add(screen.pictures(trial.first_frame + np.arange(low, min(low + step, trial.n_frames))))
    levels.report(screen.folder / SCREEN, findings)
