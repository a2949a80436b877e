"""A recording reduced to a few hundred columns of time, in bounded memory: what a picture of it needs.

Shape letters: B bins of time, N neurons, S signals, K tiers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.recording_data import UNUSED_TIER, RecordingData
from omnimouse.recordings.data.screen import Screen
from omnimouse.recordings.windows import Windows

READ_BYTES = 256 * 2**20
"""Bytes of responses that are read in all; of longer recordings, only the first samples of every bin."""

REMAP_BINS = 50
"""Bins after which the array is mapped anew: what was read counts as memory of the process while it is mapped."""

CHUNK_ROWS = 65_536
"""Rows of behaviour read at once."""


@dataclass(frozen=True)
class Channel:
    """One behaviour channel over time, in stored units; NaN where there are no values."""

    low: np.ndarray  # of the values of each bin [B]
    high: np.ndarray
    mean: np.ndarray
    lost: np.ndarray  # share of each bin's samples, inside trials, that are NaN or infinite [B]
    share_lost: float  # of all samples inside trials


def bin_edges(start: float, end: float, bins: int) -> np.ndarray:
    """Edges `[bins + 1]` of bins of equal width between two times."""
    return np.linspace(start, end, bins + 1)


def binned_responses(device: SequenceDevice, edges: np.ndarray) -> tuple[np.ndarray, int]:
    """Mean of every neuron in every bin between `edges`, absolute seconds `[B + 1]`.

    Returns:
        (means `[B, N]`, float32, NaN where a bin has no finite sample; most samples of a bin that were read).
    """
    rows = np.ceil((edges - device.start_time) * device.sampling_rate).astype(np.int64).clip(0, device.shape[0])
    row_bytes = device.shape[1] * np.dtype(device.dtype).itemsize
    most = max(1, READ_BYTES // (max(1, row_bytes) * (len(edges) - 1)))
    means = np.full((len(edges) - 1, device.shape[1]), np.nan, dtype=np.float32)
    longest = 0
    for index, (low, high) in enumerate(pairwise(rows.tolist())):
        high = min(high, low + most)
        if high <= low:
            continue
        longest = max(longest, high - low)
        if index % REMAP_BINS == 0 and type(device) is SequenceDevice:  # others hold no map of their own
            device = replace(device, _data=None)
        block = device.read(np.arange(low, high))
        present = usable(block)
        count = present.sum(axis=0)
        total = np.where(present, block, 0).sum(axis=0, dtype=np.float64)
        means[index] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means, longest


def sorted_neurons(means: np.ndarray, most_rows: int) -> np.ndarray:
    """Neurons in units of their own std, those with alike activity side by side.

    Neurons are sorted by their weight in the first principal component over time (their correlation with the
    population's main change) and, where there are more than `most_rows`, neighbours are averaged: `[rows, B]`, float32.
    NaN, there and in `means [B, N]`, is where there is nothing.
    """
    seen = np.isfinite(means)
    count = np.maximum(seen.sum(axis=0), 1)
    filled = np.where(seen, means, 0).astype(np.float64)
    filled -= np.where(seen, filled.sum(axis=0) / count, 0)
    spread = np.sqrt((filled**2).sum(axis=0) / count)
    filled = np.where(spread > 0, filled / np.where(spread > 0, spread, 1), 0)
    values, vectors = np.linalg.eigh(filled @ filled.T)
    weights = vectors[:, np.argmax(values)] @ filled
    order = np.argsort(weights if weights.sum() >= 0 else -weights, kind="stable")
    filled[~seen] = np.nan
    rows = []
    for group in np.array_split(filled[:, order], min(most_rows, filled.shape[1]), axis=1):
        n = np.isfinite(group).sum(axis=1)
        rows.append(np.where(n > 0, np.nansum(group, axis=1) / np.maximum(n, 1), np.nan))
    return np.array(rows, dtype=np.float32)


def binned_channels(device: SequenceDevice, edges: np.ndarray, screen: Screen | None) -> list[Channel]:
    """The channels of a behaviour device; samples between trials that stand alone do not count as lost."""
    n_bins, n = len(edges) - 1, device.shape[1]
    low, high = np.full((n_bins, n), np.inf), np.full((n_bins, n), -np.inf)
    total, count, asked, lost = (np.zeros((n_bins, n)) for _ in range(4))
    for first in range(0, device.shape[0], CHUNK_ROWS):
        rows = np.arange(first, min(first + CHUNK_ROWS, device.shape[0]))
        times = device.start_time + rows / device.sampling_rate
        where = np.searchsorted(edges, times, side="right") - 1
        keep = (where >= 0) & (where < n_bins)
        if not keep.any():
            continue
        block, where, expected = device.read(rows)[keep], where[keep], _in_trials(times[keep], screen)
        present = usable(block)
        values = np.where(present, block, 0).astype(np.float64)
        np.minimum.at(low, where, np.where(present, values, np.inf))
        np.maximum.at(high, where, np.where(present, values, -np.inf))
        np.add.at(total, where, values)
        np.add.at(count, where, present)
        np.add.at(asked, where, np.broadcast_to(expected[:, None], present.shape))
        np.add.at(lost, where, ~present & expected[:, None])
    empty = count == 0
    low[empty], high[empty] = np.nan, np.nan
    mean = np.where(empty, np.nan, total / np.maximum(count, 1))
    share = lost / np.maximum(asked, 1)
    every = lost.sum(axis=0) / np.maximum(asked.sum(axis=0), 1)
    return [Channel(low[:, c], high[:, c], mean[:, c], share[:, c], float(every[c])) for c in range(n)]


def _in_trials(times: np.ndarray, screen: Screen | None) -> np.ndarray:
    if screen is None or not screen.trials:
        return np.ones(len(times), dtype=bool)
    starts = np.array([trial.start for trial in screen.trials])
    ends = np.array([trial.end for trial in screen.trials])
    which = np.searchsorted(starts, times, side="right") - 1
    return (which >= 0) & (times < ends[which])


def binned_trials(screen: Screen, edges: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Share of every bin that trials fill: name of the tier ("no tier" for none) -> modality -> `[B]`."""
    shares: dict[str, dict[str, np.ndarray]] = {}
    last = float(screen.timestamps[-1])
    for trial in screen.trials:
        tier = shares.setdefault("no tier" if trial.tier is None else trial.tier, {})
        filled = tier.setdefault(trial.modality, np.zeros(len(edges) - 1))
        add_interval(filled, trial.start, min(trial.end, last), edges)
    return shares


def add_interval(filled: np.ndarray, start: float, end: float, edges: np.ndarray) -> None:
    """Add to each bin `[B]` the share of it that lies between two times."""
    first, last = (int(place) for place in np.searchsorted(edges, [start, end]))
    width = edges[1] - edges[0]
    inside = slice(max(first - 1, 0), min(last, len(filled)))
    parts = np.minimum(edges[1:][inside], end) - np.maximum(edges[:-1][inside], start)
    filled[inside] += np.maximum(parts, 0) / width


def binned_windows(
    recording: RecordingData, edges: np.ndarray, processor: OmniMouseProcessor
) -> dict[str, tuple[np.ndarray, int] | str]:
    """Per tier, the share of every bin that valid windows cover `[B]` and their number, or why there are none."""
    found: dict[str, tuple[np.ndarray, int] | str] = {}
    for tier in recording.tiers:
        try:
            starts = Windows(recording, tier, processor=processor, quiet=True).starts
        except ValueError:
            found[tier] = "withheld" if tier in recording.withheld_tiers else "none"
            continue
        covered = np.zeros(len(edges) - 1)
        if len(starts):
            breaks = np.flatnonzero(np.diff(starts) > processor.window_seconds) + 1
            for run in np.split(starts, breaks):
                add_interval(covered, run[0], run[-1] + processor.window_seconds, edges)
        found[tier] = (np.minimum(covered, 1), len(starts))
    return found


def frame_intervals(screen: Screen, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Time between displayed frames within videos.

    Returns:
        (median and longest interval of each bin `[B]`, seconds, NaN where no video runs; late frames in all: intervals
        of more than 1.5 times their video's median).
    """
    steps = np.diff(screen.timestamps)
    parts, late = [], 0
    for trial in screen.trials:
        within = np.arange(trial.first_frame, trial.first_frame + trial.n_frames - 1)
        if trial.modality == "video" and trial.tier != UNUSED_TIER and len(within):
            parts.append(within)
            late += int(np.count_nonzero(steps[within] > 1.5 * np.median(steps[within])))
    median, longest = np.full((2, len(edges) - 1), np.nan)
    if not parts:
        return median, longest, 0
    frames = np.concatenate(parts)
    where = np.searchsorted(edges, screen.timestamps[frames], side="right") - 1
    order = np.argsort(where, kind="stable")
    where, intervals = where[order], steps[frames][order]
    bins, first = np.unique(where, return_index=True)
    for index, values in zip(bins, np.split(intervals, first[1:]), strict=True):
        if 0 <= index < len(median):
            median[index], longest[index] = np.median(values), values.max()
    return median, longest, late
