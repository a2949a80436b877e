"""Arrays of other libraries: taken as they are where slices of them are arrays, turned into numpy, or refused.

Torch tensors, pandas and polars frames become numpy arrays; numpy, memory maps, h5py, zarr, dask and xarray stay what
they are and are sliced along their first axis. Of these libraries only torch is imported here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_NEURONS = re.compile(r"(neuron|unit|roi|cell)s?(_?ids?)?", re.IGNORECASE)
_TIME = re.compile(r"(time|t|frame|sample)s?", re.IGNORECASE)


def as_array(value: Any, name: str, n_axes: int, layout: str) -> Any:
    """An array of real numbers that is sliced along its first axis.

    Messages call it `name`, and its axes `layout`.

    Raises:
        ValueError: no array, of other axes or none at all along one, or not of real numbers.
    """
    _refuse_containers(value, name)
    array = as_sliceable(value, name)
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    if shape is None or dtype is None:
        raise ValueError(
            f"{name}: {type(value).__name__} is no array; pass numpy (numpy.asarray(...) of it), a memory map, torch, "
            "pandas, h5py or zarr."
        )
    if len(shape) != n_axes or 0 in shape:
        raise ValueError(f"{name}: shape {tuple(shape)}, expected {layout}.")
    if _kind(array) not in ("f", "i", "u"):
        raise ValueError(f"{name}: dtype {dtype}, expected real numbers.")
    dims = [str(dim) for dim in getattr(array, "dims", ())]  # of xarray
    if n_axes == 2 and len(dims) == 2 and _NEURONS.fullmatch(dims[0]) and _TIME.fullmatch(dims[1]):
        raise ValueError(f"{name}: dimensions {', '.join(dims)}, expected {layout}. Transpose it (array.T).")
    return array


def as_sliceable(value: Any, name: str) -> Any:
    """An array-like as numpy where it cannot be sliced into numpy; what is no array stays what it is.

    Raises:
        ValueError: an array that numpy cannot take over, such as a sparse one or one of an accelerator.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{name}: a tensor of layout {value.layout}, expected a dense one; pass value.to_dense().")
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if hasattr(value, "tocsr"):
        raise ValueError(f"{name}: a sparse {type(value).__name__}, expected a dense array; pass value.toarray().")
    if hasattr(value, "to_numpy") and not hasattr(value, "dims"):
        array = np.asarray(value.to_numpy())
        try:  # numbers with pandas.NA among them
            return array if array.dtype != object else np.asarray(value.to_numpy(dtype=np.float64, na_value=np.nan))
        except (TypeError, ValueError):
            return array
    if getattr(value, "shape", None) is not None and _kind(value):
        return value
    if hasattr(value, "__array__"):
        try:
            return np.asarray(value)
        except Exception as error:  # whatever another library raises
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{name}: {type(value).__name__} does not become numpy ({reason}); convert it.") from error
    return value


def _kind(value: Any) -> str:
    """Numpy's letter for the kind of numbers, "" where they are of no type that numpy has."""
    try:
        return np.dtype(value.dtype or "O").kind
    except (AttributeError, TypeError):
        return ""


def as_vector(value: Any, name: str) -> np.ndarray:
    """A vector or a small array as numpy, lists too; masked arrays stay masked.

    Raises:
        ValueError: a file's name, several arrays by name, or what numpy cannot take over.
    """
    _refuse_containers(value, name)
    array = as_sliceable(value, name)
    return array if isinstance(array, np.ndarray) else np.asarray(array)


def _refuse_containers(value: Any, name: str) -> None:
    """Refuses what holds arrays and is none: the name of a file, a mapping of arrays such as an open `.npz`."""
    if isinstance(value, (str, bytes, os.PathLike)):
        raise ValueError(
            f"{name}: {os.fsdecode(value)!r} is a name, expected an array. Open the file first, for example with "
            'numpy.load(path, mmap_mode="r").'
        )
    if isinstance(value, Mapping):
        raise ValueError(
            f"{name}: {type(value).__name__} of {', '.join(map(str, value)) or 'nothing'}, expected one array. Pass "
            "one of its arrays."
        )


def columns_of(value: Any) -> dict[str, Any] | None:
    """Columns by name of a table: a mapping, a frame of pandas or polars, a structured array; None for no table."""
    if isinstance(value, Mapping):
        return {str(name): column for name, column in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.names is not None:
        return {name: value[name] for name in value.dtype.names}
    if hasattr(value, "columns") and hasattr(value, "to_numpy"):
        return {str(name): value[name] for name in value.columns}
    return None
