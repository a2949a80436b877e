"""Mapping arrays of untrusted recordings, and which of their numbers can be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

LARGEST = float(np.finfo(np.float32).max)
"""Windows are float32: a larger number would be infinite there."""


def map_array(path: Path) -> np.ndarray:
    """A `.npy` file as a read-only memory map; nothing in it is executed.

    Raises:
        ValueError: it is missing, no regular file, or not one whole array without Python objects.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        fault = "a folder or a special file, not a .npy file" if path.exists() else "no such file"
        raise ValueError(f"{path}: {fault}; copy the whole recording again")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers raise many types: SyntaxError, EOFError, OverflowError, ...
        raise ValueError(f"{path}: not a whole .npy array ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: a {type(array).__name__}, not one .npy array")
    return array


def usable(array: np.ndarray) -> np.ndarray:
    """Which numbers are finite, and stay so in float32; bool like `array`."""
    finite = np.isfinite(array)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        with np.errstate(invalid="ignore"):
            finite &= np.abs(array) <= LARGEST
    return finite
