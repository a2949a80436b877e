"""Regularly sampled devices of a recording: responses, eye tracker and treadmill, mapped and read in slices.

Shape letters: T stored samples, S signals (neurons or behaviour channels).
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.reading import map_array

CHUNK_BYTES = 32 * 2**20
"""Upper bound on what is read at once when a whole array has to be looked at."""


def _fetch_ahead(array: np.ndarray, low: int, high: int) -> None:
    """Asks the system for some rows of a mapped array at once, and for no others.

    Without it, rows that are not in memory come page by page with as much read-ahead as the disk is set to, which may
    be several times the bytes of a window.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and array.flags.c_contiguous:
        row_bytes = array.nbytes // max(1, array.shape[0])
        first = getattr(array, "offset", 0) % mmap.ALLOCATIONGRANULARITY + low * row_bytes
        fetch_bytes_ahead(mapped, first, first + (high - low) * row_bytes)


def fetch_bytes_ahead(mapped: mmap.mmap, first: int, end: int) -> None:
    """Asks the system for the bytes ``[first, end)`` of a mapped file at once, where systems take such advice."""
    if hasattr(mmap, "MADV_WILLNEED"):
        start = first - first % mmap.PAGESIZE
        with contextlib.suppress(OSError, ValueError):  # it is advice; reading works without
            mapped.madvise(mmap.MADV_WILLNEED, start, end - start)


@dataclass(repr=False)
class SequenceDevice:
    """A regularly sampled array `[T, S]`: responses, eye tracker or treadmill.

    Row i was sampled at ``start_time + i / sampling_rate``. The array is mapped on first use and never copied whole.

    Attributes:
        name: "responses", "eye_tracker" or "treadmill".
        file: `.npy` or headerless `.mem` file.
        sampling_rate: Hz.
        start_time, end_time: absolute seconds as stored.
        shape: (T, S) on disk.
        dtype: numpy name of the stored values.
        means, stds: stored statistics `[S]`, None when their files are missing.
        phase_shifts: seconds `[S]` after the row's time at which each signal was sampled, or None.
        unit_ids: identities `[S]` of the neurons, or None.
        nominal_rows: `n_timestamps` as written in the metadata, or None.
        is_mem_mapped: flag of the metadata, None when absent.
        channels: names `[S]` of the signals of a behaviour device, None when they are not named.
    """

    name: str
    file: Path
    sampling_rate: float
    start_time: float
    end_time: float
    shape: tuple[int, int]
    dtype: str
    means: np.ndarray | None = None
    stds: np.ndarray | None = None
    phase_shifts: np.ndarray | None = None
    unit_ids: np.ndarray | None = None
    nominal_rows: int | None = None
    is_mem_mapped: bool | None = None
    channels: tuple[str, ...] | None = None
    _data: np.ndarray | None = field(default=None, compare=False)
    _nan_rows: np.ndarray | None = field(default=None, compare=False)

    held_as: ClassVar[str] = ""
    """What `file` holds where that is no single array."""

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_data": None}

    def __repr__(self) -> str:
        """One line, however many signals there are."""
        named = f" ({', '.join(self.channels[:8])})" if self.channels else ""
        return (
            f"<{type(self).__name__} {self.name}: {self.shape[0]} samples of {self.shape[1]} signals{named} at "
            f"{self.sampling_rate:.6g} Hz, {self.start_time:.6g} to {self.end_time:.6g} s, {self.dtype}>"
        )

    @property
    def data(self) -> np.ndarray:
        """The stored array `[T, S]`, read-only memory map.

        Raises:
            ValueError: there is no single array.
        """
        if self.held_as:
            raise ValueError(f"{self.file} holds {self.held_as}; use `read` or `chunks`")
        if self._data is None:
            if self.file.suffix == ".npy":
                self._data = map_array(self.file)
            else:
                self._data = np.memmap(self.file, dtype=self.dtype, mode="r", shape=self.shape, order="C")
        return self._data

    @property
    def valid_range(self) -> tuple[float, float]:
        """First and last second that every signal can be asked for according to the metadata (shifts included)."""
        if self.phase_shifts is None:
            return self.start_time, self.end_time
        return self.start_time + float(self.phase_shifts.max()), self.end_time + float(self.phase_shifts.min())

    @property
    def valid_end(self) -> float:
        """Second by which the stored samples really end; stored end times overshoot them by up to 0.25 s."""
        stored_end = min(self.end_time, self.start_time + self.shape[0] / self.sampling_rate)
        return stored_end if self.phase_shifts is None else stored_end + float(self.phase_shifts.min())

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Values at `rows`: `[T', S]` for rows `[T']`, or one row per signal for rows `[T', S]`. Reads one slice.

        Raises:
            ValueError: rows outside the stored array.
        """
        low, high = int(rows.min()), int(rows.max()) + 1
        if low < 0 or high > self.shape[0]:
            raise ValueError(
                f"{self.file}: rows {low} to {high - 1} asked for, but the array has rows 0 to {self.shape[0] - 1}; "
                "ask for times inside the recording"
            )
        block = self._block(low, high)
        if rows.ndim == 2:
            return np.take_along_axis(np.asarray(block), rows - low, axis=0)
        if high - low == len(rows) and np.array_equal(rows, np.arange(low, high)):
            return np.asarray(block)
        return np.asarray(block)[rows - low]

    def _block(self, low: int, high: int) -> np.ndarray:
        """Consecutive rows `[high - low, S]`."""
        _fetch_ahead(self.data, low, high)
        return self.data[low:high]

    def segments(self) -> list[tuple[int, int]]:
        """Stretches of consecutive rows that hold samples, as first row and row after the last, increasing."""
        return [(0, self.shape[0])]

    def chunks(self, rows: slice = slice(None)) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of first row and block `[<=T', S]` over the rows of a range that hold samples, `CHUNK_BYTES` each."""
        low, high, _ = rows.indices(self.shape[0])
        step = max(1, CHUNK_BYTES // max(1, self.shape[1] * np.dtype(self.dtype).itemsize))
        for first, last in self.segments():
            for start in range(max(first, low), min(last, high), step):
                yield start, np.asarray(self._block(start, min(start + step, last, high)))

    def nan_rows(self) -> np.ndarray:
        """Increasing rows that hold a NaN in any signal, int64; found once, then kept."""
        if self._nan_rows is None:
            found = [low + np.flatnonzero(np.isnan(block).any(axis=1)) for low, block in self.chunks()]
            self._nan_rows = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        return self._nan_rows


@dataclass(repr=False)
class MissingDevice(SequenceDevice):
    """A behaviour device that was not recorded: no channels, and no limit to the time of the others."""

    @classmethod
    def named(cls, name: str, folder: Path) -> MissingDevice:
        """The missing device of a name; `folder` is what messages name."""
        nothing = np.zeros(0)
        return cls(
            name, folder, sampling_rate=1.0, start_time=-np.inf, end_time=np.inf, shape=(0, 0), dtype="float32",
            means=nothing, stds=nothing, channels=(),
        )  # fmt: skip

    @property
    def data(self) -> np.ndarray:
        """An empty array `[0, 0]`."""
        return np.zeros((0, 0), dtype=np.float32)

    @property
    def valid_end(self) -> float:
        """Infinity: it never ends what the others recorded."""
        return np.inf


def streamed_statistics(device: SequenceDevice, ranges: list[slice]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std `[S]` float64 over rows of `ranges`, NaNs left out, in bounded memory; NaN where nothing is left.

    Chunks are merged with the pairwise formula of Chan et al. (1983), which keeps float64 accuracy.
    """
    count, mean, squares = (np.zeros(device.shape[1]) for _ in range(3))
    for rows in ranges:
        for _, block in device.chunks(rows):
            present = usable(block)
            n = present.sum(axis=0)
            whole = n.min() == len(block)
            values = (block if whole else np.where(present, block, 0)).astype(np.float64)
            block_mean = values.sum(axis=0) / np.maximum(n, 1)
            # In place, as blocks are large and several copies of one take longer than the sums.
            values -= block_mean
            if not whole:
                values[~present] = 0
            total = np.maximum(count + n, 1)
            delta = block_mean - mean
            squares += np.square(values, out=values).sum(axis=0) + delta**2 * count * n / total
            mean += delta * n / total
            count += n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, mean, np.nan), np.sqrt(np.where(count > 0, squares / np.maximum(count, 1), np.nan))
