"""Devices and screen over arrays that somebody else holds: numpy, memory maps, h5py or zarr datasets.

Shape letters: T response samples, F displayed frames, K stored frames, H and W their pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.data.clock import frame_indices
from omnimouse.recordings.data.devices import CHUNK_BYTES, SequenceDevice
from omnimouse.recordings.data.frames import area_resize
from omnimouse.recordings.data.missing import UNHELD, fills_of, is_fill
from omnimouse.recordings.data.screen import Screen, Trial
from omnimouse.recordings.formats.arrays.clocks import Clock

if TYPE_CHECKING:
    from typing_extensions import Self

SAMPLED_BLOCKS, SAMPLED_ROWS = 8, 16
"""Stretches of rows, and rows of each, that are looked at when an array is taken."""


class Shared:
    """What holds arrays of somebody else: a copy, as for another thread, holds the same ones.

    They may be as large as a session, and files of h5py cannot be copied; slices can be read from several threads.
    """

    def __getstate__(self) -> dict:
        return dict(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)


@dataclass(repr=False)
class ArrayDevice(Shared, SequenceDevice):
    """A sampled device over an array that somebody else holds.

    Numbers that stand for no value in it are read as NaN, as are infinite and masked values.
    """

    fills: tuple[float, ...] = field(default=(), kw_only=True)

    @classmethod
    def over(
        cls, name: str, file: Path, array: Any, clock: Clock, *, channels: tuple[str, ...] | None = None
    ) -> ArrayDevice:
        """The device of an array `[T, S]` sampled by a clock; `file` is what messages name."""
        fills = _sampled_fills(array)
        floating = bool(fills) or isinstance(array, np.ma.MaskedArray)
        dtype = np.result_type(array.dtype, np.float32) if floating else np.dtype(array.dtype)
        shape = (int(array.shape[0]), int(array.shape[1]))
        return cls(
            name, file, clock.rate, clock.start, clock.end, shape, str(dtype),
            channels=channels, fills=fills, _data=array,
        )  # fmt: skip

    def _block(self, low: int, high: int) -> np.ndarray:
        return self._with_nan(super()._block(low, high))

    def segments(self) -> list[tuple[int, int]]:
        """Stretches of consecutive rows that hold samples; between them, rows are NaN."""
        return self._data.stretches() if isinstance(self._data, Held) else super().segments()

    def _with_nan(self, block: Any) -> np.ndarray:
        """A block with NaN wherever there is no value."""
        values = np.asanyarray(block)
        missing = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None
        values = np.ma.getdata(values)
        low, high = (float(ufunc.reduce(values, axis=None, initial=0)) for ufunc in (np.fmin, np.fmax))
        if values.dtype.kind == "f" and max(-low, high) >= UNHELD:
            with np.errstate(over="ignore"):
                unheld = np.abs(values) >= UNHELD
            missing = unheld if missing is None else missing | unheld
        for fill in (fill for fill in self.fills if low <= fill <= high):
            missing = values == fill if missing is None else missing | (values == fill)
        if missing is not None and missing.any():
            values = np.where(missing, np.nan, values.astype(np.result_type(values.dtype, np.float32)))
        return values.astype(self.dtype, copy=False)


def _sampled_fills(array: Any) -> tuple[float, ...]:
    """Which numbers stand for no value, by where the others lie in rows spread over an array `[T, S]`.

    Of negative floating ones all that lie apart from these, as not every row is looked at; others only if they are
    there, since integers would have to become floating, and large responses may be responses.
    """
    array = array.source if isinstance(array, Held) else array
    kind = np.dtype(array.dtype).kind
    if kind not in "fiu":
        return ()
    starts = np.unique(np.linspace(0, max(0, array.shape[0] - SAMPLED_ROWS), SAMPLED_BLOCKS).astype(int))
    sample = np.concatenate([np.ravel(np.ma.getdata(array[int(low) : int(low) + SAMPLED_ROWS])) for low in starts])
    held = sample[np.isfinite(sample) & (np.abs(sample.astype(np.float64)) < UNHELD)]
    filled = is_fill(held)
    others = held[~filled].astype(np.float64)
    if not others.size:
        return ()
    low, high = float(others.min()), float(others.max())
    fills = fills_of(held.dtype)
    apart = [fill for fill in fills if max(low - float(fill), float(fill) - high) > high - low]
    return tuple(float(fill) for fill in apart if (kind == "f" and fill < 0) or (held == fill).any())


@dataclass(repr=False)
class ArrayScreen(Shared, Screen):
    """What was shown, from one array of frames."""

    _: KW_ONLY
    frames: Any  # `[K, H, W]`, sliced along its first axis only
    index: np.ndarray  # `[F]`, which stored frame each displayed frame is, negative for a blank
    levels: tuple[float, float]  # stored values of black and white
    levels_given: bool  # whether somebody said so
    blank: float  # grey level (0-255) of a blank

    @property
    def picture_form(self) -> tuple[tuple[int, int] | None, str]:
        """The model's frame size, to which frames are resized as they are read."""
        processor = OmniMouseProcessor()
        return (processor.frame_height, processor.frame_width), "float32"

    def frames_at(self, times: np.ndarray, *, height: int, width: int) -> np.ndarray:
        """Frames on screen at increasing `times` `[T']`: grey levels `[T', height, width]`, float32."""
        return self._pictures(frame_indices(times, self.timestamps), height, width)

    def trial_frames(self, trial: Trial, within: np.ndarray, height: int, width: int) -> np.ndarray:
        return self._pictures(trial.first_frame + within, height, width)

    def _pictures(self, shown: np.ndarray, height: int, width: int) -> np.ndarray:
        """Displayed frames by their numbers."""
        rows, where = np.unique(self.index[shown], return_inverse=True)
        images = np.full((len(rows), height, width), self.blank, dtype=np.float32)
        visible = np.flatnonzero(rows >= 0)
        # Runs of consecutive rows are read together: datasets on disk are slow at picking single rows.
        for run in np.split(visible, np.flatnonzero(np.diff(rows[visible]) > 1) + 1) if len(visible) else ():
            block = self._stored(int(rows[run[0]]), int(rows[run[-1]]) + 1)
            images[run] = self._grey(area_resize(block, height, width))
        return images[where]

    def _stored(self, low: int, high: int) -> np.ndarray:
        """Stored frames `[high - low, H, W]`, float32."""
        block = np.ma.filled(np.asanyarray(self.frames[low:high], dtype=np.float32), np.nan)
        return block.reshape(len(block), *block.shape[1:3])

    def _grey(self, values: np.ndarray) -> np.ndarray:
        black, white = self.levels
        return (values - black) * np.float32(255 / (white - black))

    def grey_blocks(self) -> Iterator[np.ndarray]:
        """All stored frames in their own size as grey levels `[<=K, H, W]`, at most `CHUNK_BYTES` each."""
        n, height, width = self.frames.shape[:3]
        step = max(1, CHUNK_BYTES // (4 * height * width))
        for low in range(0, n, step):
            yield self._grey(self._stored(low, min(low + step, n)))


@dataclass
class Held:
    """An array seen through the row that each sample holds; -1 is none, and NaN."""

    source: Any
    rows: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        stored = np.dtype(self.source.dtype)
        return np.result_type(stored, np.float32) if (self.rows < 0).any() else stored

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.source.shape[1]

    def __getitem__(self, part: slice) -> np.ndarray:
        rows = self.rows[part]
        held = rows[rows >= 0]
        if not len(held):
            return np.full((len(rows), self.shape[1]), np.nan if len(rows) else 0).astype(self.dtype)
        low = int(held.min())
        values = np.asanyarray(self.source[low : int(held.max()) + 1])[held - low]
        if len(held) == len(rows):
            return values
        block = np.full((len(rows), self.shape[1]), np.nan, dtype=self.dtype)
        block[rows >= 0] = np.ma.filled(values.astype(self.dtype), np.nan)
        return block

    def stretches(self) -> list[tuple[int, int]]:
        """Runs of samples that hold a row, as first sample and the one after the last."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.rows >= 0, [False]]).astype(np.int8)))
        return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
