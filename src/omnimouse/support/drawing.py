"""Figures in one style, without pyplot and with letters drawn as outlines, so that no fonts are needed."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3a4654",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": "#3a4654",
    "ytick.color": "#3a4654",
    "legend.frameon": False,
    "svg.hashsalt": "omnimouse",
}


@contextmanager
def drawing(width: float, height: float) -> Any:
    """An empty figure in the report's style, in inches; without pyplot, so that no global state is touched.

    Raises:
        ImportError: matplotlib is missing; the message holds the command that installs it.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib; install it with: pip install "omnimouse[viz]"') from error
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same data."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
