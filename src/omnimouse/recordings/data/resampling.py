"""Changing the size of frames by averaging over areas."""

from __future__ import annotations

import functools

import numpy as np


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
