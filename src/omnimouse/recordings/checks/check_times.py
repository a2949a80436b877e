"""Whether devices and trials lie on one clock: what only the whole of a recording shows."""

from __future__ import annotations

import numpy as np

from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.plausible import doubt_about_range, doubt_about_start, doubt_about_trials
from omnimouse.recordings.data.recording_data import UNUSED_TIER, SessionParts
from omnimouse.recordings.data.screen import Screen

END_SHARE, SCREEN_SHARE = 0.8, 0.6
"""Of the longer one's time that responses and a device, or a screen, share at least; screens are often off."""


def check_times(parts: SessionParts, findings: Findings, *, needed: float) -> None:
    """Whether devices overlap and end together, and trials lie within the responses.

    Args:
        parts: an open recording, or what could be opened of it.
        findings: what is found goes here.
        needed: seconds that all devices have to share.
    """
    ranges = {name: device.valid_range for name, device in parts.devices.items() if device is not None}
    if parts.screen is not None:
        ranges["screen"] = _shown_range(parts.screen)
    if len(ranges) < 2 or not _overlap(parts, ranges, needed, findings):
        return
    responses = parts.devices["responses"]
    if responses is None:
        return
    _check_ends(parts, responses, findings)
    told = any(finding.field == "times" for finding in findings)  # by what made a recording of arrays
    if parts.screen is not None and not told:
        _check_trials(parts.screen, responses, findings)


def _shown_range(screen: Screen) -> tuple[float, float]:
    return float(screen.timestamps[0]), float(screen.timestamps[-1])


def _overlap(parts: SessionParts, ranges: dict[str, tuple[float, float]], needed: float, findings: Findings) -> bool:
    shared = min(end for _, end in ranges.values()) - max(start for start, _ in ranges.values())
    if shared >= needed:
        return True
    listed = ", ".join(f"{name} {start:.3f} to {end:.3f}" for name, (start, end) in ranges.items())
    starts = [start for start, _ in ranges.values()]
    epoch = min(starts) < 1e8 < max(starts)
    findings.fatal(
        parts.path,
        "overlap",
        expected=f"at least {needed:g} s that all devices share",
        found=f"{max(shared, 0.0):.3f} s ({listed})",
        do="Some times count from the start of the recording, others from 1970: use one clock."
        if epoch
        else "Restore the devices' times from one export.",
    )
    return False


def _check_ends(parts: SessionParts, responses: SequenceDevice, findings: Findings) -> None:
    """Devices that begin long after, or end long before or after the responses: a wrong rate or unit, or a stop."""
    others = responses.start_time, responses.valid_end
    for name in ("eye_tracker", "treadmill", "screen"):
        device, screen = parts.devices.get(name), parts.screen
        if device is not None and device.shape[1]:
            own, rate, path = (device.start_time, device.valid_end), device.sampling_rate, device.file
        elif name == "screen" and screen is not None and screen.has_frames:
            own, rate, path = _shown_range(screen), None, screen.folder
        else:
            continue
        share = SCREEN_SHARE if name == "screen" else END_SHARE
        severe = doubt_about_range(name, own, others, rate, share=share)
        doubt = severe or doubt_about_range(name, own, others, rate)
        if doubt is not None:
            (findings.info if severe is None else findings.warning)(path, "end", **doubt._asdict())
        late = doubt_about_start(name, own, others, share=share)
        if late is not None:
            findings.warning(path, "start", **late._asdict())


def _check_trials(screen: Screen, responses: SequenceDevice, findings: Findings) -> None:
    """Trials of a tier that begin or end outside the responses."""
    used = [
        trial
        for trial in screen.trials
        if trial.modality in ("video", "image") and trial.tier not in (None, UNUSED_TIER)
    ]
    if not used:
        return
    starts, ends = np.array([(trial.start, trial.end) for trial in used]).T
    found = doubt_about_trials(
        starts,
        np.minimum(ends, np.maximum(starts, screen.timestamps[-1])),
        start=responses.start_time,
        end=responses.valid_end,
        rate=responses.sampling_rate,
    )
    if found is not None:
        doubt, _ = found
        findings.warning(screen.folder, "times of trials", expected=doubt.expected, found=doubt.found, do=doubt.do)
