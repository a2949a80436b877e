"""An `.npz` file whose arrays grow row by row, in memory that does not grow with them.

Every array has room for all of its rows from the start, at a multiple of 64 bytes, so rows are written where they stay.
What surrounds them (headers and the list of members, which hold sizes and checksums) is written at the end.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

ALIGNMENT = 64
BLOCK = 1 << 24

_SIZES_FOLLOW = 0xFFFFFFFF
_JANUARY_1980 = (1 << 5) + 1
_FILL, _LEAST_PADDING = 0xD935, 4  # a field that tools that align members fill files with
_VERSION = 45  # the first with sizes of 64 bits
_LOCAL, _CENTRAL, _END, _END_64, _LOCATOR = (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7")

Columns = Mapping[str, tuple[np.dtype, tuple[int, ...]]]
"""Type, and shape of a row, of arrays by name."""


class GrowingNpz:
    """Arrays of at most so many rows, in a file that is there or is made.

    Args:
        path: the file; it has its final form after `finish`.
        columns: the arrays that grow.
        rows: for how many rows there is to be room.
    """

    def __init__(self, path: Path, columns: Columns, rows: int) -> None:
        self.path, self.columns, self.rows = path, columns, rows
        self.offsets: dict[str, int] = {}
        end = 0
        for name, (dtype, shape) in columns.items():
            begin = end + len(_local_header(name, 0, 0, _LEAST_PADDING)) + len(_array_header(dtype, (rows, *shape)))
            self.offsets[name] = -(-begin // ALIGNMENT) * ALIGNMENT
            end = self.offsets[name] + rows * self._row_bytes(name)
        self.size = end
        """Bytes, without what is added at the end."""
        # Unbuffered: where the disk is full, nothing is left to be written when it is closed.
        self.file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115 (closed by `close`)

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def write(self, name: str, row: int, block: np.ndarray) -> None:
        """Writes rows of an array, from `row` on."""
        dtype, shape = self.columns[name]
        assert block.shape[1:] == shape and row + len(block) <= self.rows
        if block.size:
            content = np.ascontiguousarray(block, dtype=dtype).data.cast("B")
            self._put(self.offsets[name] + row * self._row_bytes(name), content)

    def _put(self, place: int, content: bytes | memoryview) -> None:
        self.file.seek(place)
        while content:
            content = content[self.file.write(content) :]

    def sync(self) -> None:
        """Has what was written on the disk."""
        os.fsync(self.file.fileno())

    def read(self, name: str, rows: int) -> np.ndarray:
        """The first rows of an array."""
        dtype, shape = self.columns[name]
        self.file.seek(self.offsets[name])
        return np.frombuffer(self.file.read(rows * self._row_bytes(name)), dtype).reshape(rows, *shape)

    def has_rows(self, rows: int) -> bool:
        """Whether the file is long enough for the first rows of each array."""
        ends = (self.offsets[name] + rows * size for name in self.columns if (size := self._row_bytes(name)))
        return rows == 0 or os.fstat(self.file.fileno()).st_size >= max(ends)

    def finish(self, rows: int, others: Mapping[str, np.ndarray]) -> None:
        """Makes it an `.npz` file of the first `rows` rows of each array, and of `others`."""
        members: list[tuple[str, int, int, int]] = []
        for name, (dtype, shape) in self.columns.items():
            header, n_bytes = _array_header(dtype, (rows, *shape)), rows * self._row_bytes(name)
            crc, rest = zlib.crc32(header), n_bytes
            self.file.seek(self.offsets[name])
            while rest:
                block = self.file.read(min(BLOCK, rest))
                crc, rest = zlib.crc32(block, crc), rest - len(block)
            place = self.offsets[name] - len(header) - len(_local_header(name, 0, 0))
            padding = 0 if members else place  # the first is known by the bytes that the file begins with
            local = _local_header(name, crc, len(header) + n_bytes, padding)
            place -= padding
            self._put(place, local + header)
            members.append((name, crc, len(header) + n_bytes, place))
        place = self.size
        for name, values in others.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, values, allow_pickle=False)
            content = buffer.getvalue()
            local = _local_header(name, zlib.crc32(content), len(content))
            self._put(place, local + content)
            members.append((name, zlib.crc32(content), len(content), place))
            place += len(local) + len(content)
        self._put(place, _directory(members, place))
        self.file.truncate()
        self.sync()

    def _row_bytes(self, name: str) -> int:
        dtype, shape = self.columns[name]
        return dtype.itemsize * int(np.prod(shape, dtype=np.int64))


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` file with two axes or more, by name, left in the file; changes to them stay in memory."""
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                continue
            file.seek(member.header_offset + 26)
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            if len(shape) > 1 and np.prod(shape) and not dtype.hasobject:
                mapped = np.memmap(path, dtype, "c", file.tell(), shape, order="F" if fortran else "C")
                found[member.filename.removesuffix(".npy")] = np.asarray(mapped)
    return found


def _array_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _common(name: str, crc: int, extra: bytes) -> tuple[bytes, bytes]:
    """What a member's two headers share, and what ends both: its name and the sizes in 64 bits."""
    file_name = f"{name}.npy".encode()
    sizes = (_SIZES_FOLLOW, _SIZES_FOLLOW)
    shared = struct.pack("<5H3L2H", _VERSION, 0, 0, 0, _JANUARY_1980, crc, *sizes, len(file_name), len(extra))
    return shared, file_name + extra


def _local_header(name: str, crc: int, size: int, padding: int = 0) -> bytes:
    fill = struct.pack("<2H", _FILL, padding - _LEAST_PADDING) + bytes(padding - _LEAST_PADDING) if padding else b""
    shared, end = _common(name, crc, struct.pack("<2H2Q", 1, 16, size, size) + fill)
    return _LOCAL + shared + end


def _directory(members: list[tuple[str, int, int, int]], place: int) -> bytes:
    """The list of members (name, checksum, bytes, place) that stands at a place and ends the file."""
    listing = b""
    for name, crc, size, begin in members:
        shared, end = _common(name, crc, struct.pack("<2H3Q", 1, 24, size, size, begin))
        shared = struct.pack("<H", _VERSION) + shared + struct.pack("<3H2L", 0, 0, 0, 0, _SIZES_FOLLOW)
        listing += _CENTRAL + shared + end
    n = len(members)
    end_64 = struct.pack("<Q2H2L4Q", 44, _VERSION, _VERSION, 0, 0, n, n, len(listing), place)
    locator = struct.pack("<LQL", 0, place + len(listing), 1)
    end = struct.pack("<4H2LH", 0, 0, n, n, _SIZES_FOLLOW, _SIZES_FOLLOW, 0)
    return listing + _END_64 + end_64 + _LOCATOR + locator + _END + end
