"""In which order the columns of an eye tracker are, as far as their values tell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Finding, Kind
from omnimouse.recordings.data.missing import usable

ORDER_ROWS = 200_000
"""Samples of the eye trace that are read, almost three hours at 20 Hz."""

OTHER_ORDER = Kind(
    "warning", "channel order",
    "column 1 to follow the change of column 0 (pupil size, its derivative, gaze x, gaze y)",
    "Check the order of the eye tracker's columns; behaviour scores are named by it.",
)  # fmt: skip
UNCONFIRMED = Kind(
    "info", "channel order", "column 1 to follow the change of column 0",
    "The order of the eye tracker's columns could not be confirmed.",
)  # fmt: skip


def check_channel_order(device: SequenceDevice) -> Iterator[Finding]:
    """Whether column 1 is the derivative of column 0, as the order (size, derivative of size, x, y) has it.

    Files have been described with other orders, such as (x, y, their derivatives). The correlation of each column with
    the finite differences of each other column tells them apart; a contradiction is a warning, since labels of
    behaviour scores depend on the order but no number does.
    """
    derivative = channel_order(device)
    if derivative is None:
        return
    stored = derivative[1, 0]
    best = np.unravel_index(np.argmax(derivative), derivative.shape)
    if derivative[best] > 0.3 and derivative[best] > stored + 0.2:
        other = f"column {best[0]} follows the change of column {best[1]} with {derivative[best]:.2f}"
        yield OTHER_ORDER(device.file, f"correlation {stored:.2f}, but {other}")
    elif stored < 0.1:
        none = "no other pair of columns is a quantity and its change"
        yield UNCONFIRMED(device.file, f"correlation {stored:.2f}, and {none}")


def channel_order(device: SequenceDevice) -> np.ndarray | None:
    """Correlation `[4, 4]` of column i with the finite difference of column j, the best of forward, backward, central.

    None without four columns and 100 samples.
    """
    if device.shape[1] != 4 or device.shape[0] < 100:
        return None
    trace = np.array(device.read(np.arange(min(ORDER_ROWS, device.shape[0]))), dtype=np.float64)
    trace[~usable(trace)] = np.nan
    steps = np.diff(trace, axis=0)
    best = np.zeros((4, 4))
    for values, changes in (
        (trace[1:], steps),
        (trace[:-1], steps),
        (trace[1:-1], (steps[1:] + steps[:-1]) / 2),
    ):
        complete = np.isfinite(values).all(axis=1) & np.isfinite(changes).all(axis=1)
        if np.count_nonzero(complete) < 50:
            continue
        for i, j in zip(*np.nonzero(~np.eye(4, dtype=bool)), strict=True):
            a, b = values[complete, i], changes[complete, j]
            if a.std() > 0 and b.std() > 0:
                best[i, j] = max(best[i, j], float(np.corrcoef(a, b)[0, 1]))
    return best
