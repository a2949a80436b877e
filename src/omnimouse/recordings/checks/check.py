"""Checking a recording: every fault at once, in bounded memory, never raising, never writing.

`check_recording` reads the metadata as opening does, then looks into the arrays (`check_arrays`) and the stimuli
(`check_screen`), and last at what only the whole session shows: whether devices overlap and which tiers have windows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.model.sessions import SessionSpec
from omnimouse.recordings.channels import channel_rows, usual_channels
from omnimouse.recordings.checks.check_arrays import check_channel_order, check_device
from omnimouse.recordings.checks.check_dataset import check_tables
from omnimouse.recordings.checks.check_repeats import check_repeats
from omnimouse.recordings.checks.check_screen import check_names_of_tiers, check_stimuli, check_tiers, check_trials
from omnimouse.recordings.checks.check_sensorium import check_clips
from omnimouse.recordings.checks.check_static import check_stills
from omnimouse.recordings.checks.check_times import check_times
from omnimouse.recordings.data.channel_names import channel_of
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Finding, Findings
from omnimouse.recordings.data.frames import GreyLevels
from omnimouse.recordings.data.recording_data import RecordingData, SessionParts
from omnimouse.recordings.formats.arrays.array_devices import ArrayScreen
from omnimouse.recordings.formats.dataset_form.dataset_tables import TableScreen, looks_like_dataset
from omnimouse.recordings.formats.locating import find_session_folder, name_archive, open_parts
from omnimouse.recordings.formats.sensorium.clips import ClipScreen
from omnimouse.recordings.formats.sensorium.folder import looks_like_sensorium
from omnimouse.recordings.formats.sensorium.stills import StillScreen
from omnimouse.recordings.pooling import FASTER
from omnimouse.recordings.windows import Windows

SEVERITIES = ("fatal", "warning", "info")


def check_recording(
    path: str | os.PathLike[str], *, processor: OmniMouseProcessor | None = None, deep: bool = True
) -> list[Finding]:
    """Everything that is wrong or noteworthy in a session folder, the worst first.

    Args:
        path: a session folder, sound or not.
        processor: rates and rules for the question which windows exist; profile "strict" when not given.
        deep: read arrays and stimuli too, not only metadata.

    Returns:
        Findings; none is fatal when the recording can be read. Broken input never raises.
    """
    findings = Findings()
    processor = processor if processor is not None else OmniMouseProcessor(profile="strict")
    folder = Path(path)
    places: list[Path] = []
    _guarded(lambda: places.extend(_check(folder, processor, deep, findings)), folder, findings)
    named = name_archive(findings, places[0] if places else None, folder)
    return sorted(dict.fromkeys(named), key=lambda finding: SEVERITIES.index(finding.severity))


def check_open_recording(recording: RecordingData, *, processor: OmniMouseProcessor | None = None) -> list[Finding]:
    """Everything that is wrong or noteworthy in a recording that no folder holds, the worst first; never raises."""
    findings = Findings()
    processor = processor if processor is not None else OmniMouseProcessor(profile="strict")
    for finding in recording.findings:
        findings.append(finding)
    devices: dict[str, SequenceDevice | None] = {device.name: device for device in recording.devices}
    for device in recording.devices:
        if device.shape[1]:
            _guarded(lambda device=device: check_device(device, findings), device.file, findings)  # type: ignore[misc]
    screen = recording.screen
    if isinstance(screen, ArrayScreen):
        _guarded(lambda: _check_frames(screen, findings), screen.folder, findings)
    parts = SessionParts(recording.path, recording.session_key, recording.animal_id, devices, recording.screen)
    _check_identity(parts, findings)
    _guarded(lambda: check_tiers(screen, screen.folder, findings), screen.folder, findings)
    _guarded(lambda: check_times(parts, findings, needed=_needed(processor)), recording.path, findings)
    _guarded(lambda: _check_windows(recording, processor, findings), recording.path, findings)
    size = processor.frame_height, processor.frame_width
    _guarded(lambda: check_repeats(recording, findings, frame_size=size), recording.path, findings)
    return sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))


def _check_frames(screen: ArrayScreen, findings: Findings) -> None:
    """Every stored frame of a video over arrays."""
    levels = GreyLevels()
    for block in screen.grey_blocks():
        levels.add(block)
    levels.report(screen.folder, findings, range_is_meant=screen.levels_given)


def _guarded(check: Callable[[], Any], path: Path, findings: Findings) -> None:
    """Run one check; whatever it raises becomes a finding, so that the others still run."""
    try:
        check()
    except Exception as error:
        findings.fatal(
            path,
            "check",
            expected="readable content",
            found=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            do="Restore the files concerned; if they are sound, please report this message.",
        )


def _check(path: Path, processor: OmniMouseProcessor, deep: bool, findings: Findings) -> list[Path]:
    """Check what lies at a path; returns the folder that was found there, if any."""
    try:
        folder = find_session_folder(path, findings)
    except OSError as error:  # of the Hub
        expected = "a session folder, or a dataset repo"
        findings.fatal(path, "folder", expected=expected, found=str(error), do="Check the path, or the name.")
        return []
    if folder is None:
        return []
    parts = open_parts(folder, findings)
    _check_identity(parts, findings)
    if isinstance(parts.screen, TableScreen):
        size = processor.frame_height, processor.frame_width
        _guarded(lambda: check_tables(parts, findings, frame_size=size, deep=deep), folder, findings)
        _guarded(lambda: check_times(parts, findings, needed=_needed(processor)), folder, findings)
    elif looks_like_dataset(folder):
        return [folder]
    elif not looks_like_sensorium(folder):
        _check_experanto(parts, processor, deep, findings)
    elif deep and isinstance(parts.screen, ClipScreen):
        tiers = list(dict.fromkeys(trial.tier for trial in parts.screen.trials if trial.tier is not None))
        check_names_of_tiers(tiers, folder / "meta/trials/tiers.npy", findings)
        size = processor.frame_height, processor.frame_width
        check_values = check_stills if isinstance(parts.screen, StillScreen) else check_clips
        _guarded(lambda: check_values(parts, findings, frame_size=size), folder, findings)
    recording = parts.recording(findings)
    if recording is not None:
        _guarded(lambda: _check_windows(recording, processor, findings), folder, findings)
        size = processor.frame_height, processor.frame_width
        _guarded(lambda: check_repeats(recording, findings, frame_size=size, deep=deep), folder, findings)
    return [folder]


def _check_experanto(parts: SessionParts, processor: OmniMouseProcessor, deep: bool, findings: Findings) -> None:
    for device in parts.devices.values():
        if deep and device is not None and device.shape[1]:
            _guarded(lambda device=device: check_device(device, findings), device.file, findings)  # type: ignore[misc]
    eye_tracker, screen = parts.devices["eye_tracker"], parts.screen
    if deep and eye_tracker is not None and eye_tracker.channels is None:
        _guarded(lambda: check_channel_order(eye_tracker, findings), eye_tracker.file, findings)
    if screen is not None:
        _guarded(lambda: check_trials(screen, findings), screen.folder, findings)
        if deep and screen.has_frames:
            size = processor.frame_height, processor.frame_width
            _guarded(lambda: check_stimuli(screen, findings, frame_size=size), screen.folder, findings)
    _guarded(lambda: check_times(parts, findings, needed=_needed(processor)), parts.path, findings)


def _check_identity(parts: SessionParts, findings: Findings) -> None:
    file = parts.path / "meta.json"
    try:
        SessionSpec(parts.session_key, 1, parts.animal_id)
    except ValueError as error:
        findings.warning(
            file if file.is_file() else parts.path,
            "scan_key",
            expected="names that a model can store a session under",
            found=str(error),
            do="The recording can be read, but not be added to a model under this name; correct it.",
        )


def _needed(processor: OmniMouseProcessor) -> float:
    """Seconds that devices have to share for a window."""
    return processor.window_seconds + 2 * processor.safe_interval


def _note_missing(recording: RecordingData, processor: OmniMouseProcessor, findings: Findings) -> None:
    """Says what was not recorded, and which channels nobody asks for."""
    eye_tracker, treadmill = (device.channels or usual_channels(device) for device in recording.devices[1:])
    stored = [*(eye_tracker or ()), *(treadmill or ())]
    if eye_tracker is not None and treadmill is not None and stored != list(processor.behavior_channels):
        n_known = len(processor.behavior_channels)
        lacking = [name for name in processor.behavior_channels if name not in stored]
        extra = [name for name in stored if name not in processor.behavior_channels]
        findings.info(
            recording.path,
            "behavior channels",
            expected=", ".join(processor.behavior_channels),
            found=("all" if not lacking else f"all but {', '.join(lacking)}" if len(lacking) < n_known else "none")
            + (f", and besides {', '.join(extra)}" if extra else ""),
            do="Channels go by name: the model goes without the missing ones, and the others are not used.",
        )
    unused = {name: channel_of(name) for name in stored if name not in processor.behavior_channels}
    for name, channel in unused.items():
        if channel is not None and channel not in stored:
            findings.warning(
                recording.path,
                f"behavior channel {name!r}",
                expected=f"one of {', '.join(processor.behavior_channels)}",
                found=repr(name),
                do=f"It is not used under this name. If it is {channel}, name it so.",
            )
    if not recording.has_video:
        findings.info(
            recording.screen.folder,
            "video",
            expected="what was shown",
            found="not recorded",
            do="The model goes without video: use tasks without stimulus.",
        )


def _check_fast(device: SequenceDevice, processor: OmniMouseProcessor, findings: Findings) -> None:
    rate = processor.response_rate
    if device.sampling_rate <= FASTER * rate:
        return
    seconds = f"{1000 / rate:.3g} ms"
    findings.warning(
        device.file,
        "sampling rate of responses",
        expected=f"at most the {rate:g} Hz of windows",
        found=f"{device.sampling_rate:.6g} Hz",
        do=f"The strict profile averages all samples of each {seconds}; the published profiles pick one and drop the "
        f"others. Average them to {rate:g} Hz yourself to have the same under every profile.",
    )


def _check_windows(recording: RecordingData, processor: OmniMouseProcessor, findings: Findings) -> None:
    try:
        channel_rows(recording, processor.behavior_channels)
    except ValueError as error:
        findings.fatal(
            recording.path,
            "behavior channels",
            expected=f"{len(processor.behavior_channels)} ({', '.join(processor.behavior_channels)})",
            found=str(error).removeprefix(f"{recording.path}: "),
            do="Name the channels of your export, or pass a processor that names yours in behavior_channels.",
        )
        return
    _note_missing(recording, processor, findings)
    _check_fast(recording.responses, processor, findings)
    empty = []
    tiers = [tier for tier in recording.tiers if tier not in recording.withheld_tiers]
    for tier in tiers:
        windows = Windows(recording, tier, processor=processor, quiet=True)
        if not len(windows):
            empty.append(tier)
            findings.warning(
                recording.path,
                f"windows of tier {tier!r}",
                expected="at least one",
                found=windows.explain(),
                do="This tier cannot be used for training or scoring with these rules.",
            )
    if empty and len(empty) == len(tiers):
        findings.fatal(
            recording.path,
            "windows",
            expected="at least one window in some tier",
            found="none in any tier",
            do="See the warnings about each tier for what was lost to tier, filter and duration.",
        )
