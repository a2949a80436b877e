"""Scaling curves as a table, sentences, JSON and figures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from omnimouse.scaling.curves import LOSS, Curve, Verdict, judge, make_curves
from omnimouse.scaling.fits import PowerLaw
from omnimouse.scaling.points import ScalingPoint, best_points, collect_points
from omnimouse.support.files import write_json, write_text
from omnimouse.support.text_tables import markdown_table

FILES = ("scaling.json", "scaling.md", "data-size.svg", "model-size.svg")
"""What a report may consist of; a figure is written where there is a curve to draw."""


@dataclass(frozen=True)
class ScalingReport:
    """Scaling curves over finished pre-trainings.

    Attributes:
        points: one per annealed core.
        data_curves: over sessions (or neurons), one per size.
        size_curves: over parameters, one per set of sessions.
        verdict: which of data and size limits.
    """

    points: tuple[ScalingPoint, ...]
    data_curves: tuple[Curve, ...]
    size_curves: tuple[Curve, ...]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Everything but the figures."""
        return {
            "points": [asdict(point) for point in self.points],
            "curves": [_curve_json(curve) for curve in (*self.data_curves, *self.size_curves)],
            "verdict": asdict(self.verdict),
        }

    def to_markdown(self) -> str:
        """Tables of points and laws, and what they say."""
        lines = [*_points_table(self.points), "", *_laws_table((*self.data_curves, *self.size_curves))]
        return "\n".join([*lines, "", self.verdict.text, ""])

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes JSON, Markdown and the figures, each replaced as a whole.

        Args:
            folder: made if it is not there; other files in it are left alone.

        Returns:
            What was written.

        Raises:
            ImportError: matplotlib is missing.
        """
        from omnimouse.scaling.figures import draw_curves

        figures = {
            name: draw_curves(curves)
            for name, curves in zip(FILES[2:], (self.data_curves, self.size_curves), strict=True)
            if curves
        }
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / FILES[0], self.to_json())
        write_text(place / FILES[1], self.to_markdown())
        for name, svg in figures.items():
            write_text(place / name, svg)
        return [place / name for name in FILES if name in FILES[:2] or name in figures]


def scaling(
    runs: Iterable[str | os.PathLike[str]], *, data_axis: Literal["sessions", "neurons"] = "sessions"
) -> ScalingReport:
    """Collects annealed cores of many pre-trainings into scaling curves.

    Cores that differ in size or in the sessions they were trained on are compared at the length of training that suits
    each best: of the anneals of one size and set of sessions, curves take the one of lowest held-out loss.

    Args:
        runs: folders of runs (all their finished anneals count) or of single anneals, scored on the same masks and
            sessions.
        data_axis: whether data is counted in sessions or in neurons.

    Returns:
        `ScalingReport`.

    Raises:
        ValueError: see `collect_points`.
    """
    if data_axis not in ("sessions", "neurons"):
        raise ValueError(f"data_axis is {data_axis!r}; expected 'sessions' or 'neurons'.")
    points = collect_points(runs)
    data, size = make_curves(points, data_axis)
    return ScalingReport(tuple(points), tuple(data), tuple(size), judge(data, size))


def _curve_json(curve: Curve) -> dict[str, Any]:
    return {
        "axis": curve.axis,
        "fixed": {"sessions" if curve.axis == "parameters" else "parameters": curve.fixed},
        "points": [point.name for point in curve.points],
        "x": curve.x,
        "laws": {measure: None if law is None else _law_json(law) for measure, law in curve.laws.items()},
    }


def _law_json(law: PowerLaw) -> dict[str, Any]:
    names = ("limit", "scale", "exponent")
    intervals = {f"{name}_interval": law.interval(law.draws[:, i]) for i, name in enumerate(names)}
    return {**{name: getattr(law, name) for name in names}, **intervals, "y": law.y}


def _points_table(points: Sequence[ScalingPoint]) -> list[str]:
    masks = list(points[0].losses)
    best = best_points(points)
    header = ["core", "parameters", "sessions", "neurons", "steps", "tokens", "FLOPs", "loss"]
    rows = []
    for point in points:
        row = [point.name + (" *" if point in best else ""), f"{point.parameters:,}", str(len(point.sessions))]
        row += [f"{point.neurons:,}", f"{point.steps:,}", f"{point.tokens:.3g}"]
        row += ["-" if point.flops is None else f"{point.flops:.3g}", f"{point.loss:.4f}"]
        rows.append(row + [f"{point.scores[mask]:.3f}" if mask in point.scores else "-" for mask in masks])
    lines = markdown_table([*header, *(f"r `{mask}`" for mask in masks)], rows)
    return [*lines, "", "\\* lowest loss of its size and sessions: the one that curves go through."]


def _laws_table(curves: Sequence[Curve]) -> list[str]:
    rows = []
    for curve in curves:
        for measure, law in curve.laws.items():
            name = "loss" if measure == LOSS else f"r `{measure}`"
            row = [f"{name} over {curve.axis}", curve.title]
            if law is None:
                rows.append([*row, "too few points", "", ""])
                continue
            numbers = [(law.limit, 0, ".3f"), (law.scale, 1, ".3g"), (law.exponent, 2, ".2f")]
            for value, column, form in numbers:
                interval = law.interval(law.draws[:, column])
                row.append(
                    f"{value:{form}}" + ("" if interval is None else f" ({interval[0]:{form}} to {interval[1]:{form}})")
                )
            rows.append(row)
    if not rows:
        return ["No two cores differ in one thing only, so there are no curves."]
    return markdown_table(["limit + scale * (x / smallest x) ^ -exponent", "at", "limit", "scale", "exponent"], rows)
