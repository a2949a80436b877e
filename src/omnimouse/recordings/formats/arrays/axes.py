"""Whether time is the first axis of responses and video, by what else is known about a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.plausible import Doubt, doubt_about_axes, doubt_about_pictures, doubt_about_rate
from omnimouse.recordings.data.reading import Findings
from omnimouse.recordings.formats.arrays.clocks import clock_name
from omnimouse.recordings.formats.arrays.likes import as_vector

FITS, FAR = 0.02, 0.2
"""Relative differences of two durations below which they are the same, and above which they are not."""

LOOKED_AT = 64
"""Samples at the beginning and at the end by which times are told from neurons."""

WIDEST = 4.0
"""Times that no screen is wider than high, so that one axis must be time."""


def check_axes(
    shape: tuple[int, int],
    rate: Any,
    times: Any,
    *,
    n_units: int | None,
    lengths: Mapping[str, tuple[str, int]],
    where: Path,
    findings: Findings,
) -> None:
    """Refuses responses `[T, N]` whose axes something else contradicts, and doubts those that only look turned.

    Args:
        shape: of the responses.
        rate, times: as `recording_from_arrays` takes them.
        n_units: neurons that are named.
        lengths: channel or "video" -> the name it was given under, and its rows.
        where: what findings name.
        findings: doubts go here.

    Raises:
        ValueError: another length contradicts the shape, and fits it transposed.
    """
    own = times.get("responses") if isinstance(times, Mapping) else times
    hertz = rate.get("responses") if isinstance(rate, Mapping) else rate
    n_times = None if own is None else len(as_vector(own, "responses: times"))
    known = None if hertz is None or doubt_about_rate(hertz) is not None else float(hertz)
    doubts = [doubt_about_axes(shape, 1.0, n_units=n_units, n_times=n_times)] if n_units or n_times else []
    for name, (given, n_rows) in lengths.items():
        stamps, frequency = _clock_of(rate, times, given, name)
        if stamps is None and frequency is None:
            doubts.append(doubt_about_axes(shape, 1.0, n_times=n_rows, times=f"rows of {given!r}"))
        elif known is not None:
            doubts.append(_by_duration(shape, known, given, _seconds(n_rows, stamps, frequency)))
    proven = next((doubt[0] for doubt in doubts if doubt is not None and doubt[1]), None)
    if proven is not None:
        raise ValueError(f"responses: {proven}")
    look = None if known is None else doubt_about_axes(shape, known, n_units=n_units, n_times=n_times)
    if look is not None:
        findings.warning(where / "responses", "axes", **look[0]._asdict())


def check_neurons(responses: Any, names: Sequence[str] = ()) -> None:
    """Refuses responses `[T, N]` among whose neurons is a column of times or of row numbers, as tables have.

    Args:
        responses: an array.
        names: of its columns, where they have any.

    Raises:
        ValueError: a column that rises from each sample to the next, at the beginning and at the end.
    """
    n_rows, n_neurons = responses.shape
    if n_rows < 2 * LOOKED_AT or n_neurons < 2:
        return
    pieces = (
        np.asarray(np.ma.getdata(responses[rows])) for rows in (slice(LOOKED_AT), slice(n_rows - LOOKED_AT, n_rows))
    )
    rising = np.flatnonzero(np.all([(piece[1:] > piece[:-1]).all(0) for piece in pieces], axis=0))
    if 0 < len(rising) < n_neurons / 2:
        column = f"{rising[0]} ({names[rising[0]]!r})" if len(names) == n_neurons else str(rising[0])
        raise ValueError(
            f"responses: column {column} rises from each sample to the next, as times or row numbers do; expected "
            "neurons only. Leave it out; times of the responses go into times=."
        )


def _clock_of(rate: Any, times: Any, *names: str) -> tuple[Any, Any]:
    """Times and rate of a device of its own, None where it has none."""
    key = clock_name(rate, times, *names) if "video" in names else clock_name(rate, times, *names, "behavior")
    return tuple(part.get(key) if isinstance(part, Mapping) else None for part in (times, rate))  # type: ignore[return-value]


def _seconds(n_rows: int, stamps: Any, frequency: Any) -> float:
    if stamps is None:
        return n_rows / float(frequency) if doubt_about_rate(frequency, "video") is None else np.nan
    vector = as_vector(stamps, "times")
    return (
        float(vector[-1] - vector[0]) if vector.ndim == 1 and len(vector) > 1 and vector.dtype.kind in "fiu" else np.nan
    )


def _by_duration(shape: tuple[int, int], rate: float, name: str, seconds: float) -> tuple[Doubt, bool] | None:
    mine, turned = shape[0] / rate, shape[1] / rate
    if not np.isfinite(seconds) or abs(turned - seconds) > FITS * seconds or abs(mine - seconds) <= FAR * seconds:
        return None
    found = f"shape {tuple(shape)}, {mine:.4g} s at {rate:.6g} Hz, but {name!r} lasts {seconds:.4g} s"
    do = f"{shape[1]} samples would last {turned:.4g} s: transpose it (array.T)."
    return Doubt("[samples, neurons], time along the first axis", found, do), True


def check_frames(
    shape: tuple[int, ...],
    *,
    highest: int | None,
    n_times: int | None,
    rate: float | None,
    seconds: float,
    where: Path,
    findings: Findings,
) -> None:
    """Refuses a video `[K, H, W]` whose last axis is time, and doubts frames that look turned.

    Args:
        shape: of the video.
        highest: row that an index of displayed frames reaches, None without one.
        n_times: times of frames, None without.
        rate: Hz of the frames, None where it is not known.
        seconds: of the responses.
        where: what findings name.
        findings: doubts go here.

    Raises:
        ValueError: index, times or rate fit the last axis only.
    """
    n_frames, height, width = shape[:3]
    last_is_time = (
        (highest is not None and n_frames <= highest < width)
        or (highest is None and n_times is not None and n_times == width != n_frames)
        or (
            highest is None
            and n_times is None
            and rate is not None
            and abs(width / rate - seconds) <= 0.1 * seconds
            and n_frames / rate < 0.5 * seconds
        )
    )
    if last_is_time:
        raise ValueError(
            f"video: shape {tuple(shape)}, expected [frames, height, width], but times, rate or index fit its last "
            "axis. Put time first: numpy.moveaxis(video, -1, 0)."
        )
    doubt = doubt_about_pictures(height, width)
    if doubt is None and width > WIDEST * height:
        doubt = Doubt(
            "[frames, height, width]", f"{height} rows of {width} pixels", "One of these axes looks like time."
        )
    if doubt is not None:
        findings.warning(where / "video", "axes", **doubt._asdict())
