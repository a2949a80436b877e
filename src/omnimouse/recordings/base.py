"""A recording: lazily opened arrays, trials and a clock, whatever format it came from.

Shape letters: T stored samples, S signals (neurons or behaviour channels), F displayed frames, H and W pixels.
"""

from __future__ import annotations

import contextlib
import mmap
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from omnimouse.recordings.array_files import map_array, usable
from omnimouse.recordings.clock import frame_indices
from omnimouse.recordings.exports import WithExports

CHUNK_BYTES = 32 * 2**20
"""Upper bound on what is read at once when a whole array has to be looked at."""

UNUSED_TIER = "unused"
"""Tier of time that belongs to no tier, written where a recording with such time is saved; nothing uses it."""

OPEN_STIMULI = 64
"""Stimulus files kept memory-mapped at a time."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or noteworthy in a recording.

    Attributes:
        severity: "fatal" (cannot be read correctly), "warning" (readable, results may suffer), "info".
        path: file or folder concerned.
        field: key, array or property concerned.
        expected: what a sound recording has there.
        found: what is there.
        what_to_do: the next step for the user.
    """

    severity: Literal["fatal", "warning", "info"]
    path: str
    field: str
    expected: str
    found: str
    what_to_do: str

    def __str__(self) -> str:
        compared = f"expected {self.expected}, found {self.found}"
        return f"{self.severity}: {self.path}: {self.field}: {compared}. {self.what_to_do}"


@dataclass(frozen=True)
class Trial:
    """One stimulus presentation.

    Attributes:
        index: position in the recording, from 0.
        modality: "video", "image", "blank" or "invalid".
        tier: split it belongs to, None for blanks and INVALID trials.
        first_frame: index of its first frame in the screen's timestamps.
        n_frames: displayed frames (1 unless it is a video).
        start, end: absolute seconds, end exclusive. Usually a trial ends where the next one starts and the last one at
            infinity; time between the end of one and the start of the next belongs to no trial.
        condition_hash: identity of the stimulus, shared by repeats, or None.
        name: name of its files without suffix.
        image_size: stored (height, width), or None if not given.
        interleave_value: grey level of a blank, or None.
        trial_id: what the distributor calls this presentation (a number, or a hash of one), or None.
    """

    index: int
    modality: str
    tier: str | None
    first_frame: int
    n_frames: int
    start: float
    end: float
    condition_hash: str | None
    name: str = ""
    image_size: tuple[int, int] | None = None
    interleave_value: float | None = None
    trial_id: int | str | None = None


def _fetch_ahead(array: np.ndarray, low: int, high: int) -> None:
    """Asks the system for some rows of a mapped array at once, and for no others.

    Without it, rows that are not in memory come page by page with as much read-ahead as the disk is set to, which may
    be several times the bytes of a window.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is None or not hasattr(mmap, "MADV_WILLNEED") or not array.flags.c_contiguous:
        return
    row_bytes = array.nbytes // max(1, array.shape[0])
    first = getattr(array, "offset", 0) % mmap.ALLOCATIONGRANULARITY + low * row_bytes
    fetch_bytes_ahead(mapped, first, first + (high - low) * row_bytes)


def fetch_bytes_ahead(mapped: mmap.mmap, first: int, end: int) -> None:
    """Asks the system for the bytes ``[first, end)`` of a mapped file at once, where systems take such advice."""
    if not hasattr(mmap, "MADV_WILLNEED"):
        return
    start = first - first % mmap.PAGESIZE
    with contextlib.suppress(OSError, ValueError):  # it is advice; reading works without
        mapped.madvise(mmap.MADV_WILLNEED, start, end - start)


@dataclass
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
    _data: np.ndarray | None = field(default=None, repr=False, compare=False)
    _nan_rows: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_data": None}

    @property
    def data(self) -> np.ndarray:
        """The stored array `[T, S]`, read-only memory map."""
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
        """Pairs of first row and block `[<=T', S]` over a contiguous range of rows, at most `CHUNK_BYTES` each."""
        first, last, _ = rows.indices(self.shape[0])
        step = max(1, CHUNK_BYTES // max(1, self.shape[1] * self.data.dtype.itemsize))
        for low in range(first, last, step):
            yield low, np.asarray(self.data[low : min(low + step, last)])

    def nan_rows(self) -> np.ndarray:
        """Increasing rows that hold a NaN in any signal, int64; found once, then kept."""
        if self._nan_rows is None:
            found = [low + np.flatnonzero(np.isnan(block).any(axis=1)) for low, block in self.chunks()]
            self._nan_rows = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
        return self._nan_rows


@dataclass
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


@dataclass
class Screen:
    """What was shown: `timestamps` `[F]`, absolute seconds of every displayed frame, and the trials they belong to."""

    folder: Path
    timestamps: np.ndarray
    trials: list[Trial]
    _open: OrderedDict[str, np.ndarray] = field(default_factory=OrderedDict, repr=False, compare=False)
    _first_frames: np.ndarray | None = field(default=None, repr=False, compare=False)

    has_frames: ClassVar[bool] = True

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}

    def frames_at(self, times: np.ndarray, *, height: int, width: int) -> np.ndarray:
        """Frames on screen at increasing `times` `[T']`: grey levels `[T', height, width]`, float32, NaN if INVALID.

        Raises:
            ValueError: a stimulus file that is not `[F', height, width]`, too short, or a blank without grey level.
        """
        if self._first_frames is None:
            self._first_frames = np.array([trial.first_frame for trial in self.trials])
        index = frame_indices(times, self.timestamps)
        which = np.searchsorted(self._first_frames, index, side="right") - 1
        frames = np.empty((len(times), height, width), dtype=np.float32)
        for position in np.unique(which):
            rows = np.flatnonzero(which == position)
            trial = self.trials[position]
            within = index[rows] - trial.first_frame
            # Increasing times make the rows of one trial contiguous, so this writes into a view.
            with np.errstate(over="ignore"):
                frames[rows[0] : rows[-1] + 1] = self._trial_frames(trial, within, height, width)
        return frames

    def _trial_frames(self, trial: Trial, within: np.ndarray, height: int, width: int) -> np.ndarray | float:
        if trial.modality == "invalid":
            return float("nan")
        if trial.modality == "blank":
            if trial.interleave_value is None:
                raise ValueError(
                    f"{self.folder / 'meta' / trial.name}.yml: blank trial without interleave_value; "
                    "write its grey level (0-255) there"
                )
            return trial.interleave_value
        stimulus = self._stimulus(trial)
        if stimulus.shape[-2:] != (height, width) or stimulus.ndim != (3 if trial.modality == "video" else 2):
            expected = f"(frames, {height}, {width})" if trial.modality == "video" else f"({height}, {width})"
            raise ValueError(
                f"{self._stimulus_file(trial)}: shape {stimulus.shape}, expected {expected}; "
                "resize it or convert it to grey"
            )
        if trial.modality == "image":
            return np.asarray(stimulus)
        if within[-1] >= len(stimulus):
            raise ValueError(
                f"{self._stimulus_file(trial)}: {len(stimulus)} frames, but frame {within[-1]} was shown; "
                "the file is truncated or num_frames is wrong"
            )
        return stimulus[within]

    def _stimulus_file(self, trial: Trial) -> Path:
        return self.folder / "data" / f"{trial.name}.npy"

    def _stimulus(self, trial: Trial) -> np.ndarray:
        cached = self._open.pop(trial.name, None)
        if cached is None:
            cached = map_array(self._stimulus_file(trial))
        self._open[trial.name] = cached
        if len(self._open) > OPEN_STIMULI:
            self._open.popitem(last=False)
        return cached


@dataclass
class NoVideo(Screen):
    """Trials of a recording without video: `timestamps` are the first and the last second that they may cover."""

    has_frames: ClassVar[bool] = False

    def frames_at(self, times: np.ndarray, *, height: int, width: int) -> np.ndarray:
        """Not available.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self.folder}: the recording has no video; choose tasks without stimulus")


@dataclass
class Recording(WithExports):
    """One session: a recording of one population, opened without reading its arrays.

    Attributes:
        path: folder (or archive) it was opened from; nothing is ever written there.
        session_key: e.g. "17797-4-7" (animal, session, scan).
        animal_id: e.g. "17797".
        responses, eye_tracker, treadmill: sampled devices.
        screen: displayed frames and trials.
        findings: what opening noticed that is not fatal; `validate` looks deeper.
        withheld_tiers: tiers whose responses were not published; they have windows for predictions only.
        stores_statistics: whether means and stds are expected beside the arrays, so that their lack is worth a warning.
    """

    path: Path
    session_key: str
    animal_id: str
    responses: SequenceDevice
    eye_tracker: SequenceDevice
    treadmill: SequenceDevice
    screen: Screen
    findings: tuple[Finding, ...] = ()
    withheld_tiers: tuple[str, ...] = ()
    _statistics: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    stores_statistics: ClassVar[bool] = True

    @property
    def n_neurons(self) -> int:
        """Neurons in the stored responses."""
        return self.responses.shape[1]

    @property
    def unit_ids(self) -> np.ndarray | None:
        """Identities of the neurons `[n_neurons]` in file order, or None when the recording has none."""
        return self.responses.unit_ids

    @property
    def behavior_channels(self) -> tuple[str, ...] | None:
        """Names of the behaviour channels, eye tracker first; None when a device with channels does not name them."""
        named = (self.eye_tracker.channels, self.treadmill.channels)
        return None if None in named else tuple(name for names in named if names is not None for name in names)

    @property
    def has_video(self) -> bool:
        """Whether what was shown is part of the recording."""
        return self.screen.has_frames

    @property
    def trials(self) -> list[Trial]:
        """All trials in order of presentation."""
        return self.screen.trials

    @property
    def tiers(self) -> list[str]:
        """Tiers that trials carry, in order of first appearance."""
        return list(dict.fromkeys(trial.tier for trial in self.trials if trial.tier not in (None, UNUSED_TIER)))

    @property
    def devices(self) -> tuple[SequenceDevice, SequenceDevice, SequenceDevice]:
        """Responses, eye tracker, treadmill."""
        return self.responses, self.eye_tracker, self.treadmill

    @property
    def start_time(self) -> float:
        """Absolute second from which every device has data."""
        return max(float(self.screen.timestamps[0]), *(device.valid_range[0] for device in self.devices))

    @property
    def end_time(self) -> float:
        """Absolute second up to which every device claims to have data."""
        return min(float(self.screen.timestamps[-1]), *(device.valid_range[1] for device in self.devices))

    def validate(self) -> list[Finding]:
        """Everything that is wrong or noteworthy, found by reading the arrays in pieces; never raises for bad data."""
        from omnimouse.recordings.check import check_recording

        return check_recording(self.path)

    def statistics(self, device: SequenceDevice) -> tuple[np.ndarray, np.ndarray]:
        """Means and stds `[S]` of a device: the stored ones, else computed from the train tier and kept in memory."""
        if device.means is not None and device.stds is not None:
            return device.means, device.stds
        if device.name not in self._statistics:
            tiers = ("train",) if "train" in self.tiers else None
            self._statistics[device.name] = streamed_statistics(device, self.row_ranges(device, tiers))
        means, stds = self._statistics[device.name]
        return means if device.means is None else device.means, stds if device.stds is None else device.stds

    def row_ranges(self, device: SequenceDevice, tiers: Iterable[str] | None) -> list[slice]:
        """Contiguous ranges of stored rows sampled inside trials of `tiers` (None: all rows), merged and increasing."""
        if tiers is None:
            return [slice(0, device.shape[0])]
        wanted = set(tiers)
        ranges: list[slice] = []
        for trial in self.trials:
            if trial.tier not in wanted:
                continue
            bounds = (np.array([trial.start, trial.end]) - device.start_time) * device.sampling_rate
            low, high = (int(row) for row in np.ceil(np.clip(bounds, 0, device.shape[0])))
            if ranges and low <= ranges[-1].stop:
                ranges[-1] = slice(ranges[-1].start, max(high, ranges[-1].stop))
            elif high > low:
                ranges.append(slice(low, high))
        return ranges


def streamed_statistics(device: SequenceDevice, ranges: list[slice]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and std `[S]` float64 over rows of `ranges`, NaNs left out, in bounded memory; NaN where nothing is left.

    Chunks are merged with the pairwise formula of Chan et al. (1983), which keeps float64 accuracy.
    """
    count, mean, squares = (np.zeros(device.shape[1]) for _ in range(3))
    for rows in ranges:
        for _, block in device.chunks(rows):
            present = usable(block)
            n = present.sum(axis=0)
            values = np.where(present, block, 0).astype(np.float64)
            block_mean = values.sum(axis=0) / np.maximum(n, 1)
            deviations = np.where(present, values - block_mean, 0)
            total = np.maximum(count + n, 1)
            delta = block_mean - mean
            squares += (deviations**2).sum(axis=0) + delta**2 * count * n / total
            mean += delta * n / total
            count += n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, mean, np.nan), np.sqrt(np.where(count > 0, squares / np.maximum(count, 1), np.nan))
