"""Scaling curves: points that differ in one thing only, the laws fitted to them, and which of the two limits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from omnimouse.scaling.fits import COVERAGE, PowerLaw, fit_power_law
from omnimouse.scaling.points import Axis, ScalingPoint, best_points

LOSS = "loss"
"""Name of the measure that all masks are averaged in; the others are names of masks."""


@dataclass(frozen=True, repr=False)
class Curve:
    """Points that differ in one thing.

    Attributes:
        axis: in what they differ.
        fixed: what they have in common: parameters, or the number of sessions.
        points: by ascending place on the axis; the best of each size and set of sessions.
        laws: measure (`LOSS`, or a mask for its correlation) -> law; None where there are too few points.
    """

    axis: Axis
    fixed: int
    points: tuple[ScalingPoint, ...]
    laws: dict[str, PowerLaw | None]

    def __repr__(self) -> str:
        return f"Curve({len(self.points)} points from {self.x[0]:,.0f} to {self.x[-1]:,.0f} {self.axis}, {self.title})"

    @property
    def x(self) -> list[float]:
        """Places of the points."""
        return [point.place(self.axis) for point in self.points]

    @property
    def title(self) -> str:
        """What the points have in common, in words."""
        return f"{self.fixed:,} {'sessions' if self.axis == 'parameters' else 'parameters'}"


@dataclass(frozen=True, repr=False)
class Verdict:
    """Which of data and size limits, as far as the points tell.

    Attributes:
        data_change: change of the loss by twice the data, at the most data there is.
        data_interval: its 95 % interval, or None.
        size_change: the same for twice the parameters.
        size_interval: its 95 % interval, or None.
        share: of the bootstrap samples in which more data helps more than a larger core; None without an interval.
        limit: "data", "size", or "open" where the points cannot tell.
        text: all that as a sentence or two.
    """

    data_change: float | None
    data_interval: tuple[float, float] | None
    size_change: float | None
    size_interval: tuple[float, float] | None
    share: float | None
    limit: Literal["data", "size", "open"]
    text: str

    def __repr__(self) -> str:
        return f"Verdict({self.limit}: {self.text})"


def make_curves(
    points: Sequence[ScalingPoint], data_axis: Literal["sessions", "neurons"] = "sessions"
) -> tuple[list[Curve], list[Curve]]:
    """Sorts points into curves.

    Returns:
        Curves over data, one for each size; and curves over size, one for each set of sessions. Those with a single
        point are left out. Longest first, then largest.
    """
    best = best_points(points)
    data = _group(best, data_axis, lambda point: point.parameters, lambda point: point.parameters)
    size = _group(best, "parameters", lambda point: point.sessions, lambda point: len(point.sessions))
    return data, size


def _group(
    points: Sequence[ScalingPoint],
    axis: Axis,
    key: Callable[[ScalingPoint], Hashable],
    fixed: Callable[[ScalingPoint], int],
) -> list[Curve]:
    """A curve over an axis for each key that points have in common."""
    groups: dict[Hashable, list[ScalingPoint]] = {}
    for point in sorted(points, key=lambda point: point.place(axis)):
        groups.setdefault(key(point), []).append(point)
    curves = []
    for members in groups.values():
        x = [point.place(axis) for point in members]
        if x[0] == x[-1]:
            continue
        laws = {LOSS: fit_power_law(x, [point.loss for point in members])}
        for mask in members[0].scores:
            laws[mask] = fit_power_law(x, [point.scores[mask] for point in members], rising=True)
        curves.append(Curve(axis, fixed(members[0]), tuple(members), laws))
    return sorted(curves, key=lambda curve: (-len(set(curve.x)), -curve.fixed))


def judge(data: Sequence[Curve], size: Sequence[Curve]) -> Verdict:
    """Compares what twice the data and twice the parameters would do to the loss, by the longest curve of each kind."""
    data_change, data_draws, data_interval, data_text = _doubling("the data", data)
    size_change, size_draws, size_interval, size_text = _doubling("the parameters", size)
    share: float | None = None
    limit: Literal["data", "size", "open"] = "open"
    conclusion = "Which of the two limits cannot be said."
    if data_interval is not None and size_interval is not None:
        # The samples of both were drawn alike; shuffled, they are independent.
        shuffled = np.random.default_rng(1).permutation(size_draws)
        share = float(np.mean(data_draws < shuffled))
        edge = (1 + COVERAGE) / 2
        limit = "data" if share >= edge else "size" if share <= 1 - edge else "open"
        found = {"data": "Data limits these cores", "size": "Size limits these cores"}
        conclusion = (
            f"{found.get(limit, 'These points do not tell which of the two limits')}: in {100 * share:.0f} % of the "
            "bootstrap samples more data helps more than a larger core."
        )
    text = f"{data_text} {size_text} {conclusion}"
    return Verdict(data_change, data_interval, size_change, size_interval, share, limit, text)


def _doubling(what: str, curves: Sequence[Curve]) -> tuple[float | None, np.ndarray, tuple[float, float] | None, str]:
    """What twice as much does to the loss at the end of the longest curve: change, draws of it, interval, in words."""
    law = curves[0].laws[LOSS] if curves else None
    if law is None:
        unknown = (
            f"How the loss depends on {what} is not known: that takes runs at three values at least, all else equal."
        )
        return None, np.empty(0), None, unknown
    change, draws = law.step(max(law.x))
    interval = law.interval(draws)
    where = f"at {curves[0].title}, from {max(law.x):,.0f} {curves[0].axis}"
    if change == 0.0:
        text = f"By these points, twice {what} would not lower the loss ({where})"
    else:
        text = f"Twice {what} would change the loss by {change:+.2g} ({where})"
    if interval is None:
        return change, draws, interval, f"{text}; how sure that is, three points do not tell."
    return change, draws, interval, f"{text}; 95 % interval {interval[0]:+.2g} to {interval[1]:+.2g}."
