"""Video of recordings over arrays: when which stored frame was displayed, and what black and white are in it.

Shape letters: F displayed frames, K stored frames, H and W their pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.grey_levels import GreyLevels
from omnimouse.recordings.data.plausible import doubt_about_rate
from omnimouse.recordings.data.reading import Findings
from omnimouse.recordings.formats.arrays.array_devices import ArrayScreen
from omnimouse.recordings.formats.arrays.axes import check_frames
from omnimouse.recordings.formats.arrays.clocks import Clock, as_clock
from omnimouse.recordings.formats.arrays.likes import as_array, as_vector, plain
from omnimouse.recordings.formats.arrays.trials import TrialTime, as_trials

GREY_LEVELS = (0.0, 255.0)
"""Black and white where nothing else is said."""

LOOKED_AT = 64
"""Frames, spread over all of a movie, whose values say whether black and white can be 0 and 255."""

_LAYOUT = "[frames, height, width], grey"


def array_screen(
    video: Any,
    index: Any,
    levels: tuple[float, float] | None,
    blank: float,
    rate: Any,
    times: Any,
    *,
    reference: Clock,
    trials: Sequence[TrialTime],
    folder: Path,
    findings: Findings,
) -> ArrayScreen:
    """The screen of frames `[K, H, W]`; for the arguments see `recording_from_arrays`.

    Raises:
        ValueError: no grey frames with time first, or an index, times or a range that do not fit them.
    """
    video = plain(video, "video")
    shape: tuple[int, ...] = getattr(video, "shape", ())
    if len(shape) == 4 and shape[3] in (3, 4):
        raise ValueError(f"video: shape {tuple(shape)} is in colour, expected {_LAYOUT}. Convert it to grey.")
    video = as_array(video, "video", 4 if len(shape) == 4 and shape[3] == 1 else 3, _LAYOUT)
    index = None if index is None else as_vector(index, "video_index")
    given = times.get("video") if isinstance(times, Mapping) else None
    highest = int(index.max()) if index is not None and index.size and index.dtype.kind in "iu" else None
    own = rate.get("video") if isinstance(rate, Mapping) else None
    check_frames(
        video.shape,
        highest=highest,
        n_times=None if given is None else as_vector(given, "video: times").size,
        rate=_plausible(own, reference),
        seconds=reference.n / reference.rate,
        where=folder.parent,
        findings=findings,
    )
    black, white = _levels(video, levels)
    if not isinstance(blank, (int, float, np.number)) or not 0 <= blank <= 255:
        raise ValueError(f"blank_level: {blank!r}, expected a grey level from 0 to 255, such as 128.")
    timestamps, rows = _displayed(int(video.shape[0]), index, rate, times, reference)
    return ArrayScreen(
        folder, timestamps, as_trials(trials, timestamps),
        frames=video, index=rows, levels=(black, white), levels_given=levels is not None, blank=float(blank),
    )  # fmt: skip


def _plausible(rate: Any, reference: Clock) -> float | None:
    """Hz of displayed frames: its own, else that of the responses; None for one that cannot be meant."""
    if rate is None:
        return reference.rate
    return None if doubt_about_rate(rate, "video") else float(rate)


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
    chosen = np.unique(np.linspace(0, int(video.shape[0]) - 1, LOOKED_AT).astype(int))
    frames = (np.asarray(np.ma.getdata(video[int(row) : int(row) + 1]), dtype=np.float32) for row in chosen)
    values = GreyLevels()
    for frame in frames:
        values.add(frame)
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
    shown = n_frames if index is None else len(index)
    clock = as_clock("video", shown, rate, times, reference, irregular=True)
    timestamps = clock.times if clock.times is not None else clock.start + np.arange(shown) / clock.rate
    # The last frame stays for as long as a frame does.
    timestamps = np.append(timestamps, timestamps[-1] + 1 / clock.rate)
    rows = np.arange(n_frames) if index is None else index.astype(np.int64)
    return timestamps, np.append(rows, rows[-1])
