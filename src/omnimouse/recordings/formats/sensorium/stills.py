"""Single images held still: how the trials of a SENSORIUM 2022 folder become sampled devices and a screen.

A trial is one image with one number per neuron and behaviour channel. It becomes a clip of 60 equal frames at 30 Hz,
one window of 2 s, over which image, behaviour and responses are held constant. The clips follow each other on an
artificial clock like those of SENSORIUM 2023 (`clips`), one every 3 s, so that neither a window nor the
surroundings of a NaN reach from one into another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omnimouse.recordings.data.recording_data import RecordingData
from omnimouse.recordings.data.screen import Trial
from omnimouse.recordings.formats.sensorium.clips import QUARTER, RATE, ClipDevice, Clips, ClipScreen

STILL_KINDS = ("images", "responses", "behavior", "pupil_center")

HELD = 60
"""Rows over which a trial is held, exactly one window of 2 s."""

SLOT = 90
"""Rows from the start of one trial to the start of the next."""


@dataclass
class Stills(Clips):
    """The files of all trials, each held for `HELD` rows."""

    # pupil size, its derivative, gaze x, gaze y and running speed of every trial, float64 `[n_trials, 5]`
    behavior: np.ndarray = field(kw_only=True, repr=False, compare=False)

    def responses(self, trial: int, frames: slice) -> np.ndarray:
        """Stored `[neurons]` as equal rows `[frames, neurons]`."""
        return _held(self.array("responses", trial), frames)

    def eye_tracker(self, trial: int, frames: slice) -> np.ndarray:
        """Pupil size, its derivative, gaze x, gaze y as equal rows `[frames, 4]`."""
        return _held(self.behavior[trial, :4], frames)

    def treadmill(self, trial: int, frames: slice) -> np.ndarray:
        """Running speed as equal rows `[frames, 1]`."""
        return _held(self.behavior[trial, 4:], frames)


def _held(values: np.ndarray, frames: slice) -> np.ndarray:
    return np.broadcast_to(values, (frames.stop - frames.start, len(values)))


@dataclass(repr=False)
class StillDevice(ClipDevice):
    """A device whose rows are equal within a trial."""

    def chunks(self, rows: slice = slice(None)) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of row and block `[1, S]`, one for each trial in a range of rows: its other rows are equal."""
        low, high, _ = rows.indices(self.shape[0])
        for trial, first, _ in self.clips.overlapping(low, high):
            if trial not in self.withheld:
                row = self.clip_rows(trial, slice(first, first + 1))
                yield self.clips.first_row(trial) + first, row.astype(self.dtype, copy=False)

    def nan_rows(self) -> np.ndarray:
        """Increasing rows of the trials that hold a NaN in any signal, int64."""
        return (super().nan_rows()[:, None] + np.arange(HELD)).reshape(-1)


@dataclass(repr=False)
class StillScreen(ClipScreen):
    """What was shown, from one image `[1, H, W]` per trial; larger ones are reduced by averaging."""

    def stimulus_file(self, trial: Trial) -> Path:
        """The file of the trial's image."""
        return self.clips.file("images", trial.index)

    def stimulus(self, trial: Trial) -> np.ndarray:
        """Not available.

        Raises:
            ValueError: always; tables would lose that each trial is one image with one response.
        """
        raise ValueError(
            f"{self.folder}: recordings of single images cannot be written as tables; save_recording writes a session "
            "folder of them"
        )

    def trial_frames(self, trial: Trial, within: np.ndarray, height: int, width: int) -> np.ndarray:
        """The trial's image, `[height, width]`."""
        image = self.clips.array("images", trial.index)[0]
        if reduction(image.shape, height, width) is None:
            raise ValueError(
                f"{self.stimulus_file(trial)}: {image.shape[0]} x {image.shape[1]} pixels, which is no whole multiple "
                f"of {height} x {width}; resize the images to such a size"
            )
        return block_means(image, height, width)


def reduction(size: tuple[int, ...], height: int, width: int) -> int | None:
    """Pixels along each side of the blocks that an image of some size is averaged over; None if it does not divide."""
    factor = size[0] // height
    return factor if factor >= 1 and tuple(size) == (height * factor, width * factor) else None


def block_means(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over equal blocks of an image `[height * k, width * k]`: `[height, width]`, float64.

    This is resizing by area; SENSORIUM 2022 shows models a quarter of the stored 144 x 256 pixels.
    """
    factor = image.shape[0] // height
    return image.reshape(height, factor, width, factor).mean(axis=(1, 3), dtype=np.float64)


def lay_out_stills(
    clips: Stills,
    tiers: list[str],
    trial_ids: list[int | str | None] | None,
    image_ids: list[str | None] | None,
    image_size: tuple[int, int],
) -> StillScreen:
    """The screen of images that follow each other, with one image trial per clip."""
    starts = np.array([clips.first_row(trial) for trial in range(len(tiers))]) / RATE - QUARTER
    none = [None] * len(tiers)
    trials = [
        Trial(
            index,
            "image",
            tier,
            index + 1,
            1,
            start,
            start + HELD / RATE,
            image,
            str(index),
            image_size,
            None,
            trial_id,
        )
        for index, (tier, start, image, trial_id) in enumerate(
            zip(tiers, starts.tolist(), image_ids or none, trial_ids or none, strict=True)
        )
    ]
    # A frame before the first trial and one after the last span the whole clock; they belong to no trial.
    timestamps = np.concatenate([[QUARTER], starts, [clips.n_rows / RATE]])
    return StillScreen(clips.root / "data/images", timestamps, trials, clips=clips)


def is_static(recording: RecordingData) -> bool:
    """Whether each trial of a recording is a single image with one response per neuron (SENSORIUM 2022)."""
    return isinstance(recording.screen, StillScreen)
