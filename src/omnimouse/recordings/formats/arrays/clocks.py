"""Clocks of plain arrays: rates and times as given, made into the regular clocks that devices have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnimouse.model.configuration_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.data.channel_names import channel_of
from omnimouse.recordings.data.clock import EXACT_TOLERANCE
from omnimouse.recordings.data.plausible import RATES, doubt_about_duration, doubt_about_rate, doubt_about_times
from omnimouse.recordings.formats.arrays.likes import as_vector

JITTER = 0.5
"""Sampling intervals by which a time may lie off the regular clock."""

AGREE = 0.05
"""Relative difference up to which a rate and times are of one clock."""

LONGEST_HOLD = 3.0
"""Sampling intervals after which a value is no longer held: what follows is missing."""

MOST_EMPTY = 100
"""Times that a clock with gaps may have as many samples as were stored."""


@dataclass(frozen=True)
class Clock:
    """When samples were taken."""

    start: float  # seconds of the first sample
    rate: float  # Hz
    n: int  # samples of the regular clock
    rows: np.ndarray | None = None  # int64 `[n]`, the stored row of each sample, -1 for none; None: they are the same
    times: np.ndarray | None = None  # seconds as given, None for a regular clock

    @property
    def end(self) -> float:
        """Seconds at which the last sample's interval ends."""
        return self.start + self.n / self.rate


@dataclass(frozen=True)
class Timing:
    """Rates and times as `recording_from_arrays` takes them: those of the responses, or mappings from names."""

    rate: Any
    times: Any

    @property
    def of_responses(self) -> tuple[Any, Any]:
        """Rate and times of the responses, None where none are given."""
        rate, times = (part.get("responses") if isinstance(part, Mapping) else part for part in (self.rate, self.times))
        return rate, times

    def of(self, *names: str) -> tuple[str, Any, Any]:
        """The first of some names that a rate or times are given for, else the last; and its rate and times."""
        rates, times = (part if isinstance(part, Mapping) else {} for part in (self.rate, self.times))
        name = next((name for name in names if name in rates or name in times), names[-1])
        return name, rates.get(name), times.get(name)

    def check_names(self, signals: Mapping[str, tuple[str, Any]]) -> None:
        """Refuses rates and times under names that nothing has, which would otherwise count for nothing.

        What was not recorded may be named: one mapping then serves many recordings. For `signals` see `named_channels`.
        """
        given = [name for name, _ in signals.values()]
        known = {"responses", "video", "behavior", *BEHAVIOR_CHANNELS, *signals, *given}
        for label, names in (("rate", self.rate), ("times", self.times)):
            for name in names if isinstance(names, Mapping) else ():
                channel = channel_of(str(name))
                if name not in known and (channel is None or channel in signals):
                    meant = f" Did you mean {signals[channel][0]!r}?" if channel is not None else ""
                    raise ValueError(
                        f"{label}: {name!r} is the name of no array, expected 'responses', 'video', 'behavior' or a "
                        f"channel of behavior ({', '.join(given) or 'none was given'}).{meant}"
                    )


def as_clock(
    name: str,
    n_rows: int,
    rate: Any,
    times: Any,
    reference: Clock | None = None,
    *,
    label: str | None = None,
    kind: str | None = None,
    irregular: bool = False,
) -> Clock:
    """Returns the clock of an array.

    Args:
        name: what rates and times of it are given under.
        n_rows: its rows.
        rate, times: Hz and seconds, None where they are not given.
        reference: clock of the responses, which arrays with as many rows have where nothing else is said.
        label: what messages call it.
        kind: "responses", "behavior" or "video", which says what rates are plausible; default: the name's.
        irregular: keep the times as they are, however far from regular.

    Raises:
        ValueError: neither rate nor times, or impossible ones.
    """
    label, kind = label or name, kind or (name if name in RATES else "behavior")
    if times is not None:
        clock = _from_times(label, n_rows, times, irregular, kind)
        stated = rate if doubt_about_rate(rate, kind) is None and kind != "video" else None
        if stated is not None and abs(clock.rate / float(stated) - 1) > AGREE:
            raise ValueError(
                f"{label}: rate {float(stated):.6g} Hz, but its times are those of {clock.rate:.6g} Hz. Correct one of "
                "them, or pass the times only."
            )
        return clock
    if rate is not None:
        doubt = doubt_about_rate(rate, kind) or doubt_about_duration(n_rows, float(rate))
        if doubt is not None:
            raise ValueError(f"{label}: {doubt}")
        return Clock(0.0 if reference is None else reference.start, float(rate), n_rows)
    if reference is None:
        raise ValueError(f"{label}: neither rate nor times are given; pass rate=Hz, or times= in seconds.")
    stored = reference.n if reference.times is None else len(reference.times)
    if n_rows != stored:
        of_its_own = label.removeprefix("behavior ").strip("'\"")
        own = f" ({of_its_own!r} for it alone)" if of_its_own != name else ""
        raise ValueError(
            f"{label}: {n_rows} rows, but the responses have {stored}, and neither its rate nor its times are given. "
            f'Pass rate={{"responses": ..., "{name}": ...}} in Hz, or times={{"{name}": ...}} in seconds{own}.'
        )
    return reference


def _from_times(label: str, n_rows: int, given: Any, irregular: bool, kind: str) -> Clock:
    given = as_vector(given, f"{label}: times")
    if given.ndim != 1 or len(given) != n_rows or n_rows < 2:
        raise ValueError(f"{label}: times have shape {given.shape}, expected [{n_rows}], one per row and at least two.")
    doubt = doubt_about_times(given, kind)
    if given.dtype.kind not in "fiu" and doubt is not None:
        raise ValueError(f"{label}: times: {doubt}")
    times = np.ma.filled(given.astype(np.float64), np.nan)
    steps = np.diff(times)
    finite = np.isfinite(times)
    if not finite.all() or (steps <= 0).any():
        at = int(np.argmax(steps <= 0)) + 1 if finite.all() else int(np.argmin(finite))
        raise ValueError(
            f"{label}: times are not finite and increasing; the first fault is at row {at} ({times[at]} s)."
        )
    if doubt is not None:
        raise ValueError(f"{label}: times: {doubt}")
    first, seconds, usual = float(times[0]), times[-1] - times[0], float(1 / np.median(steps))
    if irregular:
        return Clock(first, usual, n_rows, times=times)
    rate = (n_rows - 1) / seconds
    if np.abs(times - (first + np.arange(n_rows) / rate)).max() <= JITTER / rate:
        return Clock(first, float(rate), n_rows)
    n = int(np.floor(seconds * usual + 1e-6)) + 1
    if n > max(MOST_EMPTY * n_rows, 1_000_000):
        raise ValueError(
            f"{label}: {n_rows} times in steps of {1 / usual:.6g} s over {seconds:.6g} s, so they are almost all gaps. "
            "Pass seconds on one clock, or each stretch as a recording of its own."
        )
    moments = first + np.arange(n) / usual
    rows = np.searchsorted(times, moments + EXACT_TOLERANCE, side="right") - 1
    rows[(moments - times[rows]) * usual > LONGEST_HOLD + 1e-6] = -1
    return Clock(first, usual, n, rows, times)


def hold(values: np.ndarray, clock: Clock, onto: Clock) -> np.ndarray:
    """Values `[rows]` of one clock on another one: the last sample at or before each of its times, NaN for none."""
    offset = (onto.start - clock.start + EXACT_TOLERANCE) * clock.rate
    position = np.floor(np.arange(onto.n) * (clock.rate / onto.rate) + offset).astype(np.int64)
    position = np.clip(position, 0, clock.n - 1)
    rows = position if clock.rows is None else clock.rows[position]
    floating = values.astype(np.result_type(values.dtype, np.float32))
    return np.where(rows < 0, np.nan, floating[rows])
