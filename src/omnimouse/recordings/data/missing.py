"""Which numbers of an array are values: not NaN, not a number that stands for none, not too large for windows."""

from __future__ import annotations

import numpy as np

FILLS = (
    -99.0, -999.0, -9999.0, -99999.0, 9999.0, 99999.0, 65535.0, -32768.0, -2147483648.0, -9223372036854775808.0,
)  # fmt: skip
"""Numbers that labs and file formats write where there is no value; the last ones are NaN that became an integer."""

UNHELD = 1e19
"""Magnitude from which a number is no measurement."""

LARGEST = float(np.finfo(np.float32).max)
"""Windows are float32: a larger number would be infinite there."""


def usable(array: np.ndarray) -> np.ndarray:
    """Which numbers are finite, and stay so in float32; bool like `array`."""
    finite = np.isfinite(array)
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        with np.errstate(invalid="ignore"):
            finite &= np.abs(array) <= LARGEST
    return finite


def no_value(values: np.ndarray) -> np.ndarray:
    """Which numbers are written where there is no value; bool like `values`.

    NaN, infinity, masked entries of a masked array, magnitudes from 1e19 on (1e20, netCDF's 9.97e36), and those of
    `fills_of` its type that lie further from all other numbers than these from each other, as -9999 does from pupil
    sizes and does not among counts of an encoder.
    """
    array = np.ma.getdata(values)
    missing = np.array(np.ma.getmaskarray(values)) if np.ma.isMaskedArray(values) else np.zeros(array.shape, dtype=bool)
    if array.dtype.kind not in "fiu":
        return missing
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            missing |= ~np.isfinite(array) | (np.abs(array) >= UNHELD)
    filled = is_fill(array) & ~missing
    if not filled.any():
        return missing
    others = array[~(filled | missing)].astype(np.float64)
    low, high = (float(others.min()), float(others.max())) if others.size else (0.0, 0.0)
    for value in np.unique(array[filled]).tolist():
        if max(low - value, value - high) > high - low:
            missing |= array == value
    return missing


def is_fill(array: np.ndarray) -> np.ndarray:
    """Which numbers are exactly one of `fills_of` their type; bool like `array`."""
    found = np.zeros(array.shape, dtype=bool)
    for fill in fills_of(array.dtype):
        found |= array == fill
    return found


def fills_of(dtype: np.dtype) -> np.ndarray:
    """Those of `FILLS` that a type can hold, as it rounds them; and the largest integer of more than one byte."""
    if dtype.kind not in "fiu":
        return np.zeros(0, dtype=dtype)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    held = [fill for fill in FILLS if float(limits.min) <= fill <= float(limits.max)]
    largest = [limits.max] if dtype.kind != "f" and dtype.itemsize > 1 else []
    return np.unique(np.array([*map(dtype.type, held), *largest], dtype=dtype))


def as_missing(values: np.ndarray) -> np.ndarray:
    """Numbers as floating ones with NaN where `no_value` finds none; the same array where all are values."""
    missing = no_value(values)
    array = np.ma.getdata(values)
    if not missing.any():
        return array
    return np.where(missing, np.nan, array.astype(np.result_type(array.dtype, np.float32)))
