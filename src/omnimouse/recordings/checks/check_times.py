"""Whether devices and trials lie on one clock: what only the whole of a recording shows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omnimouse.recordings.data.channel_names import DEVICE_CHANNELS
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Finding, Kind
from omnimouse.recordings.data.plausible import doubt_about_range, doubt_about_start, doubt_about_trials
from omnimouse.recordings.data.recording_data import UNUSED_TIER, SessionParts
from omnimouse.recordings.data.screen import Screen

END_SHARE, SCREEN_SHARE = 0.8, 0.6
"""Of the longer one's time that responses and a device, or a screen, share at least; screens are often off."""

APART = Kind("fatal", "overlap", "at least {needed:g} s that all devices share", "{do}")


def check_times(parts: SessionParts, *, needed: float, trials_too: bool) -> Iterator[Finding]:
    """Whether devices overlap and end together, and trials lie within the responses.

    All devices have to share so many seconds (`needed`). What made a recording of arrays may have looked at its trials.
    """
    responses, screen = parts.devices["responses"], parts.screen
    ranges = {name: device.valid_range for name, device in parts.devices.items() if device is not None}
    if screen is not None:
        ranges["screen"] = _shown_range(screen)
    if len(ranges) < 2:
        return
    starts, ends = zip(*ranges.values(), strict=True)
    shared = min(ends) - max(starts)
    if shared < needed:
        spans = ", ".join(f"{name} {start:.3f} to {end:.3f}" for name, (start, end) in ranges.items())
        do = "Restore the devices' times from one export."
        if min(starts) < 1e8 < max(starts):
            do = "Some times count from the start of the recording, others from 1970: use one clock."
        yield APART(parts.path, f"{max(shared, 0.0):.3f} s ({spans})", needed=needed, do=do)
    elif responses is not None:
        yield from _check_ends(parts, responses)
        if screen is not None and trials_too:
            yield from _check_trials(screen, responses)


def _shown_range(screen: Screen) -> tuple[float, float]:
    return float(screen.timestamps[0]), float(screen.timestamps[-1])


def _check_ends(parts: SessionParts, responses: SequenceDevice) -> Iterator[Finding]:
    """Devices that begin long after, or end long before or after the responses: a wrong rate or unit, or a stop."""
    others = responses.start_time, responses.valid_end
    for name in (*DEVICE_CHANNELS, "screen"):
        device, screen, share = parts.devices.get(name), parts.screen, END_SHARE
        if device is not None and device.shape[1]:
            own, rate, path = (device.start_time, device.valid_end), device.sampling_rate, device.file
        elif name == "screen" and screen is not None and screen.has_frames:
            own, rate, path, share = _shown_range(screen), None, screen.folder, SCREEN_SHARE
        else:
            continue
        severe = doubt_about_range(name, own, others, rate, share=share)
        doubt = severe or doubt_about_range(name, own, others, rate)
        if doubt is not None:
            yield Finding("info" if severe is None else "warning", str(path), "end", *doubt)
        late = doubt_about_start(name, own, others, share=share)
        if late is not None:
            yield Finding("warning", str(path), "start", *late)


def _check_trials(screen: Screen, responses: SequenceDevice) -> Iterator[Finding]:
    """Trials of a tier that begin or end outside the responses."""
    shown = [trial for trial in screen.trials if trial.modality in ("video", "image")]
    used = [(trial.start, trial.end) for trial in shown if trial.tier not in (None, UNUSED_TIER)]
    if not used:
        return
    starts, ends = np.array(used).T
    ends = np.minimum(ends, np.maximum(starts, screen.timestamps[-1]))
    start, end, rate = responses.start_time, responses.valid_end, responses.sampling_rate
    found = doubt_about_trials(starts, ends, start=start, end=end, rate=rate)
    if found is not None:
        yield Finding("warning", str(screen.folder), "times of trials", *found[0])
