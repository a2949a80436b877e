"""Responses, eye tracker and treadmill of an experanto session folder, opened from their metadata."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.device_clocks import check_rate, times_are_plausible
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.plausible import doubt_about_axes
from omnimouse.recordings.data.reading import (
    NUMBERS,
    RECOPY,
    absent,
    is_lfs_pointer,
    open_array,
    read_fields,
    read_number,
    shown,
)

RESTORE = "The file belongs to another session or export; restore the right one."

Source = tuple[Path, tuple[int, int], str]
"""File, shape and dtype of an array."""


def load_device(path: Path, name: str, findings: Findings) -> SequenceDevice | None:
    """One sampled device of the session folder `path`; None when a fatal finding stands in the way."""
    folder = _device_folder(path, name, findings)
    if folder is None:
        return None
    file = folder / "meta.yml"
    meta = read_fields(file, findings)
    source = _array_source(folder, meta, findings)
    if meta is None:
        return None
    clock = _clock(file, meta, findings)
    n_signals = read_number(meta, "n_signals", file, findings, integer=True)
    if source is None or clock is None or n_signals is None:
        return None
    (data_file, shape, dtype), (rate, start, end) = source, clock
    nominal, flag, n = meta.get("n_timestamps"), meta.get("is_mem_mapped"), shape[1]
    if n != n_signals:
        swapped = "The axes look swapped: store the array with time along rows."
        do = swapped if shape[0] == n_signals else "Correct n_signals or store the matching array."
        expected = f"{n}, the columns of {data_file.name}"
        findings.fatal(file, "n_signals", expected=expected, found=str(n_signals), do=do)
        return None
    if data_file.suffix == ".npy" and nominal is not None and nominal != shape[0]:
        expected = f"{shape[0]}, the rows of {data_file.name}"
        do = "The array is taken as it is; correct n_timestamps if the file is complete."
        findings.warning(file, "n_timestamps", expected=expected, found=shown(nominal), do=do)
    turned = doubt_about_axes(shape, rate, n_units=_n_units(folder), n_times=nominal if type(nominal) is int else None)
    if turned is not None and turned[1]:
        doubt, _ = turned
        findings.fatal(data_file, "axes", expected=doubt.expected, found=doubt.found, do=doubt.do)
        return None
    check_rate(file, name, shape, rate, end - start, findings)
    return SequenceDevice(
        name=name,
        file=data_file,
        sampling_rate=rate,
        start_time=start,
        end_time=end,
        shape=shape,
        dtype=dtype,
        means=_statistics(folder / "meta/means.npy", n, findings),
        stds=_statistics(folder / "meta/stds.npy", n, findings),
        phase_shifts=_phase_shifts(folder, n, findings) if meta.get("phase_shift_per_signal") else None,
        unit_ids=_unit_ids(folder, meta, n, findings) if name == "responses" else None,
        nominal_rows=nominal if isinstance(nominal, int) else None,
        is_mem_mapped=flag if isinstance(flag, bool) else None,
        channels=_channel_names(file, meta, n, findings) if name != "responses" else None,
    )


def _device_folder(path: Path, name: str, findings: Findings) -> Path | None:
    folder = path / name
    if folder.is_dir():
        return folder
    aliases = sorted(path.glob(f"{name}_*")) if path.is_dir() else []
    if len(aliases) == 1 and aliases[0].is_dir():
        expected, found = f"a folder {name!r}", repr(aliases[0].name)
        findings.info(aliases[0], "folder", expected=expected, found=found, do="It is read in its place.")
        return aliases[0]
    found = f"several of {[alias.name for alias in aliases]}" if aliases else "no such folder"
    findings.fatal(folder, "folder", expected=f"the device folder {name!r}", found=found, do=RECOPY)
    return None


def _n_units(folder: Path) -> int | None:
    """How many signals the files beside the array describe; None where they do not agree, or there are none."""
    arrays = [open_array(folder / f"meta/{name}.npy", Findings()) for name in ("means", "stds", "unit_ids")]
    sizes = {array.size for array in arrays if array is not None}
    return sizes.pop() if len(sizes) == 1 else None


def _channel_names(file: Path, meta: dict[str, Any], n_signals: int, findings: Findings) -> tuple[str, ...] | None:
    """Names of a behaviour device's channels, an addition of this package to the format."""
    names = meta.get("channel_names")
    if names is None:
        return None
    if isinstance(names, list) and len(names) == n_signals and all(isinstance(name, str) and name for name in names):
        return tuple(names)
    do = "Correct the list, or remove it where the channels are the usual ones."
    expected = f"a list of {n_signals} names, one per signal"
    findings.fatal(file, "channel_names", expected=expected, found=shown(names), do=do)
    return None


def _clock(file: Path, meta: dict[str, Any], findings: Findings) -> tuple[float, float, float] | None:
    """Rate in Hz, start and end in seconds of a device that is sampled regularly."""
    modality = meta.get("modality", "sequence")
    if not isinstance(modality, str) or modality.lower() != "sequence":
        findings.fatal(file, "modality", expected="'sequence'", found=shown(modality), do="Export it as a sequence.")
    rate, start, end = (read_number(meta, key, file, findings) for key in ("sampling_rate", "start_time", "end_time"))
    if rate is None or start is None or end is None or not times_are_plausible(file, rate, start, end, findings):
        return None
    return rate, start, end


def _array_source(folder: Path, meta: dict[str, Any] | None, findings: Findings) -> Source | None:
    """A device's array, from the `.npy` header or the metadata of a `.mem` file."""
    npy, mem = folder / "data.npy", folder / "data.mem"
    if npy.is_file():
        if mem.is_file():
            do = "data.npy is read; delete the other one."
            findings.warning(folder, "data", expected="either data.npy or data.mem", found="both", do=do)
        array = open_array(npy, findings)
        if array is None:
            return None
        if array.ndim == 2 and array.shape[0] and array.shape[1]:
            return npy, (array.shape[0], array.shape[1]), str(array.dtype)
        expected, do = "(n_timestamps, n_signals), both at least 1", "Store the array with time along rows."
        findings.fatal(npy, "shape", expected=expected, found=str(array.shape), do=do)
        return None
    if not mem.is_file():
        link = next((file for file in (npy, mem) if file.is_symlink()), None)
        found, do = ("neither", RECOPY) if link is None else absent(link)
        findings.fatal(folder, "data", expected="data.npy or data.mem", found=found, do=do)
        return None
    if is_lfs_pointer(mem):
        findings.fatal(mem, "file", expected="raw numbers", found="a Git LFS pointer", do="Run `git lfs pull`.")
        return None
    return _mem_source(mem, meta, findings) if meta is not None else None


def _mem_source(mem: Path, meta: dict[str, Any], findings: Findings) -> Source | None:
    file = mem.parent / "meta.yml"
    rows = read_number(meta, "n_timestamps", file, findings, integer=True)
    # A faulty n_signals is reported by the caller, which needs it for every kind of file.
    columns = read_number(meta, "n_signals", file, Findings(), integer=True)
    name = meta.get("dtype")
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except Exception:  # TypeError, ValueError or SyntaxError, by what the text looks like
        dtype = None
    if dtype is None or dtype.kind not in NUMBERS:
        found = shown(name) if name is not None else "no such key"
        expected = "the numpy name of a number type, such as 'float32'"
        do = "data.mem has no header: write the dtype it was stored with."
        findings.fatal(file, "dtype", expected=expected, found=found, do=do)
        return None
    if rows is None or columns is None:
        return None
    size, row_bytes = mem.stat().st_size, int(columns) * dtype.itemsize
    if rows >= 1 and columns >= 1 and size == rows * row_bytes:
        return mem, (int(rows), int(columns)), str(dtype)
    implied = size / row_bytes if row_bytes > 0 else 0.0
    whole = f"{implied:.0f}" if implied == int(implied) else f"{implied:.2f}, not a whole number"
    expected = f"{int(rows) * row_bytes} bytes ({rows} x {columns} {dtype})"
    do = f"The size implies {whole} rows; the file is truncated, or n_timestamps, n_signals or dtype is wrong."
    findings.fatal(mem, "size", expected=expected, found=f"{size} bytes", do=do)
    return None


def _one_each(path: Path, n: int, what: str, findings: Findings) -> np.ndarray | None:
    """An array with one number for each of `n` signals, `[n]`; stored as (n,), (1, n) or (n, 1)."""
    array = open_array(path, findings)
    if array is not None and array.size != n:
        expected = f"{n}, one per {what}"
        findings.fatal(path, "length", expected=expected, found=str(array.size), do=RESTORE)
        return None
    return None if array is None else np.array(array).reshape(-1)


def _statistics(path: Path, n_signals: int, findings: Findings) -> np.ndarray | None:
    if path.is_file():
        values = _one_each(path, n_signals, "signal", findings)
        return None if values is None else values.astype(np.float64)
    do = "They are computed from the train tier each time the recording is used."
    findings.warning(path, "file", expected=f"{n_signals} numbers", found="no such file", do=do)
    return None


def _phase_shifts(folder: Path, n_signals: int, findings: Findings) -> np.ndarray | None:
    path = folder / "meta/phase_shifts.npy"
    stored = _one_each(path, n_signals, "signal", findings)
    if stored is None:
        return None
    shifts = stored.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(shifts))
    if not len(bad):
        return shifts
    found = f"{len(bad)} of {n_signals} NaN or infinite, the first of signal {bad[0]}"
    do = "Restore them: no sample of these signals can be looked up."
    findings.fatal(path, "phase shifts", expected="finite seconds", found=found, do=do)
    return None


def _unit_ids(folder: Path, meta: dict[str, Any], n_neurons: int, findings: Findings) -> np.ndarray | None:
    properties = meta.get("neuron_properties")
    named = properties.get("unit_ids") if isinstance(properties, dict) else None
    plain = named is None or (isinstance(named, str) and named.isprintable() and 0 < len(named) <= 200)
    path = folder / (named if isinstance(named, str) and plain else "meta/unit_ids.npy")
    # By its name, since a file may well be a link, as in repositories of git-annex; but none is named elsewhere.
    if plain and Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        return _one_each(path, n_neurons, "neuron", findings) if os.path.lexists(path) else None
    file, expected, do = folder / "meta.yml", "a file in the device folder", "It is not read; unit ids are unknown."
    findings.warning(file, "neuron_properties.unit_ids", expected=expected, found=shown(named), do=do)
    return None
