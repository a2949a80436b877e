"""Whether a device's rate, times and rows can belong together, and frames be looked up, before any work is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.plausible import LATEST, LONGEST, UNITS, doubt_about_rate
from omnimouse.recordings.data.reading import RECOPY

RATE_TOLERANCE = 0.01
"""Relative disagreement of rate and duration that is reported."""

USUAL_OVERSHOOT = 0.3
"""Seconds by which stored end times usually lie after the last sample (0.09-0.24 s in the corpus)."""


def times_are_plausible(file: Path, rate: float, start: float, end: float, findings: Findings) -> bool:
    """Whether a device can have been sampled from `start` to `end` s; fatal findings otherwise.

    `rate` is in Hz and finite, as `start` and `end` are, in seconds; `file` is where all are written.
    """
    before = len(findings)
    if rate <= 0:
        findings.fatal(file, "sampling_rate", expected="more than 0 Hz", found=f"{rate:g}", do="Correct the rate.")
    if end <= start:
        expected, do = f"later than start_time {start}", "Correct the times."
        findings.fatal(file, "end_time", expected=expected, found=str(end), do=do)
    elif abs(start) > LATEST or end - start > LONGEST:
        key, expected, found = "start_time", "seconds, since 1970 or since the start", f"{start:.6g}"
        if abs(start) <= LATEST:
            key, expected, found = "end_time", "less than a week after start_time", f"{end - start:.6g} s after it"
        do = "The times look like milliseconds or another unit: write seconds, and the rate in Hz."
        findings.fatal(file, key, expected=expected, found=found, do=do)
    return len(findings) == before


def check_rate(file: Path, name: str, shape: tuple[int, int], rate: float, seconds: float, findings: Findings) -> None:
    """Lookups assume that row i sits at ``start + i / rate``, so a wrong rate reads wrong samples everywhere.

    The device `name` has `shape` (rows, columns) at `rate` Hz over `seconds`; `file` is where the rate is written.
    """
    rows, columns = shape
    if _fits(rows, rate, seconds):
        doubt = doubt_about_rate(rate, "responses" if name == "responses" else "behavior")
        if doubt is not None:
            findings.fatal(file, "sampling_rate", expected=doubt.expected, found=f"{rate:.6g} Hz", do=doubt.do)
        return
    implied = max(rows - 1, 1) / seconds
    ratio = implied / rate
    hint = "Correct sampling_rate, start_time or end_time."
    if _fits(columns, rate, seconds):
        hint = f"The axes look swapped, {columns} columns last as long: store the array with time along rows."
    elif abs(implied * rate - 1) < 0.05:
        hint = "It looks like the sampling interval; write the rate in Hz."
    elif 900 < ratio < 1100:
        hint = "The rate looks like kHz; write Hz."
    for unit, factor in UNITS:
        if 0.9 < ratio * factor < 1.1:
            hint = f"The times look like {unit}; write seconds."
    expected = f"{implied:.4g} Hz, from {rows} rows in {seconds:.6g} s"
    report = findings.warning if 1 / 1.5 < ratio < 1.5 else findings.fatal
    report(file, "sampling_rate", expected=expected, found=f"{rate:.6g} Hz", do=hint)


def _fits(rows: int, rate: float, seconds: float) -> bool:
    ratio = max(rows - 1, 1) / seconds / rate
    return abs(ratio - 1) <= RATE_TOLERANCE or abs(seconds - (rows - 1) / rate) <= USUAL_OVERSHOOT + 1 / rate


def clock_is_sound(path: Path, timestamps: np.ndarray, findings: Findings) -> bool:
    """Whether times of displayed frames `[F]` can be looked up in; findings otherwise."""
    if timestamps.ndim != 1 or len(timestamps) < 2:
        expected = "one time per displayed frame, at least 2"
        findings.fatal(path, "shape", expected=expected, found=str(timestamps.shape), do=RECOPY)
        return False
    if not np.isfinite(timestamps).all():
        found = f"{np.count_nonzero(~np.isfinite(timestamps))} of {len(timestamps)} are NaN or infinite"
        findings.fatal(path, "timestamps", expected="finite seconds", found=found, do="Restore the frame times.")
        return False
    steps = np.diff(timestamps)
    if (steps < 0).any():
        at = int(np.argmax(steps < 0))
        first = f"the first from {timestamps[at]} to {timestamps[at + 1]} at frame {at + 1}"
        found, do = (
            f"{np.count_nonzero(steps < 0)} steps back, {first}",
            "Restore the frame times in order of presentation.",
        )
        findings.fatal(path, "timestamps", expected="increasing seconds", found=found, do=do)
        return False
    if (steps == 0).any():
        found, do = f"{np.count_nonzero(steps == 0)} repeated times", "Frames shown for no time are never read."
        findings.warning(path, "timestamps", expected="strictly increasing seconds", found=found, do=do)
    return True
