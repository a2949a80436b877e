"""Tables in files of Arrow's stream format: written batch by batch, and memory-mapped as numpy arrays of any rows.

Columns of numbers, of lists of one length (also nested) and of lists of any length are read straight from the mapped
bytes, without a copy where rows lie in one batch. Shape letters: R rows, B batches.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnimouse.recordings.base import fetch_bytes_ahead

if TYPE_CHECKING:
    import pyarrow as pa

INSTALL = 'pip install "omnimouse[datasets]"'


def require_datasets() -> Any:
    """The module `datasets`, imported when it is needed.

    Raises:
        ImportError: it is not installed; the message has the command that installs it.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"The `datasets` form of recordings needs the library of that name: {INSTALL}") from error
    return datasets


def require_pyarrow() -> Any:
    """The module `pyarrow`, imported when it is needed.

    Raises:
        ImportError: it is not installed; the message has the command that installs it.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(f"Recordings in the `datasets` form are read with pyarrow: {INSTALL}") from error
    return pyarrow


def stored_dtype(dtype: np.dtype | str, what: str) -> np.dtype:
    """The type in which an array is stored: its own in this machine's byte order, bytes for truth values.

    Raises:
        ValueError: Arrow has no such type.
    """
    native = np.dtype(dtype).newbyteorder("=")
    if native.kind == "b":
        return np.dtype(np.uint8)
    if native.kind not in "fiu" or native.itemsize > 8:
        raise ValueError(f"{what}: Arrow has no type for {native}; store the array as float64 or smaller first")
    return native


def as_column(values: np.ndarray) -> pa.Array:
    """Values `[R, ...]` as a column of numbers, or of lists whose lengths are the other dimensions; not copied."""
    pa = require_pyarrow()
    flat = np.ascontiguousarray(values, dtype=stored_dtype(values.dtype, "column"))
    column = pa.array(flat.reshape(-1))
    for size in values.shape[:0:-1]:
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def write_table(path: Path, schema: pa.Schema, batches: Iterable[Sequence[pa.Array]]) -> int:
    """Writes batches of columns as they come; returns the number of rows."""
    pa = require_pyarrow()
    rows = 0
    with pa.OSFile(os.fspath(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for columns in batches:
            writer.write_batch(pa.RecordBatch.from_arrays(list(columns), schema=schema))
            rows += len(columns[0])
    return rows


class MappedTable:
    """A table in a file of Arrow's stream format, mapped and never read as a whole.

    Args:
        path: the file.

    Attributes:
        table: what pyarrow sees; its buffers are those of the map.

    Raises:
        ValueError: no such file, not such a table, or an incomplete one.
    """

    def __init__(self, path: Path) -> None:
        pa = require_pyarrow()
        self.path = path
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            buffer = pa.py_buffer(self._map)
            self.table = pa.ipc.open_stream(buffer).read_all()
            self.table.validate()
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:200]
            raise ValueError(f"{path} is not a complete table in Arrow's stream format: {reason}") from None
        self._address: int = buffer.address
        lengths = [len(batch) for batch in self.table.column(0).chunks] if self.table.num_columns else []
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._columns: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {}

    def __len__(self) -> int:
        return self.table.num_rows

    def has_column(
        self, name: str, dtype: np.dtype | str, shape: tuple[int, ...] = (), *, ragged: bool = False
    ) -> bool:
        """Whether there is a column of numbers of a type, in lists of certain lengths, or of any length."""
        pa = require_pyarrow()
        kind = pa.from_numpy_dtype(np.dtype(dtype))
        for size in reversed(shape):
            kind = pa.list_(kind, size)
        if ragged:
            kind = pa.list_(kind)
        return name in self.table.column_names and self.table.schema.field(name).type.equals(kind)

    def rows(self, name: str, low: int = 0, high: int | None = None) -> np.ndarray:
        """Rows ``[low, high)`` of a column of numbers, or of lists of one length, without NULL: `[high - low, ...]`."""
        high = len(self) if high is None else high
        first = int(np.searchsorted(self._starts, low, side="right")) - 1
        pieces = []
        for batch in range(max(first, 0), len(self._starts) - 1):
            start = int(self._starts[batch])
            if start >= high:
                break
            values = self._batches(name)[batch][0][max(low - start, 0) : high - start]
            self._fetch_ahead(values)
            pieces.append(values)
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else self._batches(name)[0][0][:0]

    def lists(self, name: str, rows: Sequence[int]) -> list[np.ndarray]:
        """The entries of a column of lists of any length at some rows."""
        found = []
        for row in rows:
            batch = int(np.searchsorted(self._starts, row, side="right")) - 1
            values, offsets = self._batches(name)[batch]
            assert offsets is not None
            within = row - int(self._starts[batch])
            found.append(values[offsets[within] : offsets[within + 1]])
        return found

    def _batches(self, name: str) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Values of every batch, mapped, and the offsets into them where lists have any length."""
        if name not in self._columns:
            self._columns[name] = [_view(chunk) for chunk in self.table.column(name).chunks]
        return self._columns[name]

    def _fetch_ahead(self, values: np.ndarray) -> None:
        first = values.ctypes.data - self._address
        if first >= 0 and first + values.nbytes <= len(self._map):  # buffers that were compressed lie elsewhere
            fetch_bytes_ahead(self._map, first, first + values.nbytes)


def _view(chunk: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """One batch of a column as `[R, ...]`, or flat with offsets `[R + 1]`; views of its buffers."""
    pa = require_pyarrow()
    if pa.types.is_list(chunk.type):
        offsets = np.frombuffer(chunk.buffers()[1] or b"", np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        return _numbers(chunk.values), offsets
    shape = [len(chunk)]
    while pa.types.is_fixed_size_list(chunk.type):
        shape.append(chunk.type.list_size)
        first = chunk.offset * chunk.type.list_size
        chunk = chunk.values.slice(first, reduce(int.__mul__, shape))
    return _numbers(chunk).reshape(shape), None


def _numbers(values: pa.Array) -> np.ndarray:
    dtype = np.dtype(values.type.to_pandas_dtype())
    if not len(values):
        return np.zeros(0, dtype)
    return np.frombuffer(values.buffers()[1] or b"", dtype, count=len(values), offset=values.offset * dtype.itemsize)
