"""Frames: changing their size by averaging over areas, and whether their pixels are grey levels from 0 to 255."""

from __future__ import annotations

import functools

import numpy as np


class GreyLevels:
    """Extremes of the pixels of many frames, and how many are none."""

    def __init__(self) -> None:
        self.lowest, self.highest, self.unsound, self.pixels = np.inf, -np.inf, 0, 0

    def add(self, frames: np.ndarray) -> None:
        """Looks at frames of any shape, in grey levels."""
        finite = np.isfinite(frames)
        self.pixels += frames.size
        self.unsound += frames.size - int(np.count_nonzero(finite))
        levels = frames if finite.all() else frames[finite]
        if levels.size:  # integers have no infinity to begin with
            self.lowest, self.highest = min(self.lowest, float(levels.min())), max(self.highest, float(levels.max()))


@functools.lru_cache(maxsize=32)
def area_weights(n_in: int, n_out: int) -> np.ndarray:
    """Share of each input pixel in each output pixel along one axis, float32 `[n_out, n_in]`; rows add up to 1.

    Output pixel i covers the input from `i n_in / n_out` to `(i + 1) n_in / n_out`, with the pixels at both ends
    counted by the part that lies inside.
    """
    edges = np.arange(n_out + 1) * (n_in / n_out)
    pixels = np.arange(n_in)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0, None)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    weights.flags.writeable = False
    return weights


def area_resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames `[T, H, W]` as `[T, height, width]`, float32: each new pixel is the mean over the area it covers."""
    frames = np.asarray(frames, dtype=np.float32)
    if frames.shape[1] != height:
        frames = np.matmul(area_weights(frames.shape[1], height), frames)
    if frames.shape[2] != width:
        frames = np.matmul(frames, area_weights(frames.shape[2], width).T)
    return frames
