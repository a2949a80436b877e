"""Tables of text: for terminals, and as Markdown that reads well in a terminal too."""

from __future__ import annotations

import html
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def text_table(header: Sequence[str], rows: Rows, *, rule: bool = False) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right, two spaces between; with `rule`, a line
    below the header."""
    widths = _widths(header, rows)
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in (header, *rows)
    ]
    return [lines[0], *(["  ".join("-" * width for width in widths)] if rule else []), *lines[1:]]


def markdown_table(header: Sequence[str], rows: Rows) -> list[str]:
    """Lines of a Markdown table, all columns to the left and padded."""
    widths = _widths(header, rows)
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def html_table(header: Sequence[str], rows: Rows) -> str:
    """A table for notebooks; text of the cells is escaped."""
    lines = [("th", header), *(("td", row) for row in rows)]
    cells = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in lines]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _widths(header: Sequence[str], rows: Rows) -> list[int]:
    return [max(map(len, column)) for column in zip(header, *rows, strict=True)]
