"""Memory and time of a forward pass: windowed attention of the package against flex attention. See README.md.

    python benchmarks/attention.py            # all rows, about half an hour on two CPU cores
    python benchmarks/attention.py --quick    # a toy size, to see that everything works

Every case runs in a process of its own (`attention_case.py`), one after another.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attention_case import Case
from machine import GIB, available_cores, describe_machine, replace_file

HERE = Path(__file__).resolve().parent
VARIANTS = ("package", "flex-compiled", "flex-uncompiled")
MASKS = ("forecasting", "population+stimulus", "stimulus+behavior")
Row = dict[str, Any]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line. What `--quick` makes small can still be set beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", help="presets of OmniMouseConfig (default: 5m 80m)")
    parser.add_argument("--neurons", nargs="+", type=int, help="neurons in a window (default: 4096 8000)")
    parser.add_argument("--masks", nargs="+", default=MASKS, help=f"task names or suite/name (default: {MASKS})")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="package always runs too")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes after the first (default: 3)")
    parser.add_argument("--batch-size", type=int, default=1, help="windows per pass (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=available_cores(), help="CPU threads (default: all cores)")
    parser.add_argument("--limit", type=float, default=12.0, help="GiB for uncompiled flex attention (default: 12)")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds per case (default: 240)")
    parser.add_argument("--budget", type=float, default=34.0, help="minutes after which nothing more starts")
    parser.add_argument("--quick", action="store_true", help="tiny preset, 128 neurons; writes only with --output")
    parser.add_argument("--update", action="store_true", help="keep rows of an earlier run that this one does not redo")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    options = parser.parse_args(argv)
    options.presets = options.presets or (["tiny"] if options.quick else ["5m", "80m"])
    options.neurons = options.neurons or ([128] if options.quick else [4096, 8000])
    if options.output is None and not options.quick:
        options.output = HERE / "results"
    if options.repeats < 3:
        parser.error(f"--repeats must be at least 3, since medians are reported; got {options.repeats}.")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine's torch finds no CUDA device. Use --device cpu.")
    return options


def describe_run(options: argparse.Namespace) -> dict[str, Any]:
    """Versions, hardware and settings that the run's numbers depend on."""
    return {
        **describe_machine(),
        "threads": options.threads,
        "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
        "dtype": "bfloat16" if options.device == "cuda" else "float32",
        "batch_size": options.batch_size,
        "repeats": options.repeats,
    }


def run_case(case: Case, folder: Path, timeout: float) -> Row:
    """Measures a case in a new process with an empty compile cache, and stops it with all its children when late."""
    folder.mkdir()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(case.threads),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
    }
    command = [sys.executable, str(HERE / "attention_case.py"), json.dumps(asdict(case)), str(folder)]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            return {"status": f"longer than {timeout:.0f} s"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if not (folder / "result.json").exists():
        how = "killed, probably out of memory" if process.returncode == -signal.SIGKILL else "failed"
        return {"status": f"{how}: exit status {process.returncode}"}
    result: Row = json.loads((folder / "result.json").read_text())
    if result["status"].startswith("failed"):
        print((folder / "log.txt").read_text(), file=sys.stderr)
    return result


def summarize(result: Row, batch_size: int) -> Row:
    """Adds per-window times and memory above the loaded model to what a case measured."""
    if result["status"] != "ok":
        return result
    median = statistics.median(result["seconds"])
    return {
        **result,
        "seconds_per_window": median / batch_size,
        "preparation_seconds": max(0.0, result["first_seconds"] - median),
        "above_model_bytes": result["peak_bytes"] - result["model_bytes"],
        "first_above_model_bytes": result["first_peak_bytes"] - result["model_bytes"],
    }


def largest_difference(found: Path, expected: Path) -> float:
    """Largest difference between two files of predictions, over the standard deviation of the expected ones."""
    worst = 0.0
    with np.load(found, allow_pickle=False) as ours, np.load(expected, allow_pickle=False) as theirs:
        for name in theirs.files:
            a, b = ours[name].astype(np.float64), theirs[name].astype(np.float64)
            if not np.array_equal(np.isnan(a), np.isnan(b)):  # NaN marks what the mask does not predict
                return float("inf")
            worst = max(worst, float(np.nanmax(np.abs(a - b)) / np.nanstd(b)))
    return worst


def compare(row: Row, package: Row, folder: Path, package_folder: Path) -> None:
    """Adds ratios and the difference of predictions against the package in the same run."""
    if row["status"] != "ok" or package["status"] != "ok":
        return
    row["time_ratio"] = row["seconds_per_window"] / package["seconds_per_window"]
    row["memory_ratio"] = row["above_model_bytes"] / package["above_model_bytes"]
    if row is not package:
        row["difference"] = largest_difference(folder / "predictions.npz", package_folder / "predictions.npz")


def run_scene(options: argparse.Namespace, preset: str, neurons: int, mask: str, deadline: float) -> list[Row]:
    """Measures all variants of one preset, population and mask. The package comes first: the others refer to it."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for variant in [v for v in VARIANTS if v == "package" or v in options.variants]:
            case = Case(
                preset,
                neurons,
                mask,
                variant,
                device=options.device,
                batch_size=options.batch_size,
                repeats=options.repeats,
                threads=options.threads,
                limit_gib=options.limit,
            )
            folder = Path(temporary) / variant
            result: Row = {"status": "not run: time was up"}
            if time.monotonic() < deadline:
                result = run_case(case, folder, options.timeout)
            row = {"preset": preset, "neurons": neurons, "mask": mask, "variant": variant}
            row.update(summarize(result, options.batch_size))
            rows.append(row)
            compare(row, rows[0], folder, Path(temporary) / "package")
            print(" ".join(format_row(row)), flush=True)
    return rows


COLUMNS = {
    "preset": "Preset",
    "neurons": "Neurons",
    "mask": "Mask",
    "variant": "Attention",
    "seconds": "s/window",
    "time_ratio": "× package",
    "preparation": "Preparation (s)",
    "memory": "Peak above model (GiB)",
    "memory_ratio": "× package",
    "first": "First pass above model (GiB)",
    "peak": "Peak of all (GiB)",
    "difference": "Difference",
}


def format_row(row: Row) -> list[str]:
    """Cells of the markdown table."""
    cells = [row["preset"], f"{row['neurons']:,}", row["mask"], row["variant"]]
    if row["status"] != "ok":
        return [*cells, row["status"], *[""] * (len(COLUMNS) - 5)]

    def ratio(name: str) -> str:
        return f"{row[name]:.2f}" if name in row else ""

    return [
        *cells,
        f"{row['seconds_per_window']:.3g}",
        ratio("time_ratio"),
        f"{row['preparation_seconds']:.1f}",
        f"{row['above_model_bytes'] / GIB:.2f}",
        ratio("memory_ratio"),
        f"{row['first_above_model_bytes'] / GIB:.2f}",
        f"{max(row['peak_bytes'], row['first_peak_bytes']) / GIB:.2f}",
        f"{row['difference']:.1e}" if "difference" in row else "",
    ]


def format_report(results: dict[str, Any]) -> str:
    """The results as markdown: the table, then the runs that it comes from."""
    rows = results["rows"]
    current = {scene_of(row): row["run"] for row in rows if row["variant"] == "package"}
    marked = [
        row if row["run"] == current[scene_of(row)] else {**row, "variant": row["variant"] + " †"} for row in rows
    ]
    lines = [
        "# Forward pass: windowed attention against flex attention",
        "",
        "Written by `benchmarks/attention.py`; `benchmarks/README.md` explains the columns.",
        "",
        "| " + " | ".join(COLUMNS.values()) + " |",
        "|" + "|".join("---" if name in ("preset", "mask", "variant") else "---:" for name in COLUMNS) + "|",
        *("| " + " | ".join(format_row(row)) + " |" for row in marked),
        "",
    ]
    if marked != rows:
        lines += ["† From an earlier run than the package's row; its ratios are against the package in that run.", ""]
    for started, run in results["runs"].items():
        lines += [f"Run of {started}:", ""]
        lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in run.items() if value is not None]
        lines.append("")
    return "\n".join(lines)


def scene_of(row: Row) -> tuple[str, int, str]:
    return row["preset"], row["neurons"], row["mask"]


def merge(results: dict[str, Any], rows: list[Row]) -> None:
    """Puts the rows of a scene into the results: in place of the rows they redo, else at the end."""
    redone = {(scene_of(row), row["variant"]) for row in rows}
    old = [row for row in results["rows"] if scene_of(row) == scene_of(rows[0])]
    index = results["rows"].index(old[0]) if old else len(results["rows"])
    kept = [row for row in old if (scene_of(row), row["variant"]) not in redone]
    others = [row for row in results["rows"] if row not in old]
    scene = sorted(rows + kept, key=lambda row: VARIANTS.index(row["variant"]))
    results["rows"] = others[:index] + scene + others[index:]
    used = {row["run"] for row in results["rows"]}
    results["runs"] = {run: what for run, what in results["runs"].items() if run in used}


def write(results: dict[str, Any], folder: Path, device: str) -> None:
    """Writes markdown and JSON, each replaced at once."""
    for suffix, text in ((".json", json.dumps(results, indent=1) + "\n"), (".md", format_report(results))):
        replace_file(folder / f"attention-{device}{suffix}", text)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    results: dict[str, Any] = {"runs": {}, "rows": []}
    if options.update and options.output is not None:
        path = options.output / f"attention-{options.device}.json"
        if path.exists():
            results = json.loads(path.read_text(encoding="utf-8"))
    results["runs"][started] = describe_run(options)
    run, deadline = results["runs"][started], time.monotonic() + 60 * options.budget
    for preset in options.presets:
        for neurons in options.neurons:
            for mask in options.masks:
                rows = run_scene(options, preset, neurons, mask, deadline)
                results["runs"][started] = run
                merge(results, [{**row, "run": started} for row in rows])
                if options.output is not None:
                    write(results, options.output, options.device)
    print("\n" + format_report(results))


if __name__ == "__main__":
    main()
