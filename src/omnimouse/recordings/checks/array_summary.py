"""One pass over an array of any size: counts, moments and extremes of each signal.

Shape letters: T samples, S signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.missing import FILLS, UNHELD, is_fill, usable

FILLS_FROM = max(fill for fill in FILLS if fill < 0), min(fill for fill in FILLS if fill > 0)
"""Between these, no number stands for no value."""

SPREAD, FEWEST = 200, 50
"""Rows all along an array by which signals that only rise are told, and how many it takes at least."""


class Fills:
    """Numbers of n signals that may stand for no value (`FILLS`), which are left out of the extremes beside them.

    `count`, `lowest` and `highest` are of them, per signal `[S]`; extremes are infinite where there are none.
    """

    def __init__(self, n: int) -> None:
        self.count, self.lowest, self.highest = np.zeros(n), np.full(n, np.inf), np.full(n, -np.inf)

    def add(self, block: np.ndarray, finite: np.ndarray) -> np.ndarray:
        """Counts those of a block `[T', S]` and returns where its other finite values are."""
        if block.dtype.kind not in "fiu" or not ((block.min() <= FILLS_FROM[0]) or (block.max() >= FILLS_FROM[1])):
            return finite
        filled = finite & (is_fill(block) | (np.abs(block) >= UNHELD))
        self.count += filled.sum(axis=0)
        self.lowest = np.minimum(self.lowest, np.where(filled, block, np.inf).min(axis=0))
        self.highest = np.maximum(self.highest, np.where(filled, block, -np.inf).max(axis=0))
        return finite & ~filled

    def apart(self, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
        """Which signals have them further from their other values than these from each other, bool `[S]`."""
        with np.errstate(invalid="ignore"):
            beyond = np.fmax(lowest - self.lowest, self.highest - highest)
            return (self.count > 0) & ~(beyond <= highest - lowest)


@dataclass(frozen=True)
class ArraySummary:
    """Per-signal counts, moments and extremes `[S]` of the finite values of an array; NaN where there are none.

    `spread` are rows `[<=2 * SPREAD, S]` all along it.
    """

    rows: int
    n_nan: np.ndarray
    n_inf: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    n_negative: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    fills: Fills
    spread: np.ndarray

    @property
    def rising(self) -> np.ndarray:
        """Signals that only rise."""
        steps = np.diff(self.spread, axis=0)
        return np.flatnonzero(~(steps < 0).any(axis=0) & ((steps > 0).sum(axis=0) > max(FEWEST, len(steps) / 2)))


def summarize(device: SequenceDevice) -> ArraySummary:
    """One pass over the array in chunks; moments about the first chunk's mean, so that large offsets keep digits."""
    n = device.shape[1]
    n_nan, n_inf, count, total, squares, n_negative = (np.zeros(n) for _ in range(6))
    fills, lowest, highest = Fills(n), np.full(n, np.inf), np.full(n, -np.inf)
    rows, origin = 0, None
    every_so_many, spread = max(1, device.shape[0] // SPREAD), [np.zeros((0, n))]
    for first, block in device.chunks():
        rows += len(block)
        spread.append(block[-first % every_so_many :: every_so_many])
        finite = usable(block)
        present = finite.sum(axis=0)
        if present.sum() < block.size:
            nan = np.isnan(block).sum(axis=0)
            n_nan += nan
            n_inf += len(block) - present - nan
            block = np.where(finite, block, 0)
        n_negative += np.count_nonzero(block < 0, axis=0)
        known = fills.add(block, finite)
        every = bool(known.all())
        lowest = np.minimum(lowest, (block if every else np.where(known, block, np.inf)).min(axis=0))
        highest = np.maximum(highest, (block if every else np.where(known, block, -np.inf)).max(axis=0))
        if origin is None:
            origin = block.sum(axis=0, dtype=np.float64) / np.maximum(present, 1)
        centred = block - origin
        centred[~finite] = 0
        count += present
        total += centred.sum(axis=0)
        squares += np.einsum("ts,ts->s", centred, centred)
    shift = total / np.maximum(count, 1)
    variance = np.maximum(squares / np.maximum(count, 1) - shift**2, 0)
    mean = np.where(count > 0, (0 if origin is None else origin) + shift, np.nan)
    std = np.where(count > 0, np.sqrt(variance), np.nan)
    lowest, highest = (np.where(np.isfinite(values), values, np.nan) for values in (lowest, highest))
    return ArraySummary(rows, n_nan, n_inf, mean, std, n_negative, lowest, highest, fills, np.concatenate(spread))
