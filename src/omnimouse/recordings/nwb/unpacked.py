"""Arrays of HDF5 files read once, by whole chunks, into a scratch file from which rows can be read in any order.

A chunk is decompressed as a whole however little of it is wanted. Series are often chunked a few neurons by all of
time, and read here row by row; images are shown in another order than they are stored in. Shape letters: T samples or
frames, S signals, K stored frames, H and W their pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.frames import area_resize

TILE_BYTES = 64 * 2**20
"""Upper bound on what is read at once, unless a single chunk is larger."""

FRAMES_AT_ONCE = 32
"""Frames that are made smaller together, as float32."""


@dataclass
class Unpacked:
    """An array `[T, ...]` in pieces that have all of time and a part of the other axes."""

    blocks: Sequence[tuple[tuple[slice, ...], np.ndarray]]  # the other axes' parts, and memory maps `[T, ...]` of them
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, part: slice) -> np.ndarray:
        if len(self.blocks) == 1:
            return np.array(self.blocks[0][1][part])
        n = len(range(*part.indices(self.shape[0])))
        whole = np.empty((n, *self.shape[1:]), dtype=self.dtype)
        for where, block in self.blocks:
            place = (slice(None), *where)
            whole[place] = block[part]
        return whole


def unpack(values: Any, file: Path, *, turned: bool = False, columns: np.ndarray | None = None) -> Unpacked:
    """Reads a data set, every chunk once, into a new file, bit for bit.

    `values` are `[T, ...]`, or `[S, T]` if `turned`; `columns` are increasing numbers of the signals to keep, None for
    all. The file is as large as what is kept.
    """
    shape = values.shape[::-1] if turned else values.shape
    chunks = values.chunks or (1, *shape[1:])
    chunks = chunks[::-1] if turned and values.chunks else chunks
    tile = _tile(shape, chunks, values.dtype.itemsize)
    places: list[tuple[tuple[slice, ...], tuple[int, ...], int]] = []
    n_columns, offset = 0, 0
    with file.open("wb") as sink:
        spans = (
            [slice(low, min(low + step, n)) for low in range(0, n, step)]
            for n, step in zip(shape[1:], tile[1:], strict=True)
        )
        for where in itertools.product(*spans):
            kept: Any = slice(None)
            place = where
            if columns is not None:
                kept = columns[(columns >= where[0].start) & (columns < where[0].stop)] - where[0].start
                if not len(kept):
                    continue
                place = (slice(n_columns, n_columns + len(kept)),)
                n_columns += len(kept)
            for low in range(0, shape[0], tile[0]):
                rows = slice(low, min(low + tile[0], shape[0]))
                tiled = (where[0], rows) if turned else (rows, *where)
                block = values[tiled].T if turned else values[tiled]
                block = block[:, kept] if columns is not None else block
                np.ascontiguousarray(block).tofile(sink)
            size = (shape[0], *(part.stop - part.start for part in place))
            places.append((place, size, offset))
            offset += int(np.prod(size)) * values.dtype.itemsize
    blocks = [
        (place, np.memmap(file, dtype=values.dtype, mode="r", offset=start, shape=size))
        for place, size, start in places
    ]
    return Unpacked(blocks, tuple(shape) if columns is None else (shape[0], len(columns)), np.dtype(values.dtype))


def _tile(shape: Sequence[int], chunks: Sequence[int], item_bytes: int) -> list[int]:
    """Rows of whole chunks that are read together, and how much of the other axes: all if a chunk's rows allow it."""
    tile = [min(chunks[0], shape[0]), *shape[1:]]
    while int(np.prod(tile, dtype=object)) * item_bytes > TILE_BYTES:
        ratios = [tile[axis] / chunks[axis] for axis in range(1, len(tile))]
        axis = 1 + int(np.argmax(ratios)) if ratios else 0
        if not ratios or ratios[axis - 1] <= 1:
            break
        n_chunks = -(-tile[axis] // chunks[axis])
        tile[axis] = -(-n_chunks // 2) * chunks[axis]
    rows = max(1, TILE_BYTES // max(1, int(np.prod(tile, dtype=object)) * item_bytes))
    tile[0] = min(shape[0], tile[0] * rows)
    return tile


def unpack_frames(frames: Any, band: int, shown: np.ndarray | None, file: Path, size: tuple[int, int]) -> Unpacked:
    """Reads stored frames that are shown, band by band of whole chunks, at the size that windows have.

    `frames [K, H, W]` or `[K, H, W, 1]` come in chunks of `band`; `shown` are increasing numbers of those to keep, None
    for all. Frames of this size (height, width) keep their type; others are averaged over areas, float32.
    """
    n_frames, height, width = frames.shape[:3]
    kept = (height, width) == size
    dtype = np.dtype(frames.dtype) if kept else np.dtype(np.float32)
    wanted = np.arange(n_frames) if shown is None else shown
    frame_bytes = max(1, height * width * np.dtype(frames.dtype).itemsize)
    step = band * max(1, TILE_BYTES // (band * frame_bytes))
    with file.open("wb") as sink:
        for low in range(0, n_frames, step):
            inside = wanted[(wanted >= low) & (wanted < low + step)]
            if not len(inside):
                continue
            first = int(inside[0])
            block = np.asarray(frames[first : int(inside[-1]) + 1])[inside - first]
            block = block.reshape(len(block), height, width)
            for start in range(0, len(block), FRAMES_AT_ONCE):
                part = block[start : start + FRAMES_AT_ONCE]
                (part if kept and dtype == block.dtype else area_resize(part, *size)).tofile(sink)
    shape = (len(wanted), *size)
    return Unpacked([((slice(None), slice(None)), np.memmap(file, dtype=dtype, mode="r", shape=shape))], shape, dtype)
