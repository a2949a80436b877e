"""One case of `formats.py`, in a process of its own: prints what it measured as JSON.

python benchmarks/formats_case.py '{"do": "format", "format": "datasets", "path": "FOLDER", ...}'
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from loader_case import bytes_from_disk, drop_cache, files_of, read_through
from meters import answer, memory

LENGTH = 60
"""Response samples of a window."""

OPENINGS = 5


def open_format(name: str, path: Path) -> Any:
    """Opens a recording of a format."""
    from omnimouse import open_recording

    if (path / "arrays.h5").exists():
        return open_arrays(path / "arrays.h5")
    inner = [entry for entry in path.iterdir() if entry.name.startswith("dynamic")]
    return open_recording(inner[0] if inner else path)


def open_arrays(path: Path) -> Any:
    """Opens the arrays that `formats.write_arrays` wrote."""
    import h5py

    from omnimouse import recording_from_arrays

    file = h5py.File(path, "r")
    times = {"video": file["frame_times"][:]}
    for name, clock in (("responses", "responses"), ("eye_tracker", "behavior"), ("treadmill", "running_speed")):
        times[clock] = file[name].attrs["start"] + np.arange(len(file[name])) / file[name].attrs["rate"]
    eye, channels = file["eye_tracker"][:], ("pupil_size", "pupil_size_derivative", "gaze_x", "gaze_y")
    return recording_from_arrays(
        file["responses"],
        times=times,
        video=file["video"],
        behavior={**dict(zip(channels, eye.T, strict=True)), "running_speed": file["treadmill"][:, 0]},
        trials=json.loads(file.attrs["trials"]),
    )


def measure(case: dict[str, Any], read: Callable[[int], np.ndarray], starts: np.ndarray) -> dict[str, float]:
    """Copies response windows that begin at random rows among `starts`: cold, warm, and for memory."""
    files, rng = files_of([case["path"]]), np.random.default_rng(0)
    chosen = {state: rng.choice(starts, case[state]) for state in ("cold", "warm", "memory")}
    out = np.empty((LENGTH, read(int(starts[0])).shape[1]), np.float32)
    found: dict[str, float] = {"bytes": sum(path.stat().st_size for path in files)}
    for state in ("cold", "warm"):
        drop_cache(files) if state == "cold" else read_through(files)
        disk, begin = bytes_from_disk(), time.perf_counter()
        for start in chosen[state]:
            np.copyto(out, read(int(start)))
        found[f"{state}_per_second"] = case[state] / (time.perf_counter() - begin)
        if state == "cold":
            found["disk_bytes_per_window"] = (bytes_from_disk() - disk) / case[state]
    first = memory()["anon"]
    for start in chosen["memory"]:
        np.copyto(out, read(int(start)))
    return {**found, "memory_growth": memory()["anon"] - first}


def bare(case: dict[str, Any]) -> dict[str, float]:
    """Rows of a memory map of the responses, and nothing else."""
    path, times, before = Path(case["path"]) / "responses/data.npy", [], memory()["anon"]
    for _ in range(OPENINGS):
        begin = time.perf_counter()
        array = np.load(path, mmap_mode="r")
        times.append(time.perf_counter() - begin)
    read_first = np.array(array[:LENGTH])
    opened = {"open_seconds": statistics.median(times), "memory_first": memory()["anon"] - before}
    del read_first
    starts = np.arange(len(array) - LENGTH)
    return {**opened, **measure(case, lambda start: array[start : start + LENGTH], starts)}


def format(case: dict[str, Any]) -> dict[str, float]:
    """The responses, and whole windows, of an opened recording."""
    from omnimouse import OmniMouseProcessor, Windows

    times = []
    open_format(case["format"], Path(case["path"])).responses.read(np.arange(LENGTH))  # imports what it needs
    before = memory()["anon"]
    for _ in range(OPENINGS):
        begin = time.perf_counter()
        recording = open_format(case["format"], Path(case["path"]))
        times.append(time.perf_counter() - begin)
    device = recording.responses
    device.read(np.arange(LENGTH))
    opened = {"open_seconds": statistics.median(times), "memory_first": memory()["anon"] - before}
    starts = np.concatenate([np.arange(first, last - LENGTH) for first, last in device.segments()])
    found = measure(case, lambda start: device.read(np.arange(start, start + LENGTH)), starts)
    windows = Windows(recording, "train", processor=OmniMouseProcessor("strict"), quiet=True)
    chosen = np.random.default_rng(1).integers(len(windows), size=case["warm"])
    begin = time.perf_counter()
    for index in chosen:
        windows[int(index)]
    seconds = time.perf_counter() - begin
    return {**opened, **found, "windows_per_second": case["warm"] / seconds}


if __name__ == "__main__":
    answer(bare, format)
