"""Separate clips on one clock: how the trials of a SENSORIUM 2023 folder become sampled devices and a screen.

Every trial is stored on its own, and the order of the files is not the order of presentation. Here the clips follow
each other on an artificial clock that starts at 0 s, in the order of their numbers: `MARGIN` empty rows, then for each
trial a slot of the longest stored length and one row more, then `MARGIN` empty rows. What lies between two clips
belongs to no trial, so no window crosses from one into another. Row r of a device is sampled at ``r / 30`` s and its
frame is shown a quarter of a row earlier; window starts fall a quarter of a row later, so that rounding never moves a
sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.reading import MappedArrays
from omnimouse.recordings.data.screen import Screen, Trial

if TYPE_CHECKING:
    from typing_extensions import Self

KINDS = ("videos", "responses", "behavior", "pupil_center")
RATE = 30.0
"""Hz of everything in the folder."""

MARGIN = 30
"""Empty rows before the first and after the last clip, more than a processor's `safe_interval`."""

QUARTER = 0.25 / RATE
"""Seconds."""

OPEN_FILES = 16
"""Files kept memory-mapped at a time; the responses of one trial may have 20 MB."""


@dataclass
class Clips:
    """The files of all trials and where their valid frames lie on the common clock."""

    root: Path  # session folder
    # valid frames of every trial, int `[n_trials]`: up to the padding that begins first among the kinds
    lengths: np.ndarray
    slot: int  # rows from the start of a clip to the start of the next
    _open: MappedArrays = field(default_factory=lambda: MappedArrays(OPEN_FILES), repr=False, compare=False)

    @property
    def n_rows(self) -> int:
        """Rows of the common clock."""
        return 2 * MARGIN + self.slot * len(self.lengths)

    def first_row(self, trial: int) -> int:
        """Row of the first frame of a clip."""
        return MARGIN + trial * self.slot

    def file(self, kind: str, trial: int) -> Path:
        """Where one kind of data of a trial is stored."""
        return self.root / "data" / kind / f"{trial}.npy"

    def array(self, kind: str, trial: int) -> np.ndarray:
        """One stored array, time last, as a read-only memory map; the last few stay open."""
        return self._open.take(self.file(kind, trial))

    def overlapping(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """The clips that share rows with ``[low, high)``: (trial, first shared frame, frame after the last)."""
        for trial in range(max(0, (low - MARGIN) // self.slot), len(self.lengths)):
            start = self.first_row(trial)
            if start >= high:
                return
            first, last = max(low - start, 0), min(high - start, int(self.lengths[trial]))
            if last > first:
                yield trial, first, last

    def responses(self, trial: int, frames: slice) -> np.ndarray:
        """Stored `[neurons, frames]` as `[frames, neurons]`."""
        return np.ascontiguousarray(self.array("responses", trial)[:, frames].T)

    def eye_tracker(self, trial: int, frames: slice) -> np.ndarray:
        """Pupil size, its derivative, gaze x, gaze y `[frames, 4]`."""
        size = np.asarray(self.array("behavior", trial)[0, : self.lengths[trial]])
        gaze = self.array("pupil_center", trial)[:, frames]
        return np.stack([size[frames], pupil_derivative(size)[frames], gaze[0], gaze[1]], axis=1)

    def treadmill(self, trial: int, frames: slice) -> np.ndarray:
        """Running speed `[frames, 1]`."""
        return np.asarray(self.array("behavior", trial)[1, frames])[:, None]


def pupil_derivative(size: np.ndarray) -> np.ndarray:
    """Change of the pupil size per second `[frames]`: central differences within the clip, one-sided at its ends."""
    size = np.asarray(size, dtype=np.float64)
    return np.gradient(size) * RATE if len(size) > 1 else np.zeros_like(size)


@dataclass(repr=False)
class ClipDevice(SequenceDevice):
    """A sampled device whose rows are read from the file of their trial; rows between clips are NaN.

    `file` is the folder with its files. `withheld` are trials without values, whose rows are NaN as well.
    """

    clips: Clips = field(kw_only=True)
    withheld: frozenset[int] = field(default=frozenset(), kw_only=True)

    held_as: ClassVar[str] = "one array per trial and no single one"

    @classmethod
    def over(
        cls,
        clips: Clips,
        name: str,
        n_signals: int,
        dtype: str,
        statistics: tuple[np.ndarray | None, np.ndarray | None],
        **options: Any,
    ) -> Self:
        """The device `name` of all clips; `statistics` are means and stds `[S]`."""
        kind = {"eye_tracker": "pupil_center", "treadmill": "behavior"}.get(name, name)
        return cls(
            name, clips.root / "data" / kind, RATE, 0.0, clips.n_rows / RATE, (clips.n_rows, n_signals), dtype,
            *statistics, clips=clips, **options,
        )  # fmt: skip

    def clip_rows(self, trial: int, frames: slice) -> np.ndarray:
        """Rows of some frames of a trial, in the type of the file."""
        rows: np.ndarray = getattr(self.clips, self.name)(trial, frames)
        return rows

    def _block(self, low: int, high: int) -> np.ndarray:
        block = np.full((high - low, self.shape[1]), np.nan, dtype=self.dtype)
        for trial, first, last in self.clips.overlapping(low, high):
            if trial not in self.withheld:
                start = self.clips.first_row(trial) - low
                block[start + first : start + last] = self.clip_rows(trial, slice(first, last))
        return block

    def segments(self) -> list[tuple[int, int]]:
        """The valid rows of each trial that has values."""
        stretches = self.clips.overlapping(0, self.shape[0])
        firsts = ((self.clips.first_row(trial), last) for trial, _, last in stretches if trial not in self.withheld)
        return [(first, first + last) for first, last in firsts]


@dataclass(repr=False)
class ClipScreen(Screen):
    """What was shown, from one video `[H, W, frames]` per trial."""

    clips: Clips = field(kw_only=True)

    def stimulus_file(self, trial: Trial) -> Path:
        """The file of the trial's video."""
        return self.clips.file("videos", trial.index)

    def stimulus(self, trial: Trial) -> np.ndarray:
        """The trial's video `[frames, H, W]`."""
        return self.clips.array("videos", trial.index).transpose(2, 0, 1)


def lay_out(
    clips: Clips, tiers: list[str], trial_ids: list[int | str | None] | None, frame_size: tuple[int, int]
) -> ClipScreen:
    """The screen of clips that follow each other, with one video trial per clip."""
    trials, times, shown = [], [np.array([QUARTER])], 1
    for index, (tier, length) in enumerate(zip(tiers, clips.lengths.tolist(), strict=True)):
        frames = (clips.first_row(index) + np.arange(length + 1)) / RATE - QUARTER
        start, end, trial_id = float(frames[0]), float(frames[-1]), None if trial_ids is None else trial_ids[index]
        trial = Trial(index, "video", tier, shown, length, start, end, None, str(index), frame_size, None, trial_id)
        trials.append(trial)
        times.append(frames[:-1])
        shown += length
    # A frame before the first clip and one after the last span the whole clock; they belong to no trial.
    times.append(np.array([clips.n_rows / RATE]))
    return ClipScreen(clips.root / "data/videos", np.concatenate(times), trials, clips=clips)
