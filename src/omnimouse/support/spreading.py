"""Some of many: evenly spread, or the first few by name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def spread(total: int, at_most: int | None) -> list[int]:
    """Positions of at most so many of `total` things, evenly spread, first and last among them; None takes all.

    Raises:
        ValueError: `at_most` is not positive.
    """
    if at_most is None or at_most >= total:
        return list(range(total))
    if at_most < 1:
        raise ValueError(f"at most {at_most} of {total} cannot be chosen; expected 1 or more, or None for all")
    return np.linspace(0, total - 1, at_most).round().astype(int).tolist()


def listed(items: Iterable[object], limit: int = 8) -> str:
    """The first of some items, and dots where there are more."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")
