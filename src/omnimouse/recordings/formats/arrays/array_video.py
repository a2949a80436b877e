"""Video of recordings over arrays: when which stored frame was displayed, and what black and white are in it.

Shape letters: F displayed frames, K stored frames, H and W their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.frames import GreyLevels
from omnimouse.recordings.data.plausible import WIDEST, Doubt, doubt_about_pictures, doubt_about_rate
from omnimouse.recordings.formats.arrays.array_devices import ArrayScreen
from omnimouse.recordings.formats.arrays.clocks import Clock, Timing, as_clock
from omnimouse.recordings.formats.arrays.likes import as_array, as_sliceable, as_vector
from omnimouse.recordings.formats.arrays.trials import TrialTime, as_trials

GREY_LEVELS = (0.0, 255.0)
"""Black and white where nothing else is said."""

LOOKED_AT = 64
"""Frames, spread over all of a movie, whose values say whether black and white can be 0 and 255."""

_LAYOUT = "[frames, height, width], grey"


@dataclass(frozen=True)
class Movie:
    """A video, its index, its range and its blanks, as `recording_from_arrays` takes them."""

    video: Any
    index: Any
    levels: tuple[float, float] | None
    blank: float

    @property
    def n_displayed(self) -> int | None:
        """Displayed frames, None for no video or one without a length."""
        shown = self.video if self.index is None else self.index
        return len(shown) if shown is not None and hasattr(shown, "__len__") else None


def array_screen(
    movie: Movie, timing: Timing, reference: Clock, trials: Sequence[TrialTime], folder: Path, findings: Findings
) -> ArrayScreen:
    """The screen of frames `[K, H, W]`; `reference` is the clock of the responses, `folder` what findings name.

    Raises:
        ValueError: no grey frames with time first, or an index, times or a range that do not fit them.
    """
    video, blank = as_sliceable(movie.video, "video"), movie.blank
    shape: tuple[int, ...] = getattr(video, "shape", ())
    if len(shape) == 4 and shape[3] in (3, 4):
        raise ValueError(f"video: shape {tuple(shape)} is in colour, expected {_LAYOUT}. Convert it to grey.")
    video = as_array(video, "video", 4 if len(shape) == 4 and shape[3] == 1 else 3, _LAYOUT)
    index = None if movie.index is None else as_vector(movie.index, "video_index")
    _, rate, times = timing.of("video")
    _check_frame_axes(video.shape, index, rate, times, reference, folder, findings)
    black, white = _levels(video, movie.levels)
    if not isinstance(blank, (int, float, np.number)) or not 0 <= blank <= 255:
        raise ValueError(f"blank_level: {blank!r}, expected a grey level from 0 to 255, such as 128.")
    timestamps, rows = _displayed(int(video.shape[0]), index, rate, times, reference)
    return ArrayScreen(
        folder, timestamps, as_trials(trials, timestamps),
        frames=video, index=rows, levels=(black, white), levels_given=movie.levels is not None, blank=float(blank),
    )  # fmt: skip


def _check_frame_axes(
    shape: tuple[int, ...], index: np.ndarray | None, rate: Any, times: Any,
    reference: Clock, folder: Path, findings: Findings,
) -> None:  # fmt: skip
    """Refuses a video `[K, H, W]` whose last axis index, times or rate fit, and doubts frames that look turned."""
    n_frames, height, width = shape[:3]
    n_times = None if times is None else as_vector(times, "video: times").size
    hertz = reference.rate if rate is None else None if doubt_about_rate(rate, "video") else float(rate)
    seconds = reference.n / reference.rate
    if index is not None and index.size and index.dtype.kind in "iu":
        last_is_time = n_frames <= int(index.max()) < width
    elif n_times is not None:
        last_is_time = n_times == width != n_frames
    else:
        last_is_time = (
            hertz is not None and abs(width / hertz - seconds) <= 0.1 * seconds and n_frames / hertz < 0.5 * seconds
        )
    if last_is_time:
        raise ValueError(
            f"video: shape {tuple(shape)}, expected [frames, height, width], but times, rate or index fit its last "
            "axis. Put time first: numpy.moveaxis(video, -1, 0)."
        )
    doubt = doubt_about_pictures(height, width)
    if doubt is None and width > WIDEST * height:
        size = f"{height} rows of {width} pixels"
        doubt = Doubt("[frames, height, width]", size, "One of these axes looks like time.")
    if doubt is not None:
        findings.warning(folder, "axes", **doubt._asdict())


def _levels(video: Any, given: tuple[float, float] | None) -> tuple[float, float]:
    """Black and white: what was given, else 0 and 255, which a look along all of the movie must not contradict."""
    if given is not None:
        try:
            black, white = (float(level) for level in given if not isinstance(level, str))
        except (TypeError, ValueError):
            black = white = np.nan
        if not np.isfinite([black, white]).all() or black == white:
            raise ValueError(f"video_range: {given!r}, expected the values of black and white, such as (0, 255).")
        return black, white
    values = GreyLevels()
    for row in np.unique(np.linspace(0, int(video.shape[0]) - 1, LOOKED_AT).astype(int)).tolist():
        values.add(np.asarray(np.ma.getdata(video[row : row + 1]), dtype=np.float32))
    if 0 < values.highest <= 1:
        lowest = 0 if values.lowest >= 0 else -1 if values.lowest >= -1 else f"{values.lowest:.3g}"
        raise ValueError(
            f"video: its values lie between {lowest} and 1, but black and white are 0 and 255. Pass "
            f"video_range=({lowest}, 1), or the range that is meant."
        )
    return GREY_LEVELS


def _displayed(
    n_frames: int, index: np.ndarray | None, rate: Any, times: Any, reference: Clock
) -> tuple[np.ndarray, np.ndarray]:
    """Times of the displayed frames, and which stored frame each of them is."""
    if index is not None and (
        index.ndim != 1 or not len(index) or index.dtype.kind not in "iu" or index.max() >= n_frames
    ):
        largest = index.max() if index.size and index.dtype.kind in "fiu" else "-"
        raise ValueError(
            f"video_index: shape {index.shape}, dtype {index.dtype}, largest {largest}; "
            f"expected one row number below {n_frames} per displayed frame."
        )
    rows = np.arange(n_frames) if index is None else index.astype(np.int64)
    clock = as_clock("video", len(rows), rate, times, reference, irregular=True)
    timestamps = clock.times if clock.times is not None else clock.start + np.arange(len(rows)) / clock.rate
    # The last frame stays for as long as a frame does.
    return np.append(timestamps, timestamps[-1] + 1 / clock.rate), np.append(rows, rows[-1])
