"""Time and memory of loading none, one or all of 333 sessions, from a disk and from a Hub on loopback. See README.md.

    python benchmarks/loading.py              # the 80M core and 2.3 million neurons: 3 GB, about 10 minutes
    python benchmarks/loading.py --quick      # a toy size, to see that everything works

Weights are random. Every case runs in a process of its own (`loading_case.py`), one after another; the Hub is the one
that the tests use, in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from floor import Floor, floor
from machine import HERE, markdown_table
from meters import GIB, Row
from running import Parser, conditions, describe_run, measured, report, start_case, write_results
from stand_in import read_manifest, write_model, write_published

REPO = "lab/stand-in"
WANTED = ("none", "one", "all")
TESTS = HERE.parent / "tests"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(
        __doc__,
        {
            "preset": ("80m", "1m", "size of the core"),
            "sessions": (333, 5, "first so many sessions of the corpus"),
        },
    )
    parser.add_argument("--identity-size", type=int, default=256, help="as in the released checkpoints (default: 256)")
    parser.add_argument("--ranks", type=int, default=8, help="rank files of the published form (default: 8)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case; medians are given (default: 3)")
    parser.add_argument("--folder", type=Path, help="where to write the weights (default: a temporary folder)")
    return parser.options(argv)


def run_case(environment: dict[str, str] | None = None, **case: Any) -> Row:
    """Measures a case in a new process."""
    return measured(start_case("loading_case.py", environment=environment, **case))


@contextmanager
def serve(folder: Path, root: Path) -> Iterator[str]:
    """Serves a model folder as `REPO` from a Hub on loopback, and yields its address."""
    command = [sys.executable, str(TESTS / "loopback_hub"), "--root", str(root), "--repo", f"{REPO}={folder}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            # The first listing hashes all files, as a Hub has done long before anybody asks.
            urllib.request.urlopen(f"{url}/api/models/{REPO}/tree/main?recursive=true").read()
            yield url
        finally:
            process.terminate()


def client_environment(url: str, home: Path) -> dict[str, str]:
    """The environment of a client of the Hub on loopback."""
    hidden = ("HF_TOKEN", "HF_HUB_OFFLINE", "OMNIMOUSE_CACHE", "HF_HUB_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}


def median_case(repeats: int, environment: dict[str, str] | None = None, **case: Any) -> Row:
    """The run of median time; its memory is hardly different from run to run."""
    rows = sorted((run_case(environment, **case) for _ in range(repeats)), key=lambda row: row["seconds"])
    return {**rows[len(rows) // 2], "all_seconds": [row["seconds"] for row in rows]}


def files_of(folder: Path, wanted: str, one: str) -> list[Path]:
    """The files that loading has to read."""
    small = [folder / "config.json", folder / "preprocessor_config.json", folder / "sessions" / "index.json"]
    core = [path for path in small if path.is_file()] + [folder / "model.safetensors"]
    sessions = {"none": [], "one": [folder / "sessions" / f"{one}.safetensors"]}
    return core + sessions.get(wanted, sorted((folder / "sessions").glob("*.safetensors")))


def measure(options: argparse.Namespace, work: Path) -> list[Row]:
    """All rows of the table."""
    specs = read_manifest(options.sessions)
    model, one = work / "model", specs[len(specs) // 2].key
    print(f"writing {len(specs)} sessions, {sum(spec.n_neurons for spec in specs):,} neurons", flush=True)
    write_model(model, options.preset, options.identity_size, specs)
    asked = {"none": None, "one": [one], "all": "all"}
    rows: list[Row] = []
    with serve(model, work / "hub") as url:
        for wanted in WANTED:
            places = [str(path) for path in files_of(model, wanted, one)]
            raw = median_case(options.repeats, do="read", places=places)
            row = median_case(options.repeats, do="load", name=str(model), sessions=asked[wanted])
            rows.append({**row, "from": "disk", "wanted": wanted, "raw_seconds": raw["seconds"], "bytes": raw["bytes"]})
            addresses = [f"{url}/{REPO}/resolve/main/{Path(place).relative_to(model).as_posix()}" for place in places]
            raw = median_case(options.repeats, do="read", places=addresses)
            for place in ("Hub, first time", "Hub, cached"):
                found = []
                for number in range(options.repeats):
                    home = work / f"home-{wanted}-{number}"
                    found.append(run_case(client_environment(url, home), do="load", name=REPO, sessions=asked[wanted]))
                seconds = [row["seconds"] for row in found]
                middle = min(found, key=lambda row: abs(row["seconds"] - statistics.median(seconds)))
                rows.append(
                    {
                        **middle,
                        "all_seconds": sorted(seconds),
                        "from": place,
                        "wanted": wanted,
                        "raw_seconds": raw["seconds"],
                        "bytes": raw["bytes"],
                    }
                )
            for number in range(options.repeats):
                shutil.rmtree(work / f"home-{wanted}-{number}")
            for row in rows[-3:]:
                print(row["from"], wanted, f"{row['seconds']:.2f} s", flush=True)
    shutil.rmtree(model)
    rows.append(measure_conversion(options, work))
    return rows


def measure_conversion(options: argparse.Namespace, work: Path) -> Row:
    """Converting the same weights from the form in which they were published."""
    specs = read_manifest(options.sessions)
    published = work / "published"
    write_published(published, options.preset, options.identity_size, specs, options.ranks)
    places = [str(path) for path in sorted(published.iterdir())]
    row = run_case(do="convert", name=str(published), out=str(work / "converted"))
    written = sum(path.stat().st_size for path in (work / "converted").rglob("*") if path.is_file())
    largest = sum(4 * spec.n_neurons * (options.identity_size + 1) for spec in specs[0 :: options.ranks])
    raw = run_case(do="read", places=places)
    return {
        **row,
        "from": f"{options.ranks} rank files",
        "wanted": "convert",
        "raw_seconds": raw["seconds"],
        "bytes": raw["bytes"],
        "bytes_written": written,
        "core_bytes": (work / "converted" / "model.safetensors").stat().st_size,
        "rank_sessions_bytes": largest,
    }


def memory_above(row: Row) -> int:
    """Peak resident memory above that of Python with its libraries."""
    return row["after"]["peak"] - row["before"]["rss"]


HEADER = ["from", "sessions", "GB", "seconds", "x core alone", "+ touching", "peak memory GiB", "x core alone", "raw s",
          "of copy"]  # fmt: skip


def format_rows(rows: list[Row], floor: Floor) -> list[str]:
    """The rows as a markdown table; ratios are against the core alone from the same place."""
    cells = []
    for row in rows:
        core = next((r for r in rows if r["from"] == row["from"] and r["wanted"] == "none"), None)
        cells.append(
            [
                row["from"],
                row["wanted"],
                f"{row['bytes'] / 1e9:.2f}",
                f"{row['seconds']:.2f}",
                f"{row['seconds'] / core['seconds']:.2f}" if core else "",
                f"{row['touched_seconds']:.2f}" if "touched_seconds" in row else "",
                f"{memory_above(row) / GIB:.2f}",
                f"{memory_above(row) / memory_above(core):.2f}" if core else "",
                f"{row['raw_seconds']:.2f}",
                f"{floor.share(n_bytes=row['bytes'], seconds=row.get('touched_seconds', row['seconds'])):.0%}",
            ]
        )
    return markdown_table(HEADER, cells, numbers_from=2)


def format_report(run: Row, rows: list[Row]) -> str:
    """The page of results."""
    conversion = rows[-1]
    note = (
        f"Conversion wrote {conversion['bytes_written'] / 1e9:.2f} GB; its core takes "
        f"{conversion['core_bytes'] / GIB:.2f} GiB, the largest rank's own sessions "
        f"{conversion['rank_sessions_bytes'] / GIB:.2f} GiB."
    )
    table = format_rows(rows, Floor(**run["floor"]))
    return report("Loading: none, one or all sessions", "loading.py", table, [note], conditions(run))


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    specs = read_manifest(options.sessions)
    run = describe_run(
        floor(quick=options.quick),
        preset=options.preset,
        identity_size=options.identity_size,
        sessions=len(specs),
        neurons=sum(spec.n_neurons for spec in specs),
        repeats=options.repeats,
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = measure(options, Path(folder))
    text = format_report(run, rows)
    write_results(options.output, "loading", text, {"run": run, "rows": rows})
    print("\n" + text)


if __name__ == "__main__":
    main()
