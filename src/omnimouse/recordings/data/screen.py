"""What was shown during a recording: trials, and the frames of their stimuli.

Shape letters: F displayed frames, H and W pixels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omnimouse.recordings.data.clock import frame_indices
from omnimouse.recordings.data.reading import MappedArrays

OPEN_STIMULI = 64
"""Stimulus files kept memory-mapped at a time."""


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        """What it shows and when."""
        return f"<Trial {self.index}: {self.modality}, tier {self.tier}, {self.start:.6g} to {self.end:.6g} s>"


class Trials(list[Trial]):
    """Trials in order of presentation; many of them print as the first few."""

    def __repr__(self) -> str:
        """At most five lines."""
        shown = [repr(trial) for trial in self[:4]] + ([f"and {len(self) - 4} more"] if len(self) > 4 else [])
        return "[" + ",\n ".join(shown) + "]"


@dataclass(repr=False)
class Screen:
    """What was shown: `timestamps` `[F]`, absolute seconds of every displayed frame, and the trials they belong to."""

    folder: Path
    timestamps: np.ndarray
    trials: list[Trial]
    _open: MappedArrays = field(default_factory=lambda: MappedArrays(OPEN_STIMULI), compare=False)
    _first_frames: np.ndarray | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        self.trials = Trials(self.trials)

    def __repr__(self) -> str:
        """One line, however many trials there are."""
        modalities = Counter(trial.modality for trial in self.trials)
        listed = ", ".join(f"{number} {modality}" for modality, number in modalities.items())
        return f"<{type(self).__name__} {self.folder}: {len(self.timestamps)} frames, trials: {listed or 'none'}>"

    @property
    def has_frames(self) -> bool:
        """Whether it is known what was shown."""
        return True

    @property
    def picture_form(self) -> tuple[tuple[int, int] | None, str] | None:
        """Size (H, W), if any, and type of all pictures; None where only the stimuli themselves tell."""
        return None

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
                frames[rows[0] : rows[-1] + 1] = self.trial_frames(trial, within, height, width)
        return frames

    def trial_frames(self, trial: Trial, within: np.ndarray, height: int, width: int) -> np.ndarray | float:
        """Frames `within` a trial, counted from its first, `[T', height, width]` or what broadcasts to it."""
        if trial.modality == "invalid":
            return float("nan")
        if trial.modality == "blank":
            if trial.interleave_value is None:
                raise ValueError(
                    f"{self.folder / 'meta' / trial.name}.yml: blank trial without interleave_value; "
                    "write its grey level (0-255) there"
                )
            return trial.interleave_value
        stimulus = self.stimulus(trial)
        if stimulus.shape[-2:] != (height, width) or stimulus.ndim != (3 if trial.modality == "video" else 2):
            expected = f"(frames, {height}, {width})" if trial.modality == "video" else f"({height}, {width})"
            raise ValueError(
                f"{self.stimulus_file(trial)}: shape {stimulus.shape}, expected {expected}; "
                "resize it or convert it to grey"
            )
        if trial.modality == "image":
            return np.asarray(stimulus)
        if within[-1] >= len(stimulus):
            raise ValueError(
                f"{self.stimulus_file(trial)}: {len(stimulus)} frames, but frame {within[-1]} was shown; "
                "the file is truncated or num_frames is wrong"
            )
        return stimulus[within]

    def stimulus_file(self, trial: Trial) -> Path:
        """Where the stimulus of a video or image trial is stored."""
        return self.folder / "data" / f"{trial.name}.npy"

    def stimulus(self, trial: Trial) -> np.ndarray:
        """What a video or image trial shows as it is stored: `[F', H, W]` or `[H, W]`."""
        return self._open.take(self.stimulus_file(trial))


@dataclass(repr=False)
class NoVideo(Screen):
    """Trials of a recording without video: `timestamps` are the first and the last second that they may cover."""

    @property
    def has_frames(self) -> bool:
        """False: only trials are known."""
        return False

    @property
    def picture_form(self) -> tuple[tuple[int, int] | None, str]:
        """No pictures."""
        return None, "float32"

    def frames_at(self, times: np.ndarray, *, height: int, width: int) -> np.ndarray:
        """Not available.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self.folder}: the recording has no video; choose tasks without stimulus")
