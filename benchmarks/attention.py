"""Time, share of the floor and memory of a forward pass, against flex attention and an earlier commit. See README.md.

    python benchmarks/attention.py                   # three sizes, three masks: about ten minutes on two CPU cores
    python benchmarks/attention.py --before COMMIT   # beside an earlier commit, in the same run
    python benchmarks/attention.py --quick           # a toy size, to see that everything works

Every case runs in a process of its own (`attention_case.py`), one after another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from floor import Floor, floor
from machine import HERE, available_cores, markdown_table
from meters import GIB, Row
from running import Parser, conditions, describe_run, finish_case, report, start_case, write_results

VARIANTS = ("package", "before", "flex-compiled", "flex-uncompiled")
MASKS = ("forecasting", "stimulus+behavior", "population+stimulus")
PRECISIONS = {"cpu": ["float32", "bfloat16"], "cuda": ["bfloat16"]}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(
        __doc__,
        {
            "presets": (["tiny", "5m", "80m"], ["tiny"], "presets of OmniMouseConfig"),
            "neurons": ([4096], [128], "neurons in a window"),
            "flex": (["5m"], ["none"], "presets that compiled flex attention is measured with, or none"),
        },
    )
    parser.add_argument("--masks", nargs="+", default=MASKS, help=f"task names or suite/name (default: {MASKS})")
    parser.add_argument(
        "--uncompiled", action="store_true", help="uncompiled flex attention too, for presets of --flex"
    )
    parser.add_argument("--before", metavar="COMMIT", help="an earlier commit to measure too, in its first precision")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), help=f"default: {PRECISIONS}")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes after the first (default: 3)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="no pass after the second starts later (default: 20)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="windows per pass (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=available_cores(), help="CPU threads (default: all cores)")
    parser.add_argument("--limit", type=float, default=12.0, help="GiB for uncompiled flex attention (default: 12)")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds per case (default: 240)")
    parser.add_argument("--budget", type=float, default=14.0, help="minutes after which nothing starts (default: 14)")
    parser.add_argument("--update", action="store_true", help="keep rows of an earlier run that this one does not redo")
    options = parser.options(argv)
    options.precision = options.precision or PRECISIONS[options.device]
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine's torch finds no CUDA device. Use --device cpu.")
    return options


def asked_of(options: argparse.Namespace, preset: str) -> Iterator[tuple[str, str]]:
    """Variants and precisions that are measured of a preset; the first is what the others are compared with."""
    yield from (("package", precision) for precision in options.precision)
    first = options.precision[0]
    if options.before:
        yield "before", first
    if preset in options.flex:
        yield "flex-compiled", first
        if options.uncompiled:
            yield "flex-uncompiled", first


def run_case(options: argparse.Namespace, case: Row, folder: Path, before: Path) -> Row:
    """Measures a case in a new process with an empty compile cache."""
    folder.mkdir()
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
    if case["variant"] == "before":
        environment["PYTHONPATH"] = str(before / "src")
    names = ("device", "batch_size", "repeats", "seconds")
    common = {name: getattr(options, name) for name in names}
    process = start_case("attention_case.py", environment=environment, threads=options.threads, do="measure", **case,
                         **common, limit_gib=options.limit, folder=str(folder))  # fmt: skip
    return finish_case(process, options.timeout)


def summarize(result: Row, batch_size: int, floor: Floor, precision: str) -> Row:
    """Adds per-window times, shares of the floor, and memory above the loaded model to what a case measured."""
    if result["status"] != "ok":
        return result
    median = statistics.median(result["seconds"])
    return {
        **result,
        "seconds_per_window": median / batch_size,
        "share_of_floor": floor.share(operations=result["operations"], seconds=median, precision=precision),
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


def compare(row: Row, first: Row, folder: Path, first_folder: Path) -> None:
    """Adds ratios and the difference of predictions against the first row of the scene."""
    if row["status"] != "ok" or first["status"] != "ok":
        return
    row["time_ratio"] = row["seconds_per_window"] / first["seconds_per_window"]
    row["memory_ratio"] = row["above_model_bytes"] / first["above_model_bytes"]
    if row is not first:
        row["difference"] = largest_difference(folder / "predictions.npz", first_folder / "predictions.npz")


def run_scene(options: argparse.Namespace, scene: Row, floor: Floor, before: Path, deadline: float) -> list[Row]:
    """Measures all variants of one preset, population and mask."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for variant, precision in asked_of(options, scene["preset"]):
            case, folder = {**scene, "variant": variant, "precision": precision}, Path(temporary) / str(len(rows))
            result: Row = {"status": "not run: time was up"}
            if time.monotonic() < deadline:
                result = run_case(options, case, folder, before)
            row = {**case, **summarize(result, options.batch_size, floor, precision)}
            rows.append(row)
            compare(row, rows[0], folder, Path(temporary) / "0")
            print(" ".join(format_row(row)), flush=True)
    return rows


HEADER = ["Preset", "Neurons", "Mask", "Attention", "Precision", "s/window", "of floor", "× first",
          "Preparation (s)", "Peak above model (GiB)", "× first", "First pass above model (GiB)", "Peak of all (GiB)",
          "Difference"]  # fmt: skip


def format_row(row: Row) -> list[str]:
    """Cells of the markdown table."""
    cells = [row["preset"], f"{row['neurons']:,}", row["mask"], row["variant"], row.get("precision", "float32")]
    if row["status"] != "ok":
        return [*cells, row["status"], *[""] * (len(HEADER) - 6)]

    def shown(name: str, form: str) -> str:
        return format(row[name], form) if name in row else ""

    return [
        *cells,
        f"{row['seconds_per_window']:.3g}",
        shown("share_of_floor", ".0%"),
        shown("time_ratio", ".2f"),
        f"{row['preparation_seconds']:.1f}",
        f"{row['above_model_bytes'] / GIB:.2f}",
        shown("memory_ratio", ".2f"),
        f"{row['first_above_model_bytes'] / GIB:.2f}",
        f"{max(row['peak_bytes'], row['first_peak_bytes']) / GIB:.2f}",
        shown("difference", ".1e"),
    ]


def format_report(results: dict[str, Any]) -> str:
    """The results as markdown: the table, then the runs that it comes from."""
    first: dict[tuple[Any, ...], str] = {}
    for row in results["rows"]:
        first.setdefault(scene_of(row), row["run"])
    rows = [row if row["run"] == first[scene_of(row)] else {**row, "variant": row["variant"] + " †"}
            for row in results["rows"]]  # fmt: skip
    note = ["† From an earlier run than the first row of its scene; its ratios are against that one's in that run."]
    runs = [[f"Run of {started}:", "", *conditions(run)] for started, run in results["runs"].items()]
    table = markdown_table(HEADER, [format_row(row) for row in rows], numbers_from=5)
    parts = [table, note] if rows != results["rows"] else [table]
    return report("Forward pass: windowed attention against flex attention", "attention.py", *parts, *runs)


def scene_of(row: Row) -> tuple[Any, ...]:
    return row["preset"], row["neurons"], row["mask"]


def place_of(row: Row) -> tuple[int, str]:
    """Where a row stands in its scene: the package first, float32 first."""
    precision = row.get("precision", "float32")
    return VARIANTS.index(row["variant"]), "" if precision == "float32" else precision


def merge(results: dict[str, Any], rows: list[Row]) -> None:
    """Puts the rows of a scene into the results: in place of the rows they redo, else at the end."""
    redone = {place_of(row) for row in rows}
    old = [row for row in results["rows"] if scene_of(row) == scene_of(rows[0])]
    index = results["rows"].index(old[0]) if old else len(results["rows"])
    kept = [row for row in old if place_of(row) not in redone]
    others = [row for row in results["rows"] if row not in old]
    results["rows"] = others[:index] + sorted(rows + kept, key=place_of) + others[index:]
    used = {row["run"] for row in results["rows"]}
    results["runs"] = {run: what for run, what in results["runs"].items() if run in used}


def check_out(commit: str | None, folder: Path) -> Path:
    """The package as it was at a commit."""
    if commit:
        content = subprocess.run(
            ["git", "-C", str(HERE.parent), "archive", commit, "src"], check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", str(folder)], check=True, input=content.stdout)
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    results: dict[str, Any] = {"runs": {}, "rows": []}
    name = f"attention-{options.device}"
    if options.update and options.output is not None and (options.output / f"{name}.json").exists():
        results = json.loads((options.output / f"{name}.json").read_text(encoding="utf-8"))
    torch.set_num_threads(options.threads)
    lowest, deadline = floor(options.device, quick=options.quick), time.monotonic() + 60 * options.budget
    run = describe_run(lowest, threads=options.threads, batch_size=options.batch_size, before=options.before)
    scenes = [{"preset": preset, "neurons": neurons, "mask": mask}
              for preset in options.presets for neurons in options.neurons for mask in options.masks]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        before = check_out(options.before, Path(folder))
        for scene in scenes:
            rows = run_scene(options, scene, lowest, before, deadline)
            results["runs"][run["started"]] = run
            merge(results, [{**row, "run": run["started"]} for row in rows])
            write_results(options.output, name, format_report(results), results)
    print("\n" + format_report(results))


if __name__ == "__main__":
    main()
