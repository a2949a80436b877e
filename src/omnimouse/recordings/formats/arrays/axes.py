"""Whether time is the first axis of responses, by what else is known about a recording, and neurons the second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.plausible import Doubt, doubt_about_axes, doubt_about_rate
from omnimouse.recordings.formats.arrays.clocks import Timing
from omnimouse.recordings.formats.arrays.likes import as_vector

FITS, FAR = 0.02, 0.2
"""Relative differences of two durations below which they are the same, and above which they are not."""

LOOKED_AT = 64
"""Samples at the beginning and at the end by which times are told from neurons."""


def check_axes(
    shape: tuple[int, int],
    timing: Timing,
    *,
    n_units: int | None,
    lengths: Mapping[str, tuple[str, int]],
    where: Path,
    findings: Findings,
) -> None:
    """Refuses responses `[T, N]` that another length contradicts and fits transposed, doubts what only looks turned.

    `n_units` neurons are named; `lengths` has the name that each channel, or "video", was given under, and its rows.
    """
    hertz, own = timing.of_responses
    n_times = None if own is None else len(as_vector(own, "responses: times"))
    known = None if hertz is None or doubt_about_rate(hertz) is not None else float(hertz)
    doubts = [doubt_about_axes(shape, 1.0, n_units=n_units, n_times=n_times)] if n_units or n_times else []
    for name, (given, n_rows) in lengths.items():
        _, frequency, stamps = timing.of(given, name, *(() if "video" in (given, name) else ("behavior",)))
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


def _seconds(n_rows: int, stamps: Any, frequency: Any) -> float:
    """How long a device lasts by its times, else by its rate; NaN where they cannot be meant."""
    if stamps is None:
        return n_rows / float(frequency) if doubt_about_rate(frequency, "video") is None else np.nan
    vector = as_vector(stamps, "times")
    told = vector.ndim == 1 and len(vector) > 1 and vector.dtype.kind in "fiu"
    return float(vector[-1] - vector[0]) if told else np.nan


def _by_duration(shape: tuple[int, int], rate: float, name: str, seconds: float) -> tuple[Doubt, bool] | None:
    """Whether responses last as long as another device only if they are turned."""
    mine, turned = shape[0] / rate, shape[1] / rate
    if not np.isfinite(seconds) or abs(turned - seconds) > FITS * seconds or abs(mine - seconds) <= FAR * seconds:
        return None
    found = f"shape {tuple(shape)}, {mine:.4g} s at {rate:.6g} Hz, but {name!r} lasts {seconds:.4g} s"
    do = f"{shape[1]} samples would last {turned:.4g} s: transpose it (array.T)."
    return Doubt("[samples, neurons], time along the first axis", found, do), True


def check_neurons(responses: Any, names: Sequence[str] = ()) -> None:
    """Refuses responses `[T, N]` among whose neurons is a column of times or of row numbers, as tables have.

    That is one that rises from each sample to the next, at the beginning and at the end. Columns may have `names`.
    """
    n_rows, n_neurons = responses.shape
    if n_rows < 2 * LOOKED_AT or n_neurons < 2:
        return
    ends = (
        np.asarray(np.ma.getdata(responses[rows])) for rows in (slice(LOOKED_AT), slice(n_rows - LOOKED_AT, n_rows))
    )
    rising = np.flatnonzero(np.all([(piece[1:] > piece[:-1]).all(0) for piece in ends], axis=0))
    if 0 < len(rising) < n_neurons / 2:
        column = f"{rising[0]} ({names[rising[0]]!r})" if len(names) == n_neurons else str(rising[0])
        raise ValueError(
            f"responses: column {column} rises from each sample to the next, as times or row numbers do; expected "
            "neurons only. Leave it out; times of the responses go into times=."
        )
