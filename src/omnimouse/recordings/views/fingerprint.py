"""What tells one recording from another, read from a few spread samples: a run that goes on must find its own data.

Nothing in it depends on where the recording lies or when it was written, so a copy is the same recording.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np

from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.recording_data import RecordingData
from omnimouse.support.spreading import spread

SAMPLES = 64
"""Rows of each device, and frames, that are read."""


def fingerprint(recording: RecordingData, *, height: int, width: int) -> dict[str, str]:
    """Describes a recording so that two with other data differ, in bounded time: at most 64 rows and frames are read.

    Rows and frames are spread evenly over the recording; times, tiers, stored statistics and the clock of every frame
    count whole. A change that touches none of the samples read, nor the stored statistics, goes unnoticed.

    Returns:
        "responses", "eye_tracker", "treadmill", "video" and "trials" -> a short text with a hash.
    """
    parts = {device.name: _device(device) for device in recording.devices}
    return {**parts, "video": _video(recording, height, width), "trials": _trials(recording)}


def window_fingerprint(starts: np.ndarray) -> str:
    """Returns a short description of window starts in which two different lists differ."""
    return f"{len(starts)} windows, sha256 {hashlib.sha256(starts.astype('<f8').tobytes()).hexdigest()[:16]}"


def _spread_over(stretches: Sequence[tuple[int, int]]) -> list[int]:
    """At most `SAMPLES` numbers, evenly spread over what lies in stretches `(first, stop)`."""
    ends = np.cumsum([stop - first for first, stop in stretches])
    places = spread(int(ends[-1]), SAMPLES) if len(ends) else []
    within = np.searchsorted(ends, places, side="right")
    return [stretches[index][1] - int(ends[index] - place) for index, place in zip(within, places, strict=True)]


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return f"sha256 {digest.hexdigest()[:16]}"


def _numbers(values: object) -> bytes:
    """JSON of numbers and names: exact, and the same for NumPy's numbers as for Python's."""
    return json.dumps(values, default=lambda value: value.item() if hasattr(value, "item") else str(value)).encode()


def _device(device: SequenceDevice) -> str:
    rows, signals = device.shape
    if not signals:
        return "not recorded"
    parts = [_numbers([rows, signals, device.sampling_rate, device.start_time, device.end_time, device.channels])]
    for stored in (device.means, device.stds, device.phase_shifts):
        parts.append(b"" if stored is None else np.asarray(stored, dtype="<f8").tobytes())
    for row in _spread_over(device.segments()):  # of devices whose rows lie in clips, only rows within hold samples
        parts.append(np.asarray(device.read(np.array([row])), dtype="<f4").tobytes())
    return f"{rows} x {signals} at {device.sampling_rate:g} Hz from {device.start_time:g} s, {_digest(parts)}"


def _trials(recording: RecordingData) -> str:
    listing = [
        (t.modality, t.tier, t.first_frame, t.n_frames, t.start, t.end, t.condition_hash, t.interleave_value)
        for t in recording.trials
    ]
    return f"{len(listing)} in tiers {', '.join(recording.tiers) or 'none'}, {_digest([_numbers(listing)])}"


def _video(recording: RecordingData, height: int, width: int) -> str:
    screen = recording.screen
    if not screen.has_frames:
        return "not recorded"
    times = np.asarray(screen.timestamps, dtype="<f8")
    parts = [times.tobytes()]
    shown = [trial for trial in recording.trials if trial.modality in ("video", "image")]
    for frame in _spread_over([(trial.first_frame, trial.first_frame + trial.n_frames) for trial in shown]):
        try:
            picture = screen.frames_at(times[frame : frame + 1], height=height, width=width)
        except (ValueError, IndexError, OSError):  # whoever needs this frame will be told
            parts.append(b"unreadable")
            continue
        # Whole grey levels, off the ties: frames that are resized differ in the last digits between machines.
        parts.append(np.nan_to_num(np.floor(picture + np.float32(0.37)), nan=-1.0).astype("<f4").tobytes())
    return f"{len(times)} frames, {_digest(parts)}"
