"""Clocks of plain arrays: rates and times as given, made into the regular clocks that devices have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnimouse.model.processing_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.data.channel_names import channel_of
from omnimouse.recordings.data.clock import EXACT_TOLERANCE
from omnimouse.recordings.data.plausible import (
    RATES,
    doubt_about_duration,
    doubt_about_rate,
    doubt_about_times,
    identity,
)
from omnimouse.recordings.formats.arrays.likes import as_vector

JITTER = 0.5
"""Sampling intervals by which a time may lie off the regular clock."""

AGREE = 0.05
"""Relative difference up to which a rate and times are of one clock."""

LONGEST_HOLD = 3.0
"""Sampling intervals after which a value is no longer held: what follows is missing."""

SHORTEST_BLOCK = 2.0
"""Seconds; a window would not fit into a shorter one."""

MOST_EMPTY = 100
"""Times that a clock with gaps may have as many samples as were stored."""


@dataclass(frozen=True)
class Clock:
    """When samples were taken.

    Attributes:
        start: seconds of the first sample.
        rate: Hz.
        n: samples of the regular clock.
        rows: int64 `[n]`, the stored row that each sample holds, -1 for none; None where they are the same.
        times: seconds as given, None for a regular clock.
    """

    start: float
    rate: float
    n: int
    rows: np.ndarray | None = None
    times: np.ndarray | None = None

    @property
    def end(self) -> float:
        """Seconds at which the last sample's interval ends."""
        return self.start + self.n / self.rate


def check_clock_names(rate: Any, times: Any, signals: Mapping[str, tuple[str, Any]]) -> None:
    """Refuses rates and times under names that nothing has, which would otherwise count for nothing.

    Args:
        rate, times: as `recording_from_arrays` takes them.
        signals: channel -> the name it was given under, and its values.

    Raises:
        ValueError: a name of no array. What was not recorded may be named: one mapping then serves many recordings.
    """
    given = [name for name, _ in signals.values()]
    known = {"responses", "video", "behavior", *BEHAVIOR_CHANNELS, *signals, *given}
    for label, names in (("rate", rate), ("times", times)):
        for name in names if isinstance(names, Mapping) else ():
            channel = channel_of(str(name))
            if name not in known and (channel is None or channel in signals):
                meant = f" Did you mean {signals[channel][0]!r}?" if channel is not None else ""
                raise ValueError(
                    f"{label}: {name!r} is the name of no array, expected 'responses', 'video', 'behavior' or a "
                    f"channel of behavior ({', '.join(given) or 'none was given'}).{meant}"
                )


def clock_name(rate: Any, times: Any, *names: str) -> str:
    """The first of some names that rates or times are given for, else the last of them."""
    given = [part for part in (rate, times) if isinstance(part, Mapping)]
    return next((name for name in names if any(name in part for part in given)), names[-1])


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
        name: under which rates and times of it are looked up.
        n_rows: its rows.
        rate: Hz of the responses, or name -> Hz.
        times: seconds of the responses, or name -> seconds.
        reference: clock of the responses, which arrays with as many rows have where nothing else is said.
        label: what messages call it.
        kind: "responses", "behavior" or "video", which says what rates are plausible; default: the name's.
        irregular: keep the times as they are, however far from regular.

    Raises:
        ValueError: neither rate nor times, or impossible ones.
    """
    label, kind = label or name, kind or (name if name in RATES else "behavior")
    own_rate = rate.get(name) if isinstance(rate, Mapping) else (rate if reference is None else None)
    own_times = times.get(name) if isinstance(times, Mapping) else (times if reference is None else None)
    if own_times is not None:
        clock = _from_times(label, n_rows, own_times, irregular, kind)
        stated = own_rate if doubt_about_rate(own_rate, kind) is None and kind != "video" else None
        if stated is not None and abs(clock.rate / float(stated) - 1) > AGREE:
            raise ValueError(
                f"{label}: rate {float(stated):.6g} Hz, but its times are those of {clock.rate:.6g} Hz. Correct one of "
                "them, or pass the times only."
            )
        return clock
    if own_rate is not None:
        doubt = doubt_about_rate(own_rate, kind) or doubt_about_duration(n_rows, float(own_rate))
        if doubt is not None:
            raise ValueError(f"{label}: {doubt}")
        return Clock(0.0 if reference is None else reference.start, float(own_rate), n_rows)
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
    if not np.isfinite(times).all() or (steps <= 0).any():
        at = int(np.argmin(np.isfinite(times))) if not np.isfinite(times).all() else int(np.argmax(steps <= 0)) + 1
        raise ValueError(
            f"{label}: times are not finite and increasing; the first fault is at row {at} ({times[at]} s)."
        )
    if doubt is not None:
        raise ValueError(f"{label}: times: {doubt}")
    if irregular:
        return Clock(float(times[0]), float(1 / np.median(steps)), n_rows, times=times)
    rate = (n_rows - 1) / (times[-1] - times[0])
    if np.abs(times - (times[0] + np.arange(n_rows) / rate)).max() <= JITTER / rate:
        return Clock(float(times[0]), float(rate), n_rows)
    rate = float(1 / np.median(steps))
    n = int(np.floor((times[-1] - times[0]) * rate + 1e-6)) + 1
    if n > max(MOST_EMPTY * n_rows, 1_000_000):
        raise ValueError(
            f"{label}: {n_rows} times in steps of {1 / rate:.6g} s over {times[-1] - times[0]:.6g} s, so they are "
            "almost all gaps. Pass seconds on one clock, or each stretch as a recording of its own."
        )
    moments = times[0] + np.arange(n) / rate
    rows = np.searchsorted(times, moments + EXACT_TOLERANCE, side="right") - 1
    rows[(moments - times[rows]) * rate > LONGEST_HOLD + 1e-6] = -1
    return Clock(float(times[0]), rate, n, rows, times)


def hold(values: np.ndarray, clock: Clock, onto: Clock) -> np.ndarray:
    """Values `[rows]` of one clock on another one: the last sample at or before each of its times, NaN for none."""
    offset = (onto.start - clock.start + EXACT_TOLERANCE) * clock.rate
    position = np.floor(np.arange(onto.n) * (clock.rate / onto.rate) + offset).astype(np.int64)
    position = np.clip(position, 0, clock.n - 1)
    rows = position if clock.rows is None else clock.rows[position]
    floating = values.astype(np.result_type(values.dtype, np.float32))
    return np.where(rows < 0, np.nan, floating[rows])


def tier_blocks(
    start: float, end: float, split: Mapping[str, float], block_seconds: float
) -> list[tuple[float, float, str, str | None]]:
    """Cuts time into blocks and deals them to tiers in turn, so that each has its share all along the recording.

    Returns:
        (start, end, tier, None) of each block.

    Raises:
        ValueError: shares that are not above 0, or a length that is not.
    """
    try:
        shares = np.array([float(share) for share in split.values()])
    except (AttributeError, TypeError, ValueError):
        shares = np.zeros(0)
    if not len(shares) or not np.isfinite(shares).all() or (shares <= 0).any() or None in map(identity, split):
        raise ValueError(
            f"split: {split!r}, expected tiers with shares above 0, such as {{'train': 0.9, 'test': 0.1}}."
        )
    if not isinstance(block_seconds, (int, float, np.number)) or not block_seconds >= SHORTEST_BLOCK:
        raise ValueError(
            f"block_seconds: {block_seconds!r}, expected at least {SHORTEST_BLOCK:g} s, the length of a window."
        )
    n_blocks = max(len(shares), int(np.ceil((end - start) / min(block_seconds, (end - start) / 10))))
    edges = np.linspace(start, end, n_blocks + 1)
    names, dealt = list(split), np.zeros(len(shares))
    shares = shares / shares.sum()
    blocks: list[tuple[float, float, str, str | None]] = []
    for number in range(n_blocks):
        # The tier that lags behind its share most; the first blocks go to the largest.
        tier = int(np.argmax(shares * (number + 1) - dealt))
        dealt[tier] += 1
        blocks.append((float(edges[number]), float(edges[number + 1]), names[tier], None))
    return blocks
