"""Windows per second, opening time and memory by the format that a recording is stored in. See README.md.

    python benchmarks/formats.py                         # 8,000 neurons, 10 minutes: 3 GB of disk, about 5 minutes
    python benchmarks/formats.py --quick                 # a toy size, to see that everything works
    python benchmarks/formats.py --formats datasets      # one format anew; the others stay as they were measured

Every case runs in a process of its own (`formats_case.py`), one after another, round after round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from floor import Floor, floor
from loader import write_sessions
from machine import markdown_table
from meters import MIB, Row
from running import Parser, describe_run, measured, report, start_case, write_results

from omnimouse import open_recording
from omnimouse.recordings import Recording
from omnimouse.recordings.data.clock import sequence_rows

WINDOW = 60
"""Samples of a window."""

BASELINE = "bare memory map"


def keep_npy(source: Path, target: Path) -> None:
    """The session folder as it is, `responses/data.npy`."""
    target.symlink_to(source, target_is_directory=True)


def write_mem(source: Path, target: Path) -> None:
    """The same with headerless responses, `responses/data.mem`."""
    shutil.copytree(source, target)
    device = target / "responses"
    np.load(device / "data.npy", mmap_mode="r").tofile(device / "data.mem")
    (device / "data.npy").unlink()
    meta = yaml.safe_load((device / "meta.yml").read_text(encoding="utf-8"))
    (device / "meta.yml").write_text(yaml.safe_dump({**meta, "is_mem_mapped": True}), encoding="utf-8")


def write_sensorium(source: Path, target: Path) -> None:
    """The clips of a session as a SENSORIUM 2023 folder, float32, without statistics with a time axis."""
    recording, clips = open_recording(source), 0
    target = target / "dynamic1-1-1-Video-benchmark"
    for kind in ("videos", "responses", "behavior", "pupil_center"):
        (target / "data" / kind).mkdir(parents=True)
    tiers = []
    for trial in recording.trials:
        if trial.modality != "video" or trial.start < recording.start_time or trial.end > recording.end_time:
            continue
        arrays = _clip(recording, trial.start, trial.n_frames)
        arrays["videos"] = np.load(source / "screen/data" / f"{trial.name}.npy").transpose(1, 2, 0)
        for kind, array in arrays.items():
            np.save(target / "data" / kind / f"{clips}.npy", np.ascontiguousarray(array, dtype=np.float32))
        tiers.append(trial.tier)
        clips += 1
    for name, values in (("trials/tiers", np.array(tiers)), ("trials/trial_idx", np.arange(clips)),
                         ("neurons/unit_ids", recording.unit_ids)):  # fmt: skip
        (target / "meta" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(target / "meta" / f"{name}.npy", values)
    means, stds = recording.statistics(recording.responses)
    folder = target / "meta/statistics/responses/all"
    folder.mkdir(parents=True)
    np.save(folder / "mean.npy", means)
    np.save(folder / "std.npy", stds)


def _clip(recording: Recording, start: float, n_frames: int) -> dict[str, np.ndarray]:
    """What the devices recorded during a clip, at 30 Hz, time last."""
    values = []
    for device in recording.devices:
        rows = sequence_rows(start, 30.0, n_frames, device_start=device.start_time,
                             device_rate=device.sampling_rate, time_rule="exact")  # fmt: skip
        values.append(np.asarray(device.read(rows)).T)
    responses, eye, speed = values
    return {"responses": responses, "behavior": np.stack([eye[0], speed[0]]), "pupil_center": eye[2:]}


def write_dataset(source: Path, target: Path) -> None:
    """Tables of Arrow, as `Recording.to_dataset` writes them."""
    open_recording(source).to_dataset(target)


def write_arrays(source: Path, target: Path) -> None:
    """Plain arrays of one HDF5 file, contiguous: responses, displayed frames, behaviour, and when they were."""
    recording = open_recording(source)
    screen, times = recording.screen, recording.screen.timestamps
    target.mkdir()
    with h5py.File(target / "arrays.h5", "w") as file:
        for device in recording.devices:
            data = file.create_dataset(device.name, device.shape, np.dtype(device.dtype))
            for low, block in device.chunks():
                data[low : low + len(block)] = block
            data.attrs["start"], data.attrs["rate"] = device.start_time, device.sampling_rate
        video = file.create_dataset("video", (len(times), 36, 64), np.float32)
        for low in range(0, len(times), 1000):
            video[low : low + 1000] = np.nan_to_num(screen.frames_at(times[low : low + 1000], height=36, width=64))
        file["frame_times"] = times
        tiers = [(trial.start, min(trial.end, times[-1]), trial.tier) for trial in recording.trials if trial.tier]
        file.attrs["trials"] = json.dumps(tiers)


FORMATS: dict[str, Callable[[Path, Path], None]] = {
    "experanto .npy": keep_npy,
    "experanto .mem": write_mem,
    "SENSORIUM 2023": write_sensorium,
    "datasets": write_dataset,
    "arrays of h5py": write_arrays,
}
"""How a format is made of a session folder; `formats_case.open_format` opens what it wrote."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(
        __doc__,
        {
            "neurons": (8000, 300, "neurons of the session"),
            "minutes": (10.0, 2.0, "its length"),
            "cold-windows": (64, 8, "windows read from disk; all of them should cover a small part of the session"),
            "warm-windows": (600, 20, "windows read from the page cache"),
            "memory-windows": (3000, 100, "windows over which memory is watched"),
            "repeats": (3, 1, "rounds; medians are given"),
        },
    )
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="default: all")
    parser.add_argument("--work", type=Path, help="folder of the session, used again (default: a temporary folder)")
    parser.add_argument("--note", default="", help="what else the machine did meanwhile, for the results")
    return parser.options(argv)


def run_case(**case: Any) -> Row:
    """What a case measured, in a new process."""
    return measured(start_case("formats_case.py", **case))


def medians(runs: list[Row]) -> Row:
    """Medians of all numbers of several runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def measure(options: argparse.Namespace, work: Path) -> dict[str, Row]:
    """Writes the session in every format and measures them, round after round."""
    (source,) = write_sessions(work, 1, options.neurons, options.minutes)
    places: dict[str, Path] = {}
    for name in options.formats:
        places[name] = place = Path(source).with_name(name.replace(" ", "-").replace(".", ""))
        if not place.exists():
            print(f"writing {name}", flush=True)
            partial = place.with_name(f"{place.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            FORMATS[name](Path(source), partial)
            os.replace(partial, place)
    common = {name: getattr(options, f"{name}_windows") for name in ("cold", "warm", "memory")}
    runs: dict[str, list[Row]] = {name: [] for name in (BASELINE, *options.formats)}
    for _ in range(options.repeats):
        runs[BASELINE].append(run_case(do="bare", path=source, **common))
        for name, place in places.items():
            runs[name].append(run_case(do="format", format=name, path=str(place), **common))
    return {name: {**medians(found), "runs": found} for name, found in runs.items()}


def format_rows(rows: dict[str, Row]) -> list[str]:
    """A markdown table; ratios are against the bare memory map of the same run."""
    header = ["format", "GB", "open ms", "cold responses/s", "x map", "MB/window", "warm responses/s", "x map",
              "of copy", "warm windows/s", "MiB after the first", "MiB more after all"]  # fmt: skip
    cells = []
    for name, row in rows.items():
        base = row.get("baseline", row)
        whole = "windows_per_second" in row
        cells.append(
            [
                name,
                f"{row['bytes'] / 1e9:.2f}",
                f"{1000 * row['open_seconds']:.1f}",
                f"{row['cold_per_second']:.0f}",
                f"{row['cold_per_second'] / base['cold_per_second']:.2f}",
                f"{row['disk_bytes_per_window'] / 1e6:.2f}",
                f"{row['warm_per_second']:.0f}",
                f"{row['warm_per_second'] / base['warm_per_second']:.2f}",
                _share_of_copy(row),
                f"{row['windows_per_second']:.0f}" if whole else "",
                f"{row['memory_first'] / MIB:.1f}",
                f"{row['memory_growth'] / MIB:+.1f}",
            ]
        )
    return markdown_table(header, cells, numbers_from=1)


def _share_of_copy(row: Row) -> str:
    """Of what the machine copies, how much the windows of responses are that were read from the page cache."""
    run = row["run"]
    if "floor" not in run:  # measured before floors were
        return ""
    return f"{Floor(**run['floor']).share(n_bytes=row['warm_per_second'] * WINDOW * 4 * run['neurons']):.0%}"


def results(options: argparse.Namespace, rows: dict[str, Row]) -> dict[str, Any]:
    """What is written: this run's rows, and those of formats that it left out."""
    run = describe_run(floor(quick=options.quick), note=options.note, neurons=options.neurons, minutes=options.minutes)
    base = {name: value for name, value in rows[BASELINE].items() if name != "runs"}
    fresh = {
        name: {**row, "run": run, **({} if name == BASELINE else {"baseline": base})} for name, row in rows.items()
    }
    file = None if options.output is None else options.output / "formats.json"
    old = json.loads(file.read_text(encoding="utf-8"))["rows"] if file is not None and file.is_file() else {}
    both, order = {**old, **fresh}, [BASELINE, *FORMATS]
    return {"rows": {name: both[name] for name in order if name in both}}


def to_markdown(found: dict[str, Any]) -> str:
    """The table and where its rows were measured."""
    places: dict[str, list[str]] = {}
    for name, row in found["rows"].items():
        run = row["run"]
        when = run.get("started", run.get("measured"))
        note = f"; {run['note']}" if run["note"] else ""
        text = (
            f"{run['neurons']:,} neurons, {run['minutes']:g} minutes; {when}: {run['cpu']}, {run['cores']} "
            f"cores, {run['memory_gib']} GiB; torch {run['torch']}; commit {run['commit']}{note}"
        )
        text += f". Floor: {Floor(**run['floor']).sentence()}" if "floor" in run else ""
        places.setdefault(text, []).append(name)
    lines = [[f"{', '.join(names)}: {text}."] for text, names in places.items()]
    return report("Recordings by format", "formats.py", format_rows(found["rows"]), *lines)


def main() -> None:
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        rows = measure(options, work)
    found = results(options, rows)
    print(to_markdown(found))
    write_results(options.output, "formats", to_markdown(found), found)


if __name__ == "__main__":
    main()
