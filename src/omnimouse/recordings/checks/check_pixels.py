"""Whether the pixels of stimuli are grey levels from 0 to 255."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omnimouse.recordings.data.findings import Finding, Kind
from omnimouse.recordings.data.frames import GreyLevels

TOLERANCE = 0.5
"""Grey levels by which a scaled movie may leave 0 to 255, which is rounding."""

UNSOUND = Kind("warning", "pixels", "finite grey levels", "They reach the model as they are; repair the {what}.")
OUTSIDE = Kind("warning", "grey levels", "0 to 255", "Store grey levels from 0 to 255, not normalised ones{of_arrays}.")
DARK = Kind("warning", "value range", "{levels}", "{what} look scaled to 0-1; store them times 255{how}.")
FLAT = Kind(
    "warning", "contrast", "frames that show something",
    "Check that the frames were read; a recording without pictures goes without video.",
)  # fmt: skip


def check_movie(levels: GreyLevels, path: Path, *, range_is_meant: bool = False) -> Iterator[Finding]:
    """All frames of a recording together; with `range_is_meant`, somebody said what black and white are, and a dark
    movie is a dark movie."""
    if levels.unsound:
        yield UNSOUND(path, f"{levels.unsound / levels.pixels:.2%} NaN or infinite", what="stimuli")
    if levels.lowest < -TOLERANCE or levels.highest > 255 + TOLERANCE:
        found = f"{levels.lowest:.4g} to {levels.highest:.4g}"
        yield OUTSIDE(path, found, of_arrays="; of arrays, pass video_range=(black, white)")
    if 0 < levels.highest <= 1 and not range_is_meant:
        how = " (of arrays, pass video_range=(0, 1)), or every frame is nearly black to the model"
        yield DARK(path, f"at most {levels.highest:.3g}", levels="0 to 255", what="The stimuli", how=how)
    else:
        yield from check_contrast(levels, path)


def check_contrast(levels: GreyLevels, path: Path) -> Iterator[Finding]:
    """Whether all pixels of all frames have the same level, so that nothing is shown."""
    if levels.highest == levels.lowest:
        yield FLAT(path, f"{levels.lowest:.4g} in every pixel")


class Pixels:
    """Grey levels of stimulus files that are looked at one by one."""

    def __init__(self) -> None:
        self.levels = GreyLevels()
        self.highest: dict[Path, float] = {}

    def look(self, values: np.ndarray, file: Path, where: str, what: str = "file") -> Iterator[Finding]:
        """Grey levels of one file: `where` says what of it was looked at, `what` is to be repaired."""
        self.levels.add(values)
        finite = values[np.isfinite(values)]
        self.highest[file] = float(finite.max()) if finite.size else -np.inf
        if finite.size < values.size:
            found = f"{(values.size - finite.size) / values.size:.2%} NaN or infinite in {where}"
            yield UNSOUND(file, found, what=what)
        if finite.size and (finite.min() < 0 or finite.max() > 255):
            yield OUTSIDE(file, f"{finite.min():.4g} to {finite.max():.4g}", of_arrays="")

    def dark(
        self, folder: Path, *, where: str = "", what: str = "They", black: str = "everything"
    ) -> Iterator[Finding]:
        """Files that look scaled to 0-1: single ones among others that are not, or all, which are one finding."""
        most, levels = max(self.highest.values(), default=0.0), "grey levels from 0 to 255"
        if 0 < most <= 1:
            how = f", or {black} is nearly black to the model"
            yield DARK(folder, f"at most {most:.3g}{where}", levels=levels, what=what, how=how)
        for path, level in self.highest.items():
            if 0 < level <= 1 < most:
                levels, how = (
                    "grey levels from 0 to 255, as other stimuli have",
                    ", or they are nearly black to the model",
                )
                yield DARK(path, f"at most {level:.3g}", levels=levels, what="They", how=how)
