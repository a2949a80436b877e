"""Tables of NWB files: columns read as what they mean, coded ones as their labels, and what is missing as None."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from omnimouse.recordings.data.missing import no_value
from omnimouse.recordings.data.plausible import identity
from omnimouse.recordings.nwb.nwb_file import child, is_dataset, neurodata_type, path_of, referred, text_of, walk
from omnimouse.recordings.nwb.series import check_stored, seconds_of

_LABELS = ("elements", "categories", "levels")
"""Attributes of a column of codes that hold, or point to, what the codes mean."""


@dataclass
class Table:
    """A table's columns: numbers, texts and truth values, None where one is missing."""

    path: str
    columns: dict[str, list[Any]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)  # name -> why a column has not one value a row

    def column(self, name: str) -> list[Any]:
        """A column by its name; refused where there is none, or it has not one value a row."""
        if name in self.unread:
            raise ValueError(f"{self.path}: column {name!r} {self.unread[name]}. Name another column in the mapping.")
        if name not in self.columns:
            have = ", ".join(self.columns)
            raise ValueError(f"{self.path}: no column {name!r}; it has {have}. Correct the mapping.")
        return self.columns[name]

    def first(self, names: tuple[str, ...]) -> str | None:
        """The first of some names that a column has, readable or not."""
        return next((name for name in names if name in self.columns or name in self.unread), None)


def tables(file: Any) -> dict[str, Any]:
    """The tables of time intervals of a file, path -> group."""
    return {path: group for path, group in walk(file)[0].items() if "start_time" in group and "stop_time" in group}


def read_table(group: Any) -> Table:
    """All columns of a table of time intervals.

    Raises:
        ValueError: its start and stop times are no columns of numbers of one length, or a column is damaged.
    """
    table = Table(path_of(group))
    start, stop = child(group, "start_time"), child(group, "stop_time")
    for name, item in (("start_time", start), ("stop_time", stop)):
        if not is_dataset(item) or not item.shape or len(item.shape) != 1 or item.dtype.kind not in "fiu":
            raise ValueError(f"{table.path}: {name} is no column of numbers. Correct the file.")
    if start.shape != stop.shape:
        raise ValueError(f"{table.path}: {len(start)} start times and {len(stop)} stop times. Correct the file.")
    for name in group:
        item = child(group, name)
        if not is_dataset(item) or item.shape is None or name == "id" or neurodata_type(item) == "VectorIndex":
            continue
        if any(f"{name}_{end}" in group for end in ("index", "index_index")):
            column = _ragged(group, name, len(start))
        elif item.shape == (len(start),) and _readable(item):
            scale = seconds_of(item) if name in ("start_time", "stop_time") else None
            column = decoded(item)
            column = column if scale is None else [None if value is None else value * scale for value in column]
        elif item.shape and item.shape[0] == len(start):
            column = f"has {item.dtype} of shape {item.shape}, not one number or text a row"
        else:
            continue  # such as the labels of a column of codes
        if isinstance(column, str):
            table.unread[name] = column
        else:
            table.columns[name] = column
    return table


def _readable(item: Any) -> bool:
    if item.dtype.kind == "O":  # references are objects too
        return (item.dtype.metadata or {}).get("vlen") in (str, bytes)
    return item.dtype.kind in "fiubS"


def _ragged(group: Any, name: str, n_rows: int) -> list[Any] | str:
    """A column of lists where each list has at most one value; else why it cannot be read."""
    why = "has a list of values a row"
    if f"{name}_index_index" in group:
        return "has lists of lists"
    item, index = child(group, name), child(group, f"{name}_index")
    if index.shape != (n_rows,) or index.dtype.kind not in "iu" or len(item.shape) != 1 or not _readable(item):
        return why
    ends = np.asarray(index[()], dtype=np.int64)
    lengths = np.diff(ends, prepend=0)
    if (lengths < 0).any() or (n_rows and ends[-1] > len(item)):
        raise ValueError(f"{path_of(index)}: it counts values that {name} does not have. Correct the file.")
    if (lengths > 1).any():
        return f"{why}, up to {lengths.max()}"
    values = decoded(item)
    return [values[end - 1] if length else None for end, length in zip(ends, lengths, strict=True)]


def decoded(item: Any) -> list[Any]:
    """A column `[rows]` as what its values mean.

    Codes become their labels (of an HDF5 enumeration, or as `elements` or `categories` of the column say), rows of
    another table that table's ids, or its labels where it has one column of them. What identifies nothing is None.

    Raises:
        ValueError: codes without a label, or references to nothing.
    """
    check_stored(item)
    stored = item[()]
    names = (item.dtype.metadata or {}).get("enum")
    if names is not None:
        labels_of = {code: str(name) for name, code in names.items()}
        return [labels_of.get(code) for code in stored.tolist()]
    if stored.dtype.kind in "SO":
        return [None if identity(text_of(value)) is None else text_of(value) for value in stored]
    if stored.dtype.kind == "b":
        return stored.tolist()
    if neurodata_type(item) == "DynamicTableRegion" or "table" in item.attrs:
        return _of_rows(item, stored)
    name = next((name for name in _LABELS if name in item.attrs), None)
    if name is not None:
        held = item.attrs[name]
        labels = [text_of(value) for value in np.asarray(held).reshape(-1)]
        if type(held).__name__ == "Reference":
            labels = decoded(referred(item, held, name))
        return _of_codes(item, stored, labels, "labels")
    missing = no_value(stored)
    if stored.dtype.kind in "iu" and stored.dtype.itemsize > 1:  # what NaN becomes when it is cast to integers
        limits = np.iinfo(stored.dtype)
        missing = missing | (stored == (limits.min if stored.dtype.kind == "i" else limits.max))
    return [None if lost else value for value, lost in zip(stored.tolist(), missing, strict=True)]


def _of_codes(item: Any, codes: np.ndarray, labels: list[Any], what: str) -> list[Any]:
    """The labels of codes; -1 and the largest code of an unsigned type stand for no label."""
    lost = codes == -1 if codes.dtype.kind != "u" else (codes == np.iinfo(codes.dtype).max) & (codes >= len(labels))
    if codes.dtype.kind == "f":
        lost = lost | np.isnan(codes)
    whole = codes[~lost]
    if (whole != np.floor(whole)).any() or (whole < 0).any() or (whole >= len(labels)).any():
        raise ValueError(f"{path_of(item)}: codes up to {whole.max()} for {len(labels)} {what}. Correct the file.")
    return [None if gone else labels[int(code)] for code, gone in zip(codes.tolist(), lost.tolist(), strict=True)]


def _of_rows(item: Any, rows: np.ndarray) -> list[Any]:
    """What rows of another table are called: by its only column, else by their ids."""
    if "table" not in item.attrs:
        raise ValueError(f"{path_of(item)}: rows of another table, but it does not say of which. Correct the file.")
    target = referred(item, item.attrs["table"], "table")
    ids = child(target, "id")
    if ids is None:
        raise ValueError(f"{path_of(item)}: the table it points to has no ids. Correct the file.")
    single = [column for column in (child(target, name) for name in target if name != "id") if is_dataset(column)]
    named = len(single) == 1 and single[0].shape == ids.shape and _readable(single[0])
    labels = decoded(single[0]) if named else np.asarray(ids[()]).tolist()
    return _of_codes(item, rows, labels, f"rows of {path_of(target)}")
