"""Figures of scaling curves, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from omnimouse.scaling.curves import LOSS, Curve
from omnimouse.support.drawing import as_svg, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3a4654")
"""Okabe and Ito's, which stay apart for colour-blind readers."""

_LABELS = {"sessions": "training sessions", "neurons": "neurons of the training sessions", "parameters": "parameters"}


def draw_curves(curves: Sequence[Curve]) -> str:
    """Draws curves over one axis: the loss with its fitted laws, and the correlation of every mask.

    Args:
        curves: at least one, all over the same axis.

    Returns:
        SVG text. On the left every curve has a colour, with its law and the 95 % band of the bootstrap; on the right
        every mask has one, for the first curve.

    Raises:
        ImportError: matplotlib is missing.
    """
    with drawing(8.6, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        for curve, colour in zip(curves, COLOURS * len(curves), strict=False):
            _draw(left, curve, LOSS, [point.loss for point in curve.points], curve.title, colour)
        left.set_title("held-out loss")
        first = curves[0]
        for mask, colour in zip(first.points[0].scores, COLOURS * len(first.points[0].scores), strict=False):
            _draw(right, first, mask, [point.scores[mask] for point in first.points], mask, colour)
        right.set_title(f"single-trial correlation, {first.title}")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlabel(_LABELS[first.axis])
            places = sorted({place for curve in curves for place in curve.x})
            axes.set_xticks(places, [_short(place) for place in places])
            axes.minorticks_off()
            axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        return as_svg(figure)


def _short(number: float) -> str:
    """1568576 as "1.6M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}" if number >= 100 * size else f"{number / size:.2g}{letter}"
    return f"{number:g}"


def _draw(axes: Axes, curve: Curve, measure: str, values: list[float], label: str, colour: str) -> None:
    law = curve.laws[measure]
    axes.plot(curve.x, values, "o", color=colour, markersize=4, label=label)
    if law is None:
        axes.plot(curve.x, values, "-", color=colour, linewidth=0.7)
        return
    x = np.geomspace(min(curve.x), 2 * max(curve.x), 80)
    axes.plot(x, law(x), "-", color=colour, linewidth=1.2)
    if len(law.draws):
        low, high = np.quantile(law.sample(x), [0.025, 0.975], axis=0)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
