"""Checking a recording: every fault at once, in bounded memory, never raising, never writing.

`check_recording` reads the metadata as opening does, then looks into the arrays (`check_arrays`) and the stimuli
(`check_screen`), and last at what only the whole session shows: whether devices overlap and which tiers have windows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.recordings.channels import channel_rows, usual_channels
from omnimouse.recordings.checks.check_arrays import check_channel_order, check_device
from omnimouse.recordings.checks.check_dataset import check_tables
from omnimouse.recordings.checks.check_pixels import check_movie
from omnimouse.recordings.checks.check_repeats import check_repeats
from omnimouse.recordings.checks.check_screen import check_names_of_tiers, check_stimuli, check_tiers, check_trials
from omnimouse.recordings.checks.check_sensorium import check_clips, check_stills
from omnimouse.recordings.checks.check_times import check_times
from omnimouse.recordings.data.channel_names import channel_of
from omnimouse.recordings.data.findings import Finding, Findings, Kind
from omnimouse.recordings.data.frames import GreyLevels
from omnimouse.recordings.data.recording_data import RecordingData, SessionParts
from omnimouse.recordings.formats.arrays.array_devices import ArrayScreen
from omnimouse.recordings.formats.dataset_form.dataset_tables import TableScreen, looks_like_dataset
from omnimouse.recordings.formats.detecting import find_session_folder, name_archive, open_parts
from omnimouse.recordings.formats.sensorium.clips import ClipScreen
from omnimouse.recordings.formats.sensorium.folder import looks_like_sensorium
from omnimouse.recordings.formats.sensorium.stills import StillScreen
from omnimouse.recordings.pooling import FASTER
from omnimouse.recordings.windows import Windows

SEVERITIES = ("fatal", "warning", "info")

# fmt: off
UNREADABLE = Kind("fatal", "check", "readable content",
                  "Restore the files concerned; if they are sound, please report this message.")
NOT_FOUND = Kind("fatal", "folder", "a session folder, or a dataset repo", "Check the path, or the name.")
ODD_KEY = Kind("warning", "scan_key", "names that a model can store a session under",
               "The recording can be read, but not be added to a model under this name; correct it.")
CHANNELS = Kind("info", "behavior channels", "{names}",
                "Channels go by name: the model goes without the missing ones, and the others are not used.")
MISNAMED = Kind("warning", "behavior channel {name!r}", "one of {names}",
                "It is not used under this name. If it is {channel}, name it so.")
NO_VIDEO = Kind("info", "video", "what was shown", "The model goes without video: use tasks without stimulus.")
FAST = Kind("warning", "sampling rate of responses", "at most the {rate:g} Hz of windows",
            "The strict profile averages all samples of each {seconds:.3g} ms; the published profiles pick one and "
            "drop the others. Average them to {rate:g} Hz yourself to have the same under every profile.")
UNNAMED = Kind("fatal", "behavior channels", "{n} ({names})",
               "Name the channels of your export, or pass a processor that names yours in behavior_channels.")
NO_WINDOW = Kind("warning", "windows of tier {tier!r}", "at least one",
                 "This tier cannot be used for training or scoring with these rules.")
NO_WINDOWS = Kind("fatal", "windows", "at least one window in some tier",
                  "See the warnings about each tier for what was lost to tier, filter and duration.")
# fmt: on


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
    given = Path(path)
    checks = _Checks(processor or OmniMouseProcessor(profile="strict"), deep)
    checks.guard(given, checks.folder, given)
    return _worst_first(name_archive(checks.findings, checks.place, given))


def check_open_recording(recording: RecordingData, *, processor: OmniMouseProcessor | None = None) -> list[Finding]:
    """Everything that is wrong or noteworthy in a recording that no folder holds, the worst first; never raises."""
    checks = _Checks(processor or OmniMouseProcessor(profile="strict"), deep=True)
    checks.findings.extend(recording.findings)
    screen, devices = recording.screen, {device.name: device for device in recording.devices}
    parts = SessionParts(recording.path, recording.session_key, recording.animal_id, dict(devices), screen)
    checks.devices(parts)
    if isinstance(screen, ArrayScreen):
        checks.guard(screen.folder, _check_array_frames, screen)
    checks.findings.extend(_check_identity(parts))
    checks.guard(screen.folder, check_tiers, screen, screen.folder)
    checks.times(parts)
    checks.whole(recording, recording.path)
    return _worst_first(checks.findings)


def _worst_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))


@dataclass
class _Checks:
    """Checks of one recording, and what they found so far."""

    processor: OmniMouseProcessor
    deep: bool
    findings: Findings = field(default_factory=Findings)
    place: Path | None = None

    def guard(self, path: Path, check: Callable[..., Iterable[Finding]], *args: Any, **options: Any) -> None:
        """Runs one check; whatever it raises becomes a finding, so that the others still run."""
        try:
            for finding in check(*args, **options):
                self.findings.append(finding)
        except Exception as error:
            message = " ".join(str(error).split())[:300]
            self.findings.append(UNREADABLE(path, f"{type(error).__name__}: {message}"))

    def folder(self, path: Path) -> tuple[Finding, ...]:
        """Checks what lies at a path."""
        try:
            self.place = folder = find_session_folder(path, self.findings)
        except OSError as error:  # of the Hub
            return (NOT_FOUND(path, error),)
        if folder is None:
            return ()
        parts = open_parts(folder, self.findings)
        self.findings.extend(_check_identity(parts))
        screen, size = parts.screen, {"frame_size": self.frame_size}
        if isinstance(screen, TableScreen):
            sound = not self.findings.has_fatal
            self.guard(folder, check_tables, parts, screen, deep=self.deep, sound=sound, **size)
            self.times(parts)
        elif looks_like_dataset(folder):
            return ()
        elif not looks_like_sensorium(folder):
            self.experanto(parts)
        elif self.deep and isinstance(screen, ClipScreen):
            tiers = list(dict.fromkeys(trial.tier for trial in screen.trials if trial.tier is not None))
            self.findings.extend(check_names_of_tiers(tiers, folder / "meta/trials/tiers.npy"))
            if isinstance(screen, StillScreen):
                self.guard(folder, check_stills, parts, screen, **size)
            else:
                self.guard(folder, check_clips, parts, screen, **size)
        recording = parts.recording(self.findings)
        if recording is not None:
            self.whole(recording, folder)
        return ()

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) that windows need."""
        return self.processor.frame_height, self.processor.frame_width

    def devices(self, parts: SessionParts) -> None:
        """Checks the values of all devices."""
        for device in parts.devices.values():
            if self.deep and device is not None and device.shape[1]:
                self.guard(device.file, check_device, device)

    def experanto(self, parts: SessionParts) -> None:
        """Checks the files of a session folder in experanto's layout."""
        self.devices(parts)
        eye_tracker, screen = parts.devices["eye_tracker"], parts.screen
        if self.deep and eye_tracker is not None and eye_tracker.channels is None:
            self.guard(eye_tracker.file, check_channel_order, eye_tracker)
        if screen is not None:
            self.guard(screen.folder, check_trials, screen)
            if self.deep and screen.has_frames:
                self.guard(screen.folder, check_stimuli, screen, frame_size=self.frame_size)
        self.times(parts)

    def times(self, parts: SessionParts) -> None:
        """Checks whether devices and trials lie on one clock, and share time enough for a window."""
        needed = self.processor.window_seconds + 2 * self.processor.safe_interval
        told = any(finding.field == "times" for finding in self.findings)  # by what made a recording of arrays
        self.guard(parts.path, check_times, parts, needed=needed, trials_too=not told)

    def whole(self, recording: RecordingData, path: Path) -> None:
        """Checks what only the whole recording shows."""
        self.guard(path, _check_windows, recording, self.processor)
        self.guard(path, check_repeats, recording, frame_size=self.frame_size, deep=self.deep)


def _check_array_frames(screen: ArrayScreen) -> Iterator[Finding]:
    """Every stored frame of a video over arrays."""
    levels = GreyLevels()
    for block in screen.grey_blocks():
        levels.add(block)
    yield from check_movie(levels, screen.folder, range_is_meant=screen.levels_given)


def _check_identity(parts: SessionParts) -> Iterator[Finding]:
    file = parts.path / "meta.json"
    try:
        SessionSpec(parts.session_key, 1, parts.animal_id)
    except ValueError as error:
        yield ODD_KEY(file if file.is_file() else parts.path, error)


def _check_windows(recording: RecordingData, processor: OmniMouseProcessor) -> Iterator[Finding]:
    """Whether every tier has windows: of named channels, at a rate that no profile loses samples of."""
    path, names, rate = recording.path, ", ".join(processor.behavior_channels), processor.response_rate
    try:
        channel_rows(recording, processor.behavior_channels)
    except ValueError as error:
        found = str(error).removeprefix(f"{path}: ")
        yield UNNAMED(path, found, n=len(processor.behavior_channels), names=names)
        return
    yield from _check_channels(recording, processor.behavior_channels)
    if not recording.has_video:
        yield NO_VIDEO(recording.screen.folder, "not recorded")
    responses = recording.responses
    if responses.sampling_rate > FASTER * rate:
        yield FAST(responses.file, f"{responses.sampling_rate:.6g} Hz", rate=rate, seconds=1000 / rate)
    tiers = [tier for tier in recording.tiers if tier not in recording.withheld_tiers]
    usable = len(tiers)
    for tier in tiers:
        windows = Windows(recording, tier, processor=processor, quiet=True)
        if not len(windows):
            usable -= 1
            yield NO_WINDOW(path, windows.explain(), tier=tier)
    if tiers and not usable:
        yield NO_WINDOWS(path, "none in any tier")


def _check_channels(recording: RecordingData, wanted: list[str]) -> Iterator[Finding]:
    """Which channels are missing, and which nobody asks for."""
    eye_tracker, treadmill = (device.channels or usual_channels(device) for device in recording.devices[1:])
    stored = [*(eye_tracker or ()), *(treadmill or ())]
    lacking = [name for name in wanted if name not in stored]
    extra = [name for name in stored if name not in wanted]
    if eye_tracker is not None and treadmill is not None and stored != wanted:
        found = "all" if not lacking else f"all but {', '.join(lacking)}" if len(lacking) < len(wanted) else "none"
        found += f", and besides {', '.join(extra)}" if extra else ""
        yield CHANNELS(recording.path, found, names=", ".join(wanted))
    for name in dict.fromkeys(extra):
        channel = channel_of(name)
        if channel is not None and channel not in stored:
            yield MISNAMED(recording.path, repr(name), name=name, names=", ".join(wanted), channel=channel)
