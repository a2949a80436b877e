"""What is not documented about recordings of the OmniMouse corpus, as one recording answers it.

Types of the stored arrays, whether they are marked as mapped, phase shifts, units of behaviour, the order of the eye
tracker's columns, and where the screen's clock starts relative to the responses' samples, which decides how often the
lookups of two pipelines differ by a sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from omnimouse.recordings.checks.check_arrays import channel_order
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.recording_data import RecordingData

LOOKED_AT = 200_000
"""Samples of behaviour that ranges are taken from, evenly spread."""

QUANTILES = {"minimum": 0.0, "percentile_1": 0.01, "median": 0.5, "percentile_99": 0.99, "maximum": 1.0}


def open_questions(recording: RecordingData) -> dict[str, Any]:
    """The answers as plain values that JSON can hold.

    Args:
        recording: an open recording in experanto's layout.

    Returns:
        Keys ``devices`` (per device ``file, dtype, is_mem_mapped, phase_shifts_s``: least and greatest, or
        None)``, behavior`` (per device, for every column ``minimum, percentile_1, median, percentile_99, maximum,
        share_nan``)``, channel_order`` (``verdict, size_then_change, position_then_change``: the correlations of
        column 1 with the change of column 0, and of columns 2 and 3 with the changes of 0 and 1)``, screen_start``
        (``seconds_after_responses, sample_phase``: the fraction of a response sample).
    """
    responses, screen = recording.responses, recording.screen
    after = float(screen.timestamps[0]) - responses.start_time
    recorded = {device.name: device for device in recording.devices if device.shape[1]}
    return {
        "devices": {name: _stored(device) for name, device in recorded.items()},
        "behavior": {name: _ranges(device) for name, device in recorded.items() if device is not responses},
        "channel_order": _order(recording.eye_tracker),
        "screen_start": {
            "seconds_after_responses": round(after, 6),
            "sample_phase": round((after * responses.sampling_rate) % 1.0, 4) % 1.0,
        },
    }


def _stored(device: SequenceDevice) -> dict[str, Any]:
    shifts = device.phase_shifts
    return {
        "file": device.file.name,
        "dtype": device.dtype,
        "is_mem_mapped": device.is_mem_mapped,
        "phase_shifts_s": None if shifts is None else [float(shifts.min()), float(shifts.max())],
    }


def _ranges(device: SequenceDevice) -> list[dict[str, float | None]]:
    step = max(1, device.shape[0] // LOOKED_AT)
    blocks = [block[-low % step :: step] for low, block in device.chunks()]  # rows that `step` divides
    values = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])
    columns = []
    for column in values.T:
        seen = column[usable(column)]
        quantiles = {name: float(np.quantile(seen, at)) if len(seen) else None for name, at in QUANTILES.items()}
        columns.append({**quantiles, "share_nan": float(np.isnan(column).mean())})
    return columns


def _order(device: SequenceDevice) -> dict[str, Any]:
    correlations = channel_order(device)
    if correlations is None:
        return {"verdict": "unknown: it takes four columns and 100 samples"}
    size, *positions = (float(correlations[pair]) for pair in ((1, 0), (2, 0), (3, 1)))
    verdict = "unknown: no columns follow each other's change in either order"
    if size > 0.3 and size > min(positions) + 0.2:
        verdict = "size, its derivative, x, y"
    elif min(positions) > 0.3 and min(positions) > size + 0.2:
        verdict = "x, y, their derivatives"
    rounded = [round(value, 3) for value in positions]
    return {"verdict": verdict, "size_then_change": round(size, 3), "position_then_change": rounded}


def question_lines(answers: dict[str, Any]) -> list[str]:
    """The answers as lines for a terminal."""
    lines = ["Open questions this recording answers"]
    for name, device in answers["devices"].items():
        flag = {None: "absent", True: "true", False: "false"}[device["is_mem_mapped"]]
        shifts = device["phase_shifts_s"]
        shifted = "none" if shifts is None else f"{1e3 * shifts[0]:.4g} to {1e3 * shifts[1]:.4g} ms"
        lines.append(f"  {name}: {device['file']} of {device['dtype']}, is_mem_mapped {flag}, phase shifts {shifted}")
    for name, columns in answers["behavior"].items():
        for number, column in enumerate(columns):
            text = "no finite value"
            if column["median"] is not None:
                lowest, low, middle, high, highest = (f"{column[name]:.4g}" for name in QUANTILES)
                text = f"median {middle}, 1 % to 99 % {low} to {high}, all {lowest} to {highest}"
                text += f", {column['share_nan']:.2%} NaN"
            lines.append(f"  {name} column {number}: {text}")
    order, start = answers["channel_order"], answers["screen_start"]
    lines.append(f"  eye tracker columns look like: {order['verdict']}")
    if "size_then_change" in order:
        x, y = order["position_then_change"]
        lines.append(
            f"    correlation of column 1 with the change of 0: {order['size_then_change']:.2f}; of 2 with 0 and of 3 "
            f"with 1: {x:.2f}, {y:.2f}"
        )
    lines.append(
        f"  the screen's clock starts {start['seconds_after_responses']:.4f} s after the responses, "
        f"{start['sample_phase']:.3f} of a response sample after the last one"
    )
    return lines
