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
    RECOPY,
    absent,
    is_lfs_pointer,
    open_array,
    read_mapping,
    read_number,
    shown,
)


def _device_folder(path: Path, name: str, findings: Findings) -> Path | None:
    folder = path / name
    if folder.is_dir():
        return folder
    aliases = sorted(path.glob(f"{name}_*")) if path.is_dir() else []
    if len(aliases) == 1 and aliases[0].is_dir():
        findings.info(
            aliases[0],
            "folder",
            expected=f"a folder {name!r}",
            found=repr(aliases[0].name),
            do="It is read in its place.",
        )
        return aliases[0]
    found = f"several of {[alias.name for alias in aliases]}" if aliases else "no such folder"
    findings.fatal(folder, "folder", expected=f"the device folder {name!r}", found=found, do=RECOPY)
    return None


def load_device(path: Path, name: str, findings: Findings) -> SequenceDevice | None:
    """One sampled device of the session folder `path`; None when a fatal finding stands in the way."""
    folder = _device_folder(path, name, findings)
    if folder is None:
        return None
    file = folder / "meta.yml"
    meta = read_mapping(file, findings)
    array = _array_source(folder, meta, findings)
    if meta is None:
        return None
    clock = _clock(file, meta, findings)
    n_signals = read_number(meta, "n_signals", file, findings, integer=True)
    if array is None or clock is None or n_signals is None:
        return None
    data_file, shape, dtype = array
    rate, start, end = clock
    if shape[1] != n_signals:
        findings.fatal(
            file,
            "n_signals",
            expected=f"{shape[1]}, the columns of {data_file.name}",
            found=str(n_signals),
            do="The axes look swapped: store the array with time along rows."
            if shape[0] == n_signals
            else "Correct n_signals or store the matching array.",
        )
        return None
    nominal = meta.get("n_timestamps")
    if data_file.suffix == ".npy" and nominal is not None and nominal != shape[0]:
        findings.warning(
            file,
            "n_timestamps",
            expected=f"{shape[0]}, the rows of {data_file.name}",
            found=shown(nominal),
            do="The array is taken as it is; correct n_timestamps if the file is complete.",
        )
    swapped = doubt_about_axes(shape, rate, n_units=_n_units(folder), n_times=nominal if type(nominal) is int else None)
    if swapped is not None and swapped[1]:
        doubt, _ = swapped
        findings.fatal(data_file, "axes", expected=doubt.expected, found=doubt.found, do=doubt.do)
        return None
    check_rate(file, name, shape, rate, end - start, findings)
    flag = meta.get("is_mem_mapped")
    return SequenceDevice(
        name=name,
        file=data_file,
        sampling_rate=rate,
        start_time=start,
        end_time=end,
        shape=shape,
        dtype=dtype,
        means=_per_signal(folder / "meta/means.npy", shape[1], findings, missing="statistics"),
        stds=_per_signal(folder / "meta/stds.npy", shape[1], findings, missing="statistics"),
        phase_shifts=_phase_shifts(folder, shape[1], findings) if meta.get("phase_shift_per_signal") else None,
        unit_ids=_unit_ids(folder, meta, shape[1], findings) if name == "responses" else None,
        nominal_rows=nominal if isinstance(nominal, int) else None,
        is_mem_mapped=flag if isinstance(flag, bool) else None,
        channels=_channel_names(file, meta, shape[1], findings) if name != "responses" else None,
    )


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
    findings.fatal(
        file,
        "channel_names",
        expected=f"a list of {n_signals} names, one per signal",
        found=shown(names),
        do="Correct the list, or remove it where the channels are the usual ones.",
    )
    return None


def _clock(file: Path, meta: dict[str, Any], findings: Findings) -> tuple[float, float, float] | None:
    """Rate in Hz, start and end in seconds of a device that is sampled regularly."""
    modality = meta.get("modality", "sequence")
    if not isinstance(modality, str) or modality.lower() != "sequence":
        findings.fatal(file, "modality", expected="'sequence'", found=shown(modality), do="Export it as a sequence.")
    rate = read_number(meta, "sampling_rate", file, findings)
    start = read_number(meta, "start_time", file, findings)
    end = read_number(meta, "end_time", file, findings)
    if rate is None or start is None or end is None or not times_are_plausible(file, rate, start, end, findings):
        return None
    return rate, start, end


def _array_source(
    folder: Path, meta: dict[str, Any] | None, findings: Findings
) -> tuple[Path, tuple[int, int], str] | None:
    """File, shape and dtype of a device's array, from the `.npy` header or the metadata of a `.mem` file."""
    npy, mem = folder / "data.npy", folder / "data.mem"
    if npy.is_file():
        if mem.is_file():
            findings.warning(
                folder,
                "data",
                expected="either data.npy or data.mem",
                found="both",
                do="data.npy is read; delete the other one.",
            )
        array = open_array(npy, findings)
        if array is None:
            return None
        if array.ndim != 2 or not array.shape[0] or not array.shape[1]:
            findings.fatal(
                npy,
                "shape",
                expected="(n_timestamps, n_signals), both at least 1",
                found=str(array.shape),
                do="Store the array with time along rows.",
            )
            return None
        return npy, (array.shape[0], array.shape[1]), str(array.dtype)
    if not mem.is_file():
        link = next((file for file in (npy, mem) if file.is_symlink()), None)
        found, do = ("neither", RECOPY) if link is None else absent(link)
        findings.fatal(folder, "data", expected="data.npy or data.mem", found=found, do=do)
        return None
    if is_lfs_pointer(mem):
        findings.fatal(mem, "file", expected="raw numbers", found="a Git LFS pointer", do="Run `git lfs pull`.")
        return None
    return _mem_source(mem, meta, findings) if meta is not None else None


def _mem_source(mem: Path, meta: dict[str, Any], findings: Findings) -> tuple[Path, tuple[int, int], str] | None:
    file = mem.parent / "meta.yml"
    rows = read_number(meta, "n_timestamps", file, findings, integer=True)
    # A faulty n_signals is reported by the caller, which needs it for every kind of file.
    columns = read_number(meta, "n_signals", file, Findings(), integer=True)
    name = meta.get("dtype")
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except Exception:  # TypeError, ValueError or SyntaxError, by what the text looks like
        dtype = None
    if dtype is None or dtype.kind not in "fiub":
        found = shown(name) if name is not None else "no such key"
        findings.fatal(
            file,
            "dtype",
            expected="the numpy name of a number type, such as 'float32'",
            found=found,
            do="data.mem has no header: write the dtype it was stored with.",
        )
        return None
    if rows is None or columns is None:
        return None
    size, row_bytes = mem.stat().st_size, int(columns) * dtype.itemsize
    if rows < 1 or columns < 1 or size != rows * row_bytes:
        implied = size / row_bytes if row_bytes > 0 else 0.0
        whole = f"{implied:.0f}" if implied == int(implied) else f"{implied:.2f}, not a whole number"
        findings.fatal(
            mem,
            "size",
            expected=f"{int(rows) * row_bytes} bytes ({rows} x {columns} {dtype})",
            found=f"{size} bytes",
            do=f"The size implies {whole} rows; the file is truncated, or n_timestamps, n_signals or dtype is wrong.",
        )
        return None
    return mem, (int(rows), int(columns)), str(dtype)


def _per_signal(path: Path, n_signals: int, findings: Findings, *, missing: str) -> np.ndarray | None:
    """One number per signal, float64 `[S]`; stored as (S,), (1, S) or (S, 1)."""
    if missing == "statistics" and not path.is_file():
        findings.warning(
            path,
            "file",
            expected=f"{n_signals} numbers",
            found="no such file",
            do="They are computed from the train tier each time the recording is used.",
        )
        return None
    array = open_array(path, findings)
    if array is None:
        return None
    if array.size != n_signals:
        findings.fatal(
            path,
            "length",
            expected=f"{n_signals}, one per signal",
            found=str(array.size),
            do="The file belongs to another session or export; restore the right one.",
        )
        return None
    return np.asarray(array, dtype=np.float64).reshape(-1)


def _phase_shifts(folder: Path, n_signals: int, findings: Findings) -> np.ndarray | None:
    path = folder / "meta/phase_shifts.npy"
    shifts = _per_signal(path, n_signals, findings, missing="fatal")
    if shifts is not None and not np.isfinite(shifts).all():
        bad = np.flatnonzero(~np.isfinite(shifts))
        findings.fatal(
            path,
            "phase shifts",
            expected="finite seconds",
            found=f"{len(bad)} of {n_signals} NaN or infinite, the first of signal {bad[0]}",
            do="Restore them: no sample of these signals can be looked up.",
        )
        return None
    return shifts


def _unit_ids(folder: Path, meta: dict[str, Any], n_neurons: int, findings: Findings) -> np.ndarray | None:
    properties = meta.get("neuron_properties")
    named = properties.get("unit_ids") if isinstance(properties, dict) else None
    plain = named is None or (isinstance(named, str) and named.isprintable() and 0 < len(named) <= 200)
    path = folder / (named if isinstance(named, str) and plain else "meta/unit_ids.npy")
    # By its name, since a file may well be a link, as in repositories of git-annex; but none is named elsewhere.
    if not plain or not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        findings.warning(
            folder / "meta.yml",
            "neuron_properties.unit_ids",
            expected="a file in the device folder",
            found=shown(named),
            do="It is not read; unit ids are unknown.",
        )
        return None
    if not os.path.lexists(path):
        return None
    array = open_array(path, findings)
    if array is not None and array.size != n_neurons:
        findings.fatal(
            path,
            "length",
            expected=f"{n_neurons}, one per neuron",
            found=str(array.size),
            do="The file belongs to another session or export; restore the right one.",
        )
        return None
    return None if array is None else np.array(array).reshape(-1)
