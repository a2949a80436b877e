"""Tables in files of Arrow's stream format: written batch by batch, and memory-mapped as numpy arrays of any rows.

Columns of numbers, and of lists of one length, also nested, are read straight from the mapped bytes. Where batches
begin is kept outside the file: finding it out takes seconds when a large file is not in memory. Shape letter: R rows.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from omnimouse.recordings.data.devices import fetch_bytes_ahead


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
    flat = np.ascontiguousarray(values, dtype=stored_dtype(values.dtype, "column"))
    column = pa.array(flat.reshape(-1))
    for size in values.shape[:0:-1]:
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


@dataclass(frozen=True)
class Layout:
    """Where the rows of a table lie in its file."""

    rows: int  # how many there are
    bytes: int  # size of the file
    step: int  # rows of every batch but the last
    batches: tuple[int, ...]  # where each batch begins, bytes from the start of the file

    def __post_init__(self) -> None:
        sound = self.step > 0 and len(self.batches) == -(-self.rows // self.step)
        if not sound or any(not 0 <= first < self.bytes for first in self.batches):
            raise ValueError(f"{len(self.batches)} batches of {self.step} rows do not make a table of {self.rows}")
        if self.rows > 8 * self.bytes:  # of truth values, without anything else
            raise ValueError(f"{self.rows} rows do not fit into {self.bytes} bytes")


class _HashedFile(io.BufferedWriter):
    """A file to write to that tells a digest of all that was written."""

    def __init__(self, path: Path, digest: Any) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self._digest = digest

    def write(self, data: Any) -> int:
        """Write bytes, and tell the digest."""
        if self._digest is not None:
            self._digest.update(data)
        return super().write(data)


def write_table(path: Path, schema: pa.Schema, batches: Iterable[Sequence[pa.Array]], digest: Any = None) -> Layout:
    """Writes batches of columns as they come, all of one length but for the last, which may be shorter.

    A `digest`, a hash of `hashlib`, is updated with all bytes of the file.
    """
    lengths, offsets = [], []
    with pa.PythonFile(_HashedFile(path, digest), mode="w") as sink:
        with pa.ipc.new_stream(sink, schema) as writer:
            for columns in batches:
                batch = pa.RecordBatch.from_arrays(list(columns), schema=schema)
                writer.write_batch(batch)  # the first one writes the schema before it
                lengths.append(len(batch))
                offsets.append(sink.tell() - pa.ipc.get_record_batch_size(batch))
        return Layout(sum(lengths), sink.tell(), max(lengths), tuple(offsets))


class MappedTable:
    """A table in a file of Arrow's stream format, mapped; only batches that are asked for are looked at.

    `layout` is what `write_table` said of the file; `schema` has names and types of its columns.

    Raises:
        ValueError: no such file, not such a table, or one of another size.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        try:
            if path.exists() and not path.is_file():  # opening a pipe would wait for ever
                raise ValueError("a folder or a special file")
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != layout.bytes:
                    raise ValueError(f"{size} bytes")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):
                # A look at a batch would else read megabytes around it; what is wanted is asked for (`_fetch_ahead`).
                self._map.madvise(mmap.MADV_RANDOM)
            self._buffer = pa.py_buffer(self._map)
            self.schema = pa.ipc.open_stream(self._buffer).schema
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:200]
            raise ValueError(f"{path} is not a complete table in Arrow's stream format: {reason}") from None
        self._address: int = self._buffer.address
        self._batches: dict[int, Any] = {}
        self._columns: dict[tuple[int, str], np.ndarray] = {}

    def __reduce__(self) -> tuple[type[MappedTable], tuple[Path, Layout]]:
        return MappedTable, (self.path, self.layout)

    def __len__(self) -> int:
        return self.layout.rows

    def has_column(self, name: str, dtype: np.dtype | str, shape: tuple[int, ...] = ()) -> bool:
        """Whether there is a column of numbers of a type, in lists of certain lengths."""
        kind = pa.from_numpy_dtype(np.dtype(dtype))
        for size in reversed(shape):
            kind = pa.list_(kind, size)
        return name in self.schema.names and self.schema.field(name).type.equals(kind)

    def rows(self, name: str, low: int = 0, high: int | None = None) -> np.ndarray:
        """Rows ``[low, high)`` of a column of numbers, or of lists of one length, without NULL: `[high - low, ...]`.

        Raises:
            ValueError: the table is damaged.
        """
        high, step = len(self) if high is None else high, self.layout.step
        pieces = []
        for batch in range(low // step, -(-high // step)):
            values = self._values(batch, name)[max(low - batch * step, 0) : high - batch * step]
            self._fetch_ahead(values)
            pieces.append(values)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def read(self) -> list[dict[str, Any]]:
        """All rows as Python objects: of small tables."""
        return [row for batch in range(len(self.layout.batches)) for row in self._batch(batch).to_pylist()]

    def _values(self, batch: int, name: str) -> np.ndarray:
        if (batch, name) not in self._columns:
            self._columns[batch, name] = _view(self._batch(batch).column(name))
        return self._columns[batch, name]

    def _batch(self, index: int) -> pa.RecordBatch:
        step = self.layout.step
        if index not in self._batches:
            expected = min(step, len(self) - index * step)
            try:
                message = pa.ipc.read_message(self._buffer.slice(self.layout.batches[index]))
                batch = pa.ipc.read_record_batch(message, self.schema)
                batch.validate()
                if len(batch) != expected:
                    raise ValueError(f"{len(batch)} rows")
            except (OSError, ValueError, pa.ArrowException) as error:
                raise ValueError(
                    f"{self.path}: rows {index * step} to {index * step + expected - 1} cannot be read ({error}); "
                    "copy the file again"
                ) from None
            self._batches[index] = batch
        return self._batches[index]

    def _fetch_ahead(self, values: np.ndarray) -> None:
        first = values.ctypes.data - self._address
        if first >= 0 and first + values.nbytes <= len(self._map):  # buffers that were compressed lie elsewhere
            fetch_bytes_ahead(self._map, first, first + values.nbytes)


def _view(column: pa.Array) -> np.ndarray:
    """One batch of a column as `[R, ...]`: a view of its buffer."""
    shape = [len(column)]
    while pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        column = column.values.slice(column.offset * size, len(column) * size)
        shape.append(size)
    dtype = np.dtype(column.type.to_pandas_dtype())
    if not len(column):
        return np.zeros(shape, dtype)
    first = column.offset * dtype.itemsize
    return np.frombuffer(column.buffers()[1] or b"", dtype, count=len(column), offset=first).reshape(shape)
