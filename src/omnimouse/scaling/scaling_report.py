"""Scaling curves as a table, sentences, JSON and figures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from omnimouse.scaling.curve_figures import draw_curves
from omnimouse.scaling.curves import LOSS, Curve, Verdict, judge, make_curves
from omnimouse.scaling.fits import PowerLaw
from omnimouse.scaling.points import ScalingPoint, best_points, collect_points
from omnimouse.support.files import write_json, write_text
from omnimouse.support.text_tables import html_table, markdown_table

Table: TypeAlias = tuple[list[str], list[list[str]]]
"""Header and rows."""

FORMS = (".3f", ".3g", ".2f")
"""Of limit, scale and exponent in tables."""

FILES = ("scaling.json", "scaling.md", "data-size.svg", "model-size.svg")
"""What a report may consist of; a figure is written where there is a curve to draw."""


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        curves = f"{len(self.data_curves)} curves over data, {len(self.size_curves)} over size"
        return f"ScalingReport({len(self.points)} cores, {curves}: {self.verdict.text})"

    def _repr_html_(self) -> str:
        return f"{html_table(*self._points_table())}{html_table(*self._laws_table())}<p>{self.verdict.text}</p>"

    def to_json(self) -> dict[str, Any]:
        """Everything but the figures."""
        return {
            "points": [asdict(point) for point in self.points],
            "curves": [_curve_json(curve) for curve in (*self.data_curves, *self.size_curves)],
            "verdict": asdict(self.verdict),
        }

    def to_markdown(self) -> str:
        """Tables of points and laws, and what they say."""
        laws = ["No two cores differ in one thing only, so there are no curves."]
        if self.data_curves or self.size_curves:
            laws = markdown_table(*self._laws_table())
        note = "\\* lowest loss of its size and sessions: the one that curves go through."
        return "\n".join([*markdown_table(*self._points_table()), "", note, "", *laws, "", self.verdict.text, ""])

    def _points_table(self) -> Table:
        masks, best = list(self.points[0].losses), best_points(self.points)
        header = ["core", "parameters", "sessions", "neurons", "steps", "tokens", "FLOPs", "loss"]
        rows = [
            [
                point.name + (" *" if point in best else ""),
                f"{point.parameters:,}",
                str(len(point.sessions)),
                f"{point.neurons:,}",
                f"{point.steps:,}",
                f"{point.tokens:.3g}",
                "-" if point.flops is None else f"{point.flops:.3g}",
                f"{point.loss:.4f}",
                *(f"{point.scores[mask]:.3f}" if mask in point.scores else "-" for mask in masks),
            ]
            for point in self.points
        ]
        return [*header, *(f"r `{mask}`" for mask in masks)], rows

    def _laws_table(self) -> Table:
        rows = []
        for curve in (*self.data_curves, *self.size_curves):
            for measure, law in curve.laws.items():
                name = "loss" if measure == LOSS else f"r `{measure}`"
                row = [f"{name} over {curve.axis}", curve.title]
                for (number, interval), form in zip(law.intervals().items(), FORMS, strict=True) if law else ():
                    text = "" if interval is None else f" ({interval[0]:{form}} to {interval[1]:{form}})"
                    row.append(f"{getattr(law, number):{form}}{text}")
                rows.append(row if law else [*row, "too few points", "", ""])
        return ["limit + scale * (x / smallest x) ^ -exponent", "at", "limit", "scale", "exponent"], rows

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes JSON, Markdown and the figures, each replaced as a whole.

        Args:
            folder: made if it is not there; other files in it are left alone.

        Returns:
            What was written.

        Raises:
            ImportError: matplotlib is missing.
        """
        named = zip(FILES[2:], (self.data_curves, self.size_curves), strict=True)
        texts = {FILES[1]: self.to_markdown(), **{name: draw_curves(curves) for name, curves in named if curves}}
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / FILES[0], self.to_json())
        for name, text in texts.items():
            write_text(place / name, text)
        return [place / FILES[0], *(place / name for name in texts)]


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
    intervals = law.intervals()
    numbers = {name: getattr(law, name) for name in intervals}
    return {**numbers, **{f"{name}_interval": interval for name, interval in intervals.items()}, "y": law.y}
