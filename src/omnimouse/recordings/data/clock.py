"""Time arithmetic: the grid of possible window starts and the rows and frames that a window reads.

Times are absolute float64 seconds (usually Unix epoch, about 1.5e9, where float64 resolves 2.4e-7 s). The order of the
operations is part of the format: a grid made by ``np.arange`` at 30 Hz on such numbers steps 3.2e-8 s short, which
shifts samples by one in long recordings. So each rule of the published pipelines is written exactly as they compute it.
"""

from __future__ import annotations

import numpy as np

FRAME_TOLERANCE = 1e-4
"""Seconds by which a frame may be shown after the query time and still count as shown (experanto)."""

EXACT_TOLERANCE = 1e-5
"""Seconds by which the "exact" rule forgives float64 rounding of epoch times at a sample boundary."""


def time_grid(start: float, end: float, rate: float, time_rule: str) -> np.ndarray:
    """Times in ``[start, end)`` at `rate` Hz, `[G]` float64 seconds: the candidates for window starts.

    Args:
        start, end: seconds; an empty range gives an empty grid.
        rate: Hz.
        time_rule: "linspace" and "integer" follow experanto (``np.arange`` on absolute times); "exact" does not drift.
    """
    if not end > start:
        return np.zeros(0)
    if time_rule == "exact":
        n_points = max(0, int(np.ceil((end - start) * rate - EXACT_TOLERANCE * rate)))
        return start + np.arange(n_points) / rate
    return np.arange(start, end, 1.0 / rate)


def query_times(start: float | np.ndarray, rate: float, n_samples: int, time_rule: str) -> np.ndarray:
    """Times `[n_samples]` (seconds, float64) at which a window starting at `start` looks a device up.

    For the starts of K windows `[K, 1]` those of all of them, `[K, n_samples]`.
    """
    if time_rule == "linspace":
        first = start[:, 0] if isinstance(start, np.ndarray) else start
        return np.linspace(first, first + n_samples / rate, n_samples, endpoint=False, axis=-1)
    if time_rule == "integer":
        ticks = np.round(start * 1e5).astype(np.int64) + np.arange(n_samples) * int(np.round(1e5 / rate))
        return ticks / 1e5
    return start + np.arange(n_samples) / rate


def sequence_rows(
    start: float | np.ndarray,
    query_rate: float,
    n_samples: int,
    *,
    device_start: float,
    device_rate: float,
    time_rule: str,
    shifts: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of a regularly sampled array that a window reads: the last sample at or before each query time.

    Args:
        start: window start, seconds; or `[K, 1]`, those of K windows.
        query_rate: Hz at which the window samples.
        n_samples: samples per window.
        device_start: time of row 0, seconds.
        device_rate: Hz of the stored array.
        time_rule: see `time_grid`.
        shifts: seconds `[S]` by which each signal was sampled after its row's time, or None.

    Returns:
        int64 `[n_samples]` (`[K, n_samples]`), or `[n_samples, S]` with shifts, which one window at a time may have.
    """
    if time_rule == "exact":
        # Differences first: rounding of the epoch then enters once instead of once per sample.
        offset = (start - device_start) * device_rate + EXACT_TOLERANCE * device_rate
        position = np.arange(n_samples) * (device_rate / query_rate)
        if shifts is not None:
            return np.floor(position[:, None] + (offset - shifts[None, :] * device_rate)).astype(np.int64)
        return np.floor(position + offset).astype(np.int64)
    times = query_times(start, query_rate, n_samples, time_rule)
    if shifts is not None:
        return np.floor((times[:, None] - shifts[None, :] - device_start) / (1.0 / device_rate)).astype(np.int64)
    return np.floor((times - device_start) / (1.0 / device_rate)).astype(np.int64)


def frame_indices(times: np.ndarray, timestamps: np.ndarray) -> np.ndarray:
    """Index into `timestamps` of the last frame shown by each time, like `times`; screen clocks are irregular."""
    return np.searchsorted(timestamps, times + FRAME_TOLERANCE) - 1


def nan_free_intervals(nan_rows: np.ndarray, *, start: float, end: float, rate: float, buffer: float) -> np.ndarray:
    """Intervals `[K, 2]` (seconds, start inclusive, end exclusive) of ``[start, end)`` away from NaN samples.

    `nan_rows` increase, of a device at `rate` Hz; `buffer` seconds on both sides of each are excluded.
    """
    if not len(nan_rows):
        return np.array([[start, end]])
    at = start + nan_rows * (1.0 / rate)
    low, high = np.maximum(at - buffer, start), np.minimum(at + buffer, end)
    opens = np.concatenate([[True], low[1:] > high[:-1]])
    closes = np.concatenate([opens[1:], [True]])
    free = np.stack([np.concatenate([[start], high[closes]]), np.concatenate([low[opens], [end]])], axis=1)
    return free[free[:, 1] > free[:, 0]]


def inside(times: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Whether each time lies in one of the sorted, disjoint `intervals` `[K, 2]`; bool like `times`."""
    if not len(intervals):
        return np.zeros(len(times), dtype=bool)
    which = np.searchsorted(intervals[:, 0], times, side="right") - 1
    return (which >= 0) & (times < intervals[np.maximum(which, 0), 1])


def have_common_time(interval_lists: list[np.ndarray]) -> bool:
    """Whether any time lies in every one of several lists of sorted, disjoint intervals."""
    edges = np.unique(np.concatenate([intervals.reshape(-1) for intervals in interval_lists]))
    middles = edges[:-1] + np.diff(edges) / 2
    return bool(np.logical_and.reduce([inside(middles, intervals) for intervals in interval_lists]).any())
