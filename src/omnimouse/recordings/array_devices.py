"""Devices and screen over arrays that somebody else holds: numpy, memory maps, h5py or zarr datasets.

Shape letters: T response samples, F displayed frames, K stored frames, H and W their pixels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from omnimouse.recordings.clock import frame_indices
from omnimouse.recordings.devices import SequenceDevice
from omnimouse.recordings.resampling import area_resize
from omnimouse.recordings.screen import Screen, Trial

if TYPE_CHECKING:
    from typing_extensions import Self


class Shared:
    """What holds arrays of somebody else: a copy, as for another thread, holds the same ones.

    They may be as large as a session, and files of h5py cannot be copied; slices can be read from several threads.
    """

    def __getstate__(self) -> dict:
        return dict(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)


@dataclass
class ArrayDevice(Shared, SequenceDevice):
    """A sampled device over an array that somebody else holds."""


@dataclass
class ArrayScreen(Shared, Screen):
    """What was shown, from one array of frames.

    Attributes:
        frames: `[K, H, W]`, sliced along its first axis only.
        index: `[F]`, which stored frame each displayed frame is, negative for a blank; None where each is its own.
        levels: stored values of black and white.
        blank: grey level (0-255) of a blank.
    """

    frames: Any = field(kw_only=True)
    index: np.ndarray | None = field(kw_only=True)
    levels: tuple[float, float] = field(kw_only=True)
    blank: float = field(kw_only=True)

    def frames_at(self, times: np.ndarray, *, height: int, width: int) -> np.ndarray:
        """Frames on screen at increasing `times` `[T']`: grey levels `[T', height, width]`, float32."""
        return self._pictures(frame_indices(times, self.timestamps), height, width)

    def _trial_frames(self, trial: Trial, within: np.ndarray, height: int, width: int) -> np.ndarray:
        return self._pictures(trial.first_frame + within, height, width)

    def _pictures(self, shown: np.ndarray, height: int, width: int) -> np.ndarray:
        """Displayed frames by their numbers."""
        stored = shown if self.index is None else self.index[shown]
        rows, where = np.unique(stored, return_inverse=True)
        images = np.full((len(rows), height, width), self.blank, dtype=np.float32)
        visible = np.flatnonzero(rows >= 0)
        black, white = self.levels
        # Runs of consecutive rows are read together: datasets on disk are slow at picking single rows.
        for run in np.split(visible, np.flatnonzero(np.diff(rows[visible]) > 1) + 1) if len(visible) else ():
            block = np.asarray(self.frames[int(rows[run[0]]) : int(rows[run[-1]]) + 1], dtype=np.float32)
            block = block.reshape(len(block), *block.shape[1:3])
            images[run] = (area_resize(block, height, width) - black) * np.float32(255 / (white - black))
        return images[where]


@dataclass
class Held:
    """An array seen through the row that each sample holds."""

    source: Any
    rows: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.source.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.source.shape[1]

    def __getitem__(self, part: slice) -> np.ndarray:
        rows = self.rows[part]
        if not len(rows):
            return np.zeros((0, self.shape[1]), dtype=self.dtype)
        low = int(rows.min())
        return np.asarray(self.source[low : int(rows.max()) + 1])[rows - low]
