"""Time series of NWB files: finding them by what they hold, their clocks, and their numbers in their units.

Shape letters: T samples, S signals, K stored frames, H and W their pixels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.plausible import doubt_about_duration, doubt_about_rate, doubt_about_times
from omnimouse.recordings.nwb.nwb_file import attribute, child, is_dataset, neurodata_type, path_of, text_of, walk
from omnimouse.support.spreading import listed

_PART = re.compile(r"(.*)\[\s*(\d+)\s*(,\s*:\s*)?\]")
_IMAGING = ("TwoPhotonSeries", "OnePhotonSeries")

TIME_UNITS = {
    **dict.fromkeys(("", "n/a", "n.a.", "na", "none", "unknown", "unspecified"), 1.0),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "usec", "\u00b5s", "\u03bcs", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
}
"""Unit of time stamps, as files write it or leave it open -> seconds."""

CORRECT = "Correct the file (h5py can), or read it and call recording_from_arrays."


def is_indexed(group: Any) -> bool:
    """Whether a series says which image of another object was shown when."""
    return neurodata_type(group) == "IndexSeries" or "indexed_timeseries" in group or "indexed_images" in group


@dataclass
class Series:
    """A data set and the group that has its clock."""

    path: str  # as messages and mappings write it
    group: Any
    values: Any
    column: int | None = None  # the one that is meant, None for all
    turned: bool = False  # whether time is the second axis of the stored numbers

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers, time first."""
        shape = tuple(self.values.shape)
        return shape[1::-1] if self.turned and len(shape) == 2 else shape

    @property
    def unit(self) -> str:
        """Unit as written, or ""."""
        return text_of(self.values.attrs.get("unit", ""))

    @property
    def role(self) -> str:
        """What it can be used as: "responses", "video", "behavior", or "" for nothing here."""
        if self.values.dtype.kind not in "fiu":
            return ""
        if "rois" in self.group or neurodata_type(self.group) == "RoiResponseSeries":
            return "responses"
        if is_indexed(self.group) or "external_file" in self.group:
            return "video"
        if len(self.shape) in (3, 4):
            return "" if neurodata_type(self.group) in _IMAGING or "imaging_plane" in self.group else "video"
        has_clock = "timestamps" in self.group or "starting_time" in self.group
        return "behavior" if len(self.shape) in (1, 2) and has_clock and self.shape[0] else ""

    @property
    def n_stamps(self) -> int | None:
        """How many time stamps it has, None for none."""
        stamps = child(self.group, "timestamps")
        return int(stamps.shape[0]) if stamps is not None and stamps.shape else None

    @property
    def rate(self) -> float | None:
        """Hz: as written, or on average over the timestamps; None for an unknown one."""
        try:
            stamps, start = child(self.group, "timestamps"), child(self.group, "starting_time")
            if stamps is None:
                return None if start is None else attribute(start, "rate", np.nan)
            seconds = (float(stamps[-1]) - float(stamps[0])) * seconds_of(stamps) if stamps.shape[0] > 1 else 0.0
        except (ValueError, TypeError, LookupError):
            return None
        return (stamps.shape[0] - 1) / seconds if seconds > 0 else None

    def times(self, kind: str = "behavior") -> np.ndarray:
        """Seconds of its samples, float64 `[T]`; `kind` says what of: "responses", "behavior" or "video".

        Raises:
            ValueError: neither timestamps nor a rate, not as many as samples, or none that can be seconds.
        """
        check_stored(self.values)
        n = self.shape[0]
        stamps, start = child(self.group, "timestamps"), child(self.group, "starting_time")
        if stamps is not None:
            return self._stamps(stamps, n, kind)
        rate = np.nan if start is None else attribute(start, "rate", np.nan)
        if not rate > 0:
            raise ValueError(f"{self.path}: neither timestamps nor a rate above 0 Hz; add one of them to the series.")
        for doubt in (doubt_about_rate(rate, kind), doubt_about_duration(n, rate)):
            if doubt is not None:
                raise ValueError(f"{self.path}: {doubt} {CORRECT}")
        first = np.asarray(start[()]).reshape(-1)
        if len(first) != 1 or first.dtype.kind not in "fiu" or not np.isfinite(first[0]):
            raise ValueError(f"{path_of(start)}: {text_of(first) or first}, expected a number of seconds. {CORRECT}")
        return float(first[0]) * seconds_of(start) + np.arange(n) / rate

    def _stamps(self, stamps: Any, n: int, kind: str) -> np.ndarray:
        if stamps.shape != (n,):
            n_stamps = stamps.shape[0] if stamps.shape else 1
            swapped = len(self.shape) > 1 and n_stamps == self.shape[-1 if len(self.shape) > 2 else 1]
            hint = "its axes look swapped: time comes first in NWB" if swapped else "one of them is incomplete"
            raise ValueError(f"{self.path}: {n_stamps} timestamps for data of shape {self.shape}; {hint}.")
        check_stored(stamps)
        times = np.asarray(stamps[()], dtype=np.float64) * seconds_of(stamps)
        doubt = doubt_about_times(times, kind)
        if doubt is not None:
            raise ValueError(f"{path_of(stamps)}: {doubt} {CORRECT}")
        return times

    def in_units(self, source: Any, *, columns: np.ndarray | None = None, transposed: bool = False) -> Any:
        """What holds its stored numbers, in their unit and with NaN for what the file says is no value.

        `source` is sliced along time, `[T]`, `[T, S]` or `[T, H, W]`, and has these `columns` of the signals, or all;
        `transposed` swaps its last two axes.
        """
        factor: Any = attribute(self.values, "conversion", 1.0)
        offset = attribute(self.values, "offset", 0.0)
        if factor == 0:
            raise ValueError(f"{self.path}: its conversion is 0, which leaves nothing of it. Correct the file.")
        own = child(self.group, "channel_conversion")
        if own is not None and len(self.shape) == 2 and own.shape == self.shape[1:]:
            factor = factor * np.asarray(own[()])[slice(None) if columns is None else columns]
        missing = no_values(self.values)
        if np.all(factor == 1) and offset == 0 and not missing and not transposed and len(source.shape) > 1:
            return source
        return Converted(source, factor, offset, missing, transposed)

    def signal(self) -> np.ndarray:
        """One behaviour channel in its unit, `[T]`, NaN where the file says that there is no value.

        Raises:
            ValueError: several columns of which none is named, a column that is not there, or swapped axes.
        """
        n_columns = self.shape[1] if len(self.shape) == 2 else 1
        if len(self.shape) == 2 and self.shape[0] < n_columns:
            raise ValueError(
                f"{self.path}: data of shape {self.shape}, {self.shape[0]} samples of {n_columns} signals, so its axes "
                f"look swapped: time comes first in NWB. If so, name a row of it in a mapping, as {self.path}[0, :]."
            )
        if len(self.shape) > 2 or (self.column is None and n_columns != 1) or (self.column or 0) >= n_columns:
            named, example = ("rows", "[0, :]") if self.turned else ("columns", "[0]")
            raise ValueError(
                f"{self.path}: data of shape {tuple(self.values.shape)}; name one of its {n_columns} {named} as "
                f"{self.path}{example}."
            )
        check_stored(self.values)
        column = self.column or 0
        part: Any = () if len(self.shape) == 1 else (column, slice(None)) if self.turned else (slice(None), column)
        return self.in_units(np.asarray(self.values[part]), columns=np.array([column]))[:][:, 0]


def seconds_of(clock: Any) -> float:
    """Seconds of one unit of a clock's data set; a unit that is none of time is refused."""
    unit = text_of(clock.attrs.get("unit", "")).strip()
    if unit.lower() not in TIME_UNITS:
        raise ValueError(f"{path_of(clock)}: times in {unit!r}, expected seconds. {CORRECT}")
    return TIME_UNITS[unit.lower()]


def check_stored(values: Any) -> None:
    """Raises ValueError where a data set has room for values that were never written or lie in files that are gone.

    HDF5 reads zeros there. Whatever is read is thereby no more than what the file holds.
    """
    if values.is_virtual:
        here = Path(values.file.filename).parent
        names = {source.file_name for source in values.virtual_sources() if "%b" not in source.file_name} - {"."}
        gone = sorted(name for name in names if not (here / name).exists() and not Path(name).exists())
        if gone:
            raise ValueError(
                f"{path_of(values)}: its values lie in other files, of which {len(gone)} cannot be read "
                f"({listed(gone, 5)}). Put them where they belong."
            )
    elif not values.external and values.size:
        n_chunks, written = 1, int(values.id.get_storage_size() > 0)
        if values.chunks:
            grid = [-(-n // chunk) for n, chunk in zip(values.shape, values.chunks, strict=True)]
            n_chunks, written = int(np.prod(grid, dtype=object)), values.id.get_num_chunks()
        if written < n_chunks:
            raise ValueError(
                f"{path_of(values)}: room for {' x '.join(map(str, values.shape))} values, but only {written} of "
                f"{n_chunks} parts of it were ever written; the rest reads as {values.fillvalue}. The file was not "
                "finished: export it again, or read what is there and call recording_from_arrays."
            )


def no_values(values: Any) -> tuple[float, ...]:
    """Numbers that stand for a missing value in a data set, as its attributes or its own fill value say."""
    named = [values.attrs[name] for name in ("_FillValue", "missing_value") if name in values.attrs]
    # 2: set by whoever made the data set. Zero is what HDF5 fills with anyway, and a value like any other.
    if values.id.get_create_plist().fill_value_defined() == 2 and values.fillvalue != 0:
        named.append(values.fillvalue)
    found = [number for each in named for number in np.asarray(each).reshape(-1)]
    return tuple(dict.fromkeys(float(n) for n in found if np.asarray(n).dtype.kind in "fiu" and not np.isnan(n)))


@dataclass
class Turned:
    """A data set `[S, T]` as `[T, S]`."""

    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[::-1])

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.values.dtype)

    def __getitem__(self, part: slice) -> np.ndarray:
        return np.ascontiguousarray(self.values[:, part].T)


@dataclass
class Converted:
    """Numbers times their factor plus their offset, NaN where one is written for no value; a vector is one column."""

    source: Any  # sliced along time
    factor: Any = 1.0  # one for all, or one for each signal `[S]`
    offset: float = 0.0
    missing: tuple[float, ...] = ()  # stored numbers that stand for no value
    transposed: bool = False  # whether the last two axes are swapped

    def __post_init__(self) -> None:
        stored = np.dtype(self.source.dtype)
        self.scaled = not np.all(self.factor == 1) or self.offset != 0
        self.dtype = np.result_type(stored, np.float32) if self.scaled or self.missing else stored

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.source.shape)
        if len(shape) == 1:
            return (*shape, 1)
        return (shape[0], shape[2], shape[1], *shape[3:]) if self.transposed else shape

    def __getitem__(self, part: slice) -> np.ndarray:
        stored = np.asarray(self.source[part])
        block = stored.astype(self.dtype)
        if self.scaled:
            block = block * np.asarray(self.factor, dtype=self.dtype) + self.dtype.type(self.offset)
        for number in self.missing:
            # As the stored type rounds it: -9999.9 of a float32 is another float64.
            with np.errstate(invalid="ignore"):
                as_stored = np.asarray(number).astype(stored.dtype)
            if stored.dtype.kind == "f" or as_stored == number:
                block[stored == as_stored] = np.nan
        if block.ndim == 1:
            return block[:, None]
        return block.swapaxes(1, 2) if self.transposed else block


def all_series(file: Any) -> list[Series]:
    """The time series of a file that can be used here, by path; links to a series are not listed again."""
    groups, broken = walk(file)
    found = [
        Series(path, group, group["data"])
        for path, group in groups.items()
        if "data" in group and f"{path}/data" not in broken and is_dataset(group["data"]) and group["data"].shape
    ]
    return [series for series in found if series.role]


def find_series(file: Any, path: str) -> Series:
    """The series at a path of a mapping: a time series, a container with one, or a data set in one.

    `[3]` behind it names a column, `[3, :]` a row where time is the second axis.

    Raises:
        ValueError: nothing that can be used is there; the message lists what is.
    """
    match = _PART.fullmatch(path.strip())
    name, column, turned = (match[1], int(match[2]), bool(match[3])) if match else (path.strip(), None, False)
    name = name.strip("/")
    item, group, values = child(file, name) if name else None, None, None
    if item is not None and is_dataset(item) and item.shape:
        group, values = file["/" + name.rpartition("/")[0]], item
    elif item is not None and not is_dataset(item):
        if "data" in item and is_dataset(child(item, "data")):
            group, values = item, item["data"]
        else:
            inner = [key for key in item if not is_dataset(child(item, key)) and "data" in item[key]]
            if len(inner) == 1 and is_dataset(item[inner[0]]["data"]):
                name, group, values = f"{name}/{inner[0]}", item[inner[0]], item[inner[0]]["data"]
    if values is None:
        have = ", ".join(series.path for series in all_series(file)) or "none"
        raise ValueError(f"no time series at {path!r}; the file has: {have}.{broken_links(file)}")
    if not values.shape or values.dtype.kind not in "fiu":
        found = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"{name}: {found}, expected numbers over time. Name another series.")
    return Series(name, group, values, column, turned)


def broken_links(file: Any) -> str:
    """What links of a file lead nowhere, as an end of a message; "" where all do."""
    return "".join(f" {path} {text}" for path, text in list(walk(file)[1].items())[:3])
