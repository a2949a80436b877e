"""Windows per second and memory of the pre-training loader, against what the model consumes. See README.md.

    python benchmarks/loader.py              # four sessions of 8,000 neurons: 3 GB of disk, about 12 minutes
    python benchmarks/loader.py --quick      # a toy size, to see that everything works
    python benchmarks/loader.py --parts memory    # one part anew; the others stay as they were measured

Every case runs in a process of its own (`loader_case.py`), one after another; only those that watch memory run side by
side.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from floor import Floor, floor
from machine import markdown_table, replace_file
from meters import MIB, Row
from running import Parser, describe_run, measured, report, start_case

from omnimouse import simulate_recording
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.formats.experanto.session_writer import write_sequence_meta
from omnimouse.recordings.simulation.simulated import truth_folder

SIMULATED = 250
"""Neurons that are simulated; larger populations repeat them."""

SMALL_NEURONS, TINY_NEURONS = 200, 16
"""Neurons of the sessions that a loader, and a training of a tiny model, go through for many steps."""

MASKS = ("stimulus+behavior", "forecasting+stimulus+behavior")
"""Both need responses, video and behavior."""

PARTS = ("loaders", "model", "memory")
WORKERS = (0, 1, 2, 4)
DEFAULT_WORKERS = 2


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(
        __doc__,
        {
            "sessions": (4, 2, "sessions that windows are read from"),
            "neurons": (8000, 300, "neurons of each"),
            "minutes": (10.0, 2.0, "length of each"),
            "cold-steps": (20, 4, "steps read from disk; all of them should cover a small part of the sessions"),
            "warm-steps": (60, 4, "steps read from the page cache"),
            "repeats": (3, 1, "runs of each loader; medians are given"),
            "preset": ("5m", "tiny", "size of the model that consumes"),
            "model-steps": (2, 2, "steps of the model for each mask; the first is left out"),
            "small-sessions": (64, 6, "small sessions that a loader goes through; a training: a quarter"),
            "memory-steps": (10_000, 40, "steps of a small loader and of a small training"),
            "large-memory-steps": (3000, 20, "steps of a loader of the large sessions"),
        },
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the model (default: cpu)")
    parser.add_argument("--work", type=Path, help="folder of the sessions, used again (default: a temporary folder)")
    return parser.options(argv)


def write_sessions(folder: Path, count: int, n_neurons: int, minutes: float) -> list[str]:
    """Writes the large sessions that are not there yet, each a simulation of its own."""
    folder = folder / f"{n_neurons}-neurons-{minutes:g}-minutes"
    places = [folder / f"session-{i:02d}" for i in range(count)]
    for i, place in enumerate(places):
        if place.exists():
            continue
        print(f"writing {place.name} of {count}: {n_neurons:,} neurons, {minutes:g} minutes", flush=True)
        partial = place.with_name(f"{place.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        _simulate(partial, i, min(n_neurons, SIMULATED), minutes, animal=f"large{i:02d}")
        if n_neurons > SIMULATED:
            widen(partial, n_neurons, seed=i)
        os.replace(partial, place)
    return [str(place) for place in places]


def write_copies(folder: Path, count: int, n_neurons: int, minutes: float) -> list[str]:
    """Writes the small sessions that are not there yet: one simulation under many keys."""
    folder = folder / f"{n_neurons}-neurons-{minutes:g}-minutes-copied"
    first = folder / "session-00"
    if not first.exists():
        partial = folder / "session-00.partial"
        shutil.rmtree(partial, ignore_errors=True)
        _simulate(partial, 0, n_neurons, minutes, animal="small")
        os.replace(partial, first)
    for i in range(1, count):
        place, partial = folder / f"session-{i:02d}", folder / f"session-{i:02d}.partial"
        if not place.exists():
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(first, partial)
            scan_key = {"animal_id": f"small{i // 4:02d}", "session": i + 1, "scan_idx": 1}
            (partial / "meta.json").write_text(json.dumps({"scan_key": scan_key}), encoding="utf-8")
            os.replace(partial, place)
    return [str(folder / f"session-{i:02d}") for i in range(count)]


def _simulate(place: Path, seed: int, n_neurons: int, minutes: float, *, animal: str) -> None:
    shutil.rmtree(truth_folder(place), ignore_errors=True)
    simulate_recording(place, seed, n_neurons=n_neurons, minutes=minutes, animal=animal)
    shutil.rmtree(truth_folder(place))


def widen(folder: Path, n_neurons: int, *, seed: int) -> None:
    """Repeats the neurons of a session up to a number, each sample times noise between a half and one and a half."""
    device, rng = folder / "responses", np.random.default_rng(seed)
    narrow, meta = np.load(device / "data.npy"), yaml.safe_load((device / "meta.yml").read_text(encoding="utf-8"))
    source, shape = np.arange(n_neurons) % narrow.shape[1], (len(narrow), n_neurons)
    out = np.lib.format.open_memmap(device / "data.npy.partial", "w+", np.float32, shape)
    total, squares = np.zeros((2, 1, n_neurons))
    for low in range(0, len(narrow), 1024):
        block = narrow[low : low + 1024, source]
        block *= rng.random(block.shape, dtype=np.float32) + np.float32(0.5)
        out[low : low + 1024] = block
        total += block.sum(axis=0, dtype=np.float64)
        squares += np.square(block).sum(axis=0, dtype=np.float64)
    out.flush()
    os.replace(device / "data.npy.partial", device / "data.npy")
    means = total / shape[0]
    coordinates = np.load(device / "meta" / "cell_motor_coordinates.npy")[source]
    stds = np.sqrt(squares / shape[0] - means**2)
    responses = SequenceDevice(
        "responses", device / "data.npy", meta["sampling_rate"], meta["start_time"], meta["end_time"], shape, "float32",
        means, stds, unit_ids=np.arange(1, n_neurons + 1, dtype=np.int64),
    )  # fmt: skip
    write_sequence_meta(responses, cell_motor_coordinates=coordinates)


def median_of(rows: list[Row]) -> Row:
    """Medians of windows per second and bytes per window, cold and warm; all runs beside them."""
    row: Row = {"runs": rows}
    for state in ("cold", "warm"):
        names = ("windows_per_second", "disk_bytes_per_window", "bytes_per_window")
        row[state] = {name: statistics.median(run[state][name] for run in rows) for name in names}
        row[state]["cached_before"] = statistics.median(run[f"cached_before_{state}"] for run in rows)
    return row


def measure_loaders(options: argparse.Namespace, places: list[str]) -> list[Row]:
    """The loader with several numbers of workers, and what it can be compared with."""
    case: Row = {
        "recordings": places,
        "preset": options.preset,
        "masks": MASKS[:1],
        "batch_size": 8,
        "cold_steps": options.cold_steps,
        "warm_steps": options.warm_steps,
        "open_recordings": 32,
    }
    asked: list[Row] = [
        {"reading": "memory map, responses alone", "do": "bare", "workers": 0, "mapped": True},
        {"reading": "file reads, responses alone", "do": "bare", "workers": 0, "mapped": False},
    ]
    asked += [{"reading": "loader", "do": "loader", "workers": workers} for workers in WORKERS]
    # Room for one recording: nearly every step opens another.
    asked.append({"reading": "loader that opens", "do": "loader", "workers": DEFAULT_WORKERS, "open_recordings": 1})
    # Round after round, so that a machine that gets slower does so for all.
    runs = [
        [measured(start_case("loader_case.py", **{**case, **row})) for row in asked] for _ in range(options.repeats)
    ]
    rows = [{**row, **median_of([run[i] for run in runs])} for i, row in enumerate(asked)]
    for row in rows:
        print(row["reading"], row["workers"], f"{row['warm']['windows_per_second']:.1f} windows/s", flush=True)
    return rows


def measure_model(options: argparse.Namespace, places: list[str]) -> list[Row]:
    """Training steps of the model, fed by the loader."""
    rows = []
    for mask in MASKS:
        case: Row = {
            "do": "model",
            "recordings": places,
            "preset": options.preset,
            "masks": [mask],
            "batch_size": 8,
            "workers": DEFAULT_WORKERS,
            "open_recordings": 32,
            "steps": options.model_steps,
            "device": options.device,
        }
        row = measured(start_case("loader_case.py", **case))
        rows.append({**row, "mask": mask, "windows_per_second": 8 / row["seconds"]})
        print(f"{mask}: {row['seconds']:.2f} s a step", flush=True)
    return rows


def measure_memory(
    options: argparse.Namespace, large: list[str], small: list[str], tiny: list[str], work: Path
) -> list[Row]:
    """Resident memory over many steps; the cases run side by side, a thread each."""
    common = {"masks": MASKS[:1], "workers": DEFAULT_WORKERS, "preset": options.preset, "work": str(work)}
    steps, large_steps = options.memory_steps, options.large_memory_steps
    asked: list[Row] = [
        {"case": f"training, {TINY_NEURONS} neurons", "do": "train_memory", "recordings": tiny, "steps": steps,
         "batch_size": 1, "open_recordings": 4},
        {"case": f"loader, {SMALL_NEURONS} neurons", "do": "loader_memory", "recordings": small, "steps": steps,
         "batch_size": 2, "open_recordings": 8},
        {"case": f"loader, {options.neurons:,} neurons", "do": "loader_memory", "recordings": large,
         "steps": large_steps, "batch_size": 8, "open_recordings": 32},
    ]  # fmt: skip
    started = []
    try:
        for row in asked:
            case = {name: value for name, value in row.items() if name != "case"}
            started.append(start_case("loader_case.py", threads=1, **common, **case, every=max(1, row["steps"] // 20)))
        found = [measured(process) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        {"case": row["case"], "steps": row["steps"], "n_sessions": len(row["recordings"]), **samples}
        for row, samples in zip(asked, found, strict=True)
    ]


def slope(samples: list[Row], name: str, after: int) -> float:
    """Bytes per 1,000 steps of the line through the samples from step `after` on."""
    late = [sample for sample in samples if sample["step"] >= after]
    return 1000 * float(np.polyfit([s["step"] for s in late], [s[name] for s in late], 1)[0])


def format_loaders(rows: list[Row], run: Row) -> list[str]:
    """Loader rows as a markdown table; ratios are against the bare memory map."""
    header = ["reading", "workers", "cold windows/s", "x map", "MB/window", "cached", "warm windows/s", "x map"]
    header.append("of copy")
    cells = []
    for row in rows:
        cold, warm = row["cold"], row["warm"]
        cells.append(
            [
                row["reading"],
                str(row["workers"]),
                f"{cold['windows_per_second']:.1f}",
                f"{cold['windows_per_second'] / rows[0]['cold']['windows_per_second']:.2f}",
                f"{cold['disk_bytes_per_window'] / 1e6:.2f}",
                f"{cold['cached_before']:.1%}",
                f"{warm['windows_per_second']:.1f}",
                f"{warm['windows_per_second'] / rows[0]['warm']['windows_per_second']:.2f}",
                _share(run, n_bytes=warm.get("bytes_per_window", 0) * warm["windows_per_second"]),
            ]
        )
    return markdown_table(header, cells, numbers_from=1)


def _share(run: Row, precision: str = "float32", **amounts: float) -> str:
    """Share of the floor of a run; empty for runs that were measured before floors were."""
    return f"{Floor(**run['floor']).share(precision=precision, **amounts):.0%}" if "floor" in run else ""


def format_model(rows: list[Row], loaders: list[Row], run: Row) -> list[str]:
    """Model rows as a markdown table; ratios are of the loader with the default workers to the model."""
    fed = next(row for row in loaders if row["reading"] == "loader" and row["workers"] == DEFAULT_WORKERS)
    header = [
        "mask",
        "neurons",
        "s/step",
        "windows/s",
        "of floor",
        "wait ms",
        "loader cold / model",
        "loader warm / model",
    ]
    cells = [
        [
            row["mask"],
            f"{row['population']:,}",
            f"{row['seconds']:.3g}",
            f"{row['windows_per_second']:.3g}",
            _share(run, precision_of(row), operations=row.get("operations", 0), seconds=row["seconds"]),
            f"{1000 * row['wait']:.1f}",
            *(f"{fed[state]['windows_per_second'] / row['windows_per_second']:,.0f}" for state in ("cold", "warm")),
        ]
        for row in rows
    ]
    return markdown_table(header, cells)


def precision_of(row: Row) -> str:
    """The type in which a step of `train` multiplies."""
    return "bfloat16" if row["precision"] == "bf16" else "float32"


def format_memory(rows: list[Row]) -> list[str]:
    """Memory rows as a markdown table: after the first step, a tenth, a half and all of the steps."""
    header = ["what", "sessions", "steps", "ms/step", "allocated MiB: first step", "a tenth", "half", "all"]
    header += ["MiB per 1,000 steps", "resident MiB: a tenth", "all", "MiB per 1,000 steps"]
    cells = []
    for row in rows:
        samples, steps = row["samples"], row["steps"]

        def at(share: float, name: str, samples: list[Row] = samples, steps: int = steps) -> str:
            nearest = min(samples, key=lambda sample: abs(sample["step"] - share * steps))
            return f"{nearest[name] / MIB:.1f}"

        cells.append(
            [
                row["case"],
                str(row["n_sessions"]),
                f"{steps:,}",
                f"{1000 * samples[-1]['seconds'] / steps:.1f}",
                f"{samples[0]['anon'] / MIB:.1f}",
                *(at(share, "anon") for share in (0.1, 0.5, 1)),
                f"{slope(samples, 'anon', steps // 10) / MIB:+.2f}",
                *(at(share, "rss") for share in (0.1, 1)),
                f"{slope(samples, 'rss', steps // 10) / MIB:+.2f}",
            ]
        )
    return markdown_table(header, cells)


def format_report(content: Row) -> str:
    """The report of what was measured so far: "loaders", "model" and "memory", each with the run it is from."""
    loaders = content["loaders"]["rows"]
    bare = [run for row in loaders if row["do"] == "bare" for run in row["runs"]]
    planning = statistics.median(row["planning_windows_per_second"] for row in bare)
    disk = statistics.median(row["read_through_bytes_per_second"] for row in bare)
    speeds = (
        f"Choosing windows, mask and neurons alone: {planning:,.0f} windows/s. Reading all files from start to end, "
        f"cold: {disk / 1e9:.2f} GB/s."
    )
    run = content["loaders"]["run"]
    parts = [format_loaders(loaders, run), [_conditions(run)], [speeds]]
    if "model" in content:
        rows, run = content["model"]["rows"], content["model"]["run"]
        device = f"{rows[0]['device']}, {rows[0]['precision']}, {rows[0]['threads']} threads"
        table = format_model(rows, loaders, run)
        parts += [["## What the model consumes"], table, [f"{device}. {_conditions(run)}"]]
    if "memory" in content:
        rows, run = content["memory"]["rows"], content["memory"]["run"]
        parts += [["## Memory"], format_memory(rows), [_conditions(run)]]
    return report("The pre-training loader", "loader.py", *parts)


def _conditions(run: Row) -> str:
    """Machine, versions and floor of a run, in a line."""
    found = f" {Floor(**run['floor']).sentence()}." if "floor" in run else ""
    return (
        f"Measured {run['started']}: {run['cpu']}, {run['cores']} cores, {run['memory_gib']} GiB; "
        f"torch {run['torch']}; commit {run['commit']}.{found}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    settings = {name: value for name, value in vars(options).items() if name not in ("work", "output", "quick")}
    run = describe_run(floor(options.device, quick=options.quick), **settings)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        name = "loader" if options.device == "cpu" else f"loader-{options.device}"
        place = None if options.output is None else options.output / f"{name}.json"
        content = json.loads(place.read_text()) if place is not None and place.exists() else {}
        large = write_sessions(work, options.sessions, options.neurons, options.minutes)
        for part in PARTS:
            if part not in options.parts:
                continue
            if part == "loaders":
                rows = measure_loaders(options, large)
            elif part == "model":
                rows = measure_model(options, large)
            else:
                small = write_copies(work, options.small_sessions, SMALL_NEURONS, 2.0)
                tiny = write_copies(work, max(1, options.small_sessions // 4), TINY_NEURONS, 2.0)
                rows = measure_memory(options, large, small, tiny, work)
            # Each part is kept as soon as it is measured.
            content[part] = {"run": run, "rows": rows}
            if place is not None:
                replace_file(place, json.dumps(content, indent=1) + "\n")
    if "loaders" not in content:
        raise SystemExit("There is no measurement of the loaders to compare with; leave --parts out.")
    text = format_report(content)
    if options.output is not None:
        replace_file(options.output / f"{name}.md", text)
    print("\n" + text)


if __name__ == "__main__":
    main()
