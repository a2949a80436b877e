"""NWB files read with h5py: finding time series by what they hold, and reading them piece by piece.

Files go by `neurodata_type` and by the data sets a group has, not by a schema, so those with extensions open as well.
Nothing is written. Shape letters: T samples, S signals, K stored frames, H and W their pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.files import is_lfs_pointer

CHUNK_CACHE = 64 * 2**20
"""Bytes of decompressed chunks that are kept, so that chunks longer than what is read at once are read once."""

_COLUMN = re.compile(r"(.*)\[(\d+)\]")
_IMAGING = ("TwoPhotonSeries", "OnePhotonSeries")


@contextmanager
def open_nwb(path: Path) -> Iterator[Any]:
    """Opens an NWB file for reading.

    Raises:
        ImportError: h5py is not installed.
        ValueError: no NWB 2 file in HDF5, or a damaged one, also where that shows only while it is read.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('NWB files need h5py; install it with: pip install "omnimouse[nwb]"') from error
    if not path.exists():
        raise ValueError(f"{path}: no such file; check the path.")
    if path.is_dir():
        raise ValueError(f"{path}: a folder, expected an NWB file in HDF5. Export Zarr stores to HDF5 with hdmf-zarr.")
    if is_lfs_pointer(path):
        raise ValueError(f"{path}: a Git LFS pointer; run `git lfs pull` in its repository.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path}: no HDF5 file, or the beginning of one is missing; copy or download it again.")
    try:
        with h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE) as file:
            version = text_of(file.attrs.get("nwb_version", ""))
            if not version.startswith("2"):
                found = f"NWB {version}" if version else "HDF5 without nwb_version"
                raise ValueError(
                    f"{path}: {found}, expected NWB 2. Arrays of other files become a recording with "
                    "recording_from_arrays(h5py.File(...)[...], ...) and a folder with save_recording."
                )
            yield file
    except (OSError, LookupError, RuntimeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the file system, such as a full disk
        message = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read whole ({message}); copy or download it again.") from error


def text_of(value: Any) -> str:
    """Text as HDF5 gives it: bytes, a string, or an array with one of them."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size == 1 else ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def kind_of(group: Any) -> str:
    """The `neurodata_type` of a group or data set, "" without one."""
    return text_of(group.attrs.get("neurodata_type", ""))


def _is_dataset(item: Any) -> bool:
    return hasattr(item, "dtype") and hasattr(item, "shape")


def is_indexed(group: Any) -> bool:
    """Whether a series says which image of another object was shown when."""
    return kind_of(group) == "IndexSeries" or "indexed_timeseries" in group or "indexed_images" in group


@dataclass
class Series:
    """A data set and the group that has its clock.

    Attributes:
        path: where it is, as messages and mappings write it.
        group: its time series.
        values: its numbers, time along the first axis.
        column: which column is meant, None for all.
    """

    path: str
    group: Any
    values: Any
    column: int | None = None

    @property
    def kind(self) -> str:
        """The series' `neurodata_type`."""
        return kind_of(self.group)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers."""
        return tuple(self.values.shape)

    @property
    def unit(self) -> str:
        """Unit as written, or ""."""
        return text_of(self.values.attrs.get("unit", ""))

    @property
    def role(self) -> str:
        """What it can be used as: "responses", "video", "behavior", or "" for nothing here."""
        if self.values.dtype.kind not in "fiu":
            return ""
        if "rois" in self.group or self.kind == "RoiResponseSeries":
            return "responses"
        if is_indexed(self.group) or "external_file" in self.group:
            return "video"
        if len(self.shape) in (3, 4):
            return "" if self.kind in _IMAGING or "imaging_plane" in self.group else "video"
        return "behavior" if len(self.shape) in (1, 2) and self.has_clock and self.shape[0] else ""

    @property
    def has_clock(self) -> bool:
        """Whether it has timestamps, or a rate and a start."""
        return "timestamps" in self.group or "starting_time" in self.group

    @property
    def rate(self) -> float | None:
        """Hz: as written, or on average over the timestamps; None for an unknown one."""
        if "timestamps" in self.group:
            stamps = self.group["timestamps"]
            if stamps.shape[0] < 2:
                return None
            seconds = float(stamps[-1]) - float(stamps[0])
            return (stamps.shape[0] - 1) / seconds if seconds > 0 else None
        return float(self.group["starting_time"].attrs.get("rate", np.nan)) if "starting_time" in self.group else None

    def times(self) -> np.ndarray:
        """Seconds of its samples, float64 `[T]`.

        Raises:
            ValueError: neither timestamps nor a rate, or not as many as samples.
        """
        n = self.shape[0]
        if "timestamps" in self.group:
            stamps = np.asarray(self.group["timestamps"][()], dtype=np.float64)
            if stamps.shape != (n,):
                swapped = len(self.shape) > 1 and len(stamps) == self.shape[1]
                hint = "its axes look swapped: time comes first in NWB" if swapped else "one of them is incomplete"
                raise ValueError(f"{self.path}: {len(stamps)} timestamps for data of shape {self.shape}; {hint}.")
            return stamps
        rate = self.rate
        if rate is None or not np.isfinite(rate) or rate <= 0:
            raise ValueError(f"{self.path}: neither timestamps nor a rate above 0 Hz; add one of them to the series.")
        return float(self.group["starting_time"][()]) + np.arange(n) / rate

    def array(self, *, transposed: bool = False) -> Any:
        """Its numbers in their unit, read as they are sliced along time: `[T, S]` or `[T, H, W]`."""
        conversion = float(self.values.attrs.get("conversion", 1.0))
        offset = float(self.values.attrs.get("offset", 0.0))
        if conversion == 1 and offset == 0 and not transposed and len(self.shape) > 1:
            return self.values
        return _Converted(self.values, conversion, offset, transposed)

    def signal(self) -> np.ndarray:
        """One behaviour channel in its unit, `[T]`.

        Raises:
            ValueError: several columns of which none is named, or a column that is not there.
        """
        n_columns = self.shape[1] if len(self.shape) == 2 else 1
        if len(self.shape) > 2 or (self.column is None and n_columns != 1) or (self.column or 0) >= n_columns:
            raise ValueError(
                f"{self.path}: data of shape {self.shape}; name one of its {n_columns} columns as {self.path}[0]."
            )
        return np.asarray(self.array()[:])[:, self.column or 0]


@dataclass
class _Converted:
    """Numbers of a data set times its conversion plus its offset; one signal is one column, `[T, 1]`."""

    values: Any
    conversion: float
    offset: float
    transposed: bool
    dtype: np.dtype = field(init=False)

    def __post_init__(self) -> None:
        scaled = self.conversion != 1 or self.offset != 0
        stored = np.dtype(self.values.dtype)
        self.dtype = np.result_type(stored, np.float32) if scaled else stored

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.values.shape)
        if len(shape) == 1:
            return (*shape, 1)
        return (shape[0], shape[2], shape[1], *shape[3:]) if self.transposed else shape

    def __getitem__(self, part: slice) -> np.ndarray:
        block = np.asarray(self.values[part])
        if self.conversion != 1 or self.offset != 0:
            block = block.astype(self.dtype) * self.dtype.type(self.conversion) + self.dtype.type(self.offset)
        if block.ndim == 1:
            return block[:, None]
        return block.swapaxes(1, 2) if self.transposed else block


@dataclass
class ImageStack:
    """Images `[K, H, W]` that a file holds one by one."""

    images: list[Any]
    transposed: bool = False

    @property
    def dtype(self) -> np.dtype:
        """Type of the first image."""
        return np.dtype(self.images[0].dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """(K, H, W)."""
        size = tuple(self.images[0].shape)
        return (len(self.images), *(size[::-1] if self.transposed else size))

    def __getitem__(self, part: slice) -> np.ndarray:
        block = np.stack([np.asarray(image[()]) for image in self.images[part]])
        return block.swapaxes(1, 2) if self.transposed else block


def all_series(file: Any) -> list[Series]:
    """The time series of a file that can be used here, by path; links to a series are not listed again."""
    found: list[Series] = []

    def visit(name: str, item: Any) -> None:
        if not _is_dataset(item) and "data" in item and _is_dataset(item["data"]) and item["data"].shape:
            found.append(Series(name, item, item["data"]))

    file.visititems(visit)
    return [series for series in found if series.role]


def tables(file: Any) -> dict[str, Any]:
    """The tables of time intervals of a file, path -> group."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if not _is_dataset(item) and "start_time" in item and "stop_time" in item:
            found[name] = item

    file.visititems(visit)
    return found


def read_table(group: Any) -> dict[str, np.ndarray]:
    """Columns of a table, numbers or text, one value a row; columns of lists are left out."""
    n_rows = group["start_time"].shape[0]
    columns = {}
    for name, item in group.items():
        if _is_dataset(item) and item.shape == (n_rows,) and f"{name}_index" not in group and name != "id":
            values = item[()]
            if values.dtype.kind in "OS":
                values = np.array([text_of(value) for value in values])
            columns[name] = values
    return columns


def find_series(file: Any, path: str) -> Series:
    """The series at a path of a mapping: a time series, a container with one, a data set in one, `[column]` behind it.

    Raises:
        ValueError: nothing that can be used is there; the message lists what is.
    """
    match = _COLUMN.fullmatch(path.strip())
    name, column = (match[1], int(match[2])) if match else (path.strip(), None)
    name = name.strip("/")
    item = file.get(name) if name else None
    if item is not None and _is_dataset(item) and item.shape:
        return Series(name, item.parent, item, column)
    if item is not None and not _is_dataset(item):
        if "data" in item and _is_dataset(item["data"]):
            return Series(name, item, item["data"], column)
        inner = [key for key in item if not _is_dataset(item[key]) and "data" in item[key]]
        if len(inner) == 1 and _is_dataset(item[inner[0]]["data"]):
            return Series(f"{name}/{inner[0]}", item[inner[0]], item[inner[0]]["data"], column)
    have = ", ".join(series.path for series in all_series(file)) or "none"
    raise ValueError(f"no time series at {path!r}; the file has: {have}.")
