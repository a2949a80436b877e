"""What the benchmarks share: options, cases in processes of their own, and results as Markdown and JSON."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from floor import Floor
from machine import HERE, describe_machine, replace_file
from meters import Row

Sizes = dict[str, tuple[Any, Any, str]]
"""Option: its default, its value with `--quick`, and its help."""


class Parser(argparse.ArgumentParser):
    """Options of a benchmark: `--quick`, `--output`, and sizes that `--quick` makes small where they are not set.

    Args:
        text: what the benchmark does.
        sizes: options with two defaults; a list takes several values.
    """

    def __init__(self, text: str | None, sizes: Sizes):
        super().__init__(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.sizes = sizes
        for name, (default, quick, what) in sizes.items():
            many = isinstance(default, list)
            shown = [" ".join(map(str, value)) if many else value for value in (default, quick)]
            self.add_argument(
                f"--{name}",
                type=type(default[0] if many else default),
                nargs="+" if many else None,
                help=f"{what} (default: {shown[0]}; quick: {shown[1]})",
            )
        self.add_argument("--quick", action="store_true", help="toy sizes; writes only with --output")
        self.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")

    def options(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Reads the command line."""
        options = self.parse_args(argv)
        for name, (default, quick, _) in self.sizes.items():
            field = name.replace("-", "_")
            if getattr(options, field) is None:
                setattr(options, field, quick if options.quick else default)
        if options.output is None and not options.quick:
            options.output = HERE / "results"
        return options


def start_case(script: str, *, environment: dict[str, str] | None = None, threads: int | None = None, **case: Any) -> (
    subprocess.Popen[str]
):  # fmt: skip
    """Starts a case in a new process.

    Args:
        script: file of `benchmarks/` whose process calls `meters.answer`.
        environment: of the process (default: this one's).
        threads: of the CPU.
        case: what it measures; `do` names the function.
    """
    environment = {**(os.environ if environment is None else environment)}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, str(HERE / script), json.dumps(case)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish_case(process: subprocess.Popen[str], timeout: float | None = None) -> Row:
    """What a case measured: `status` is "ok", or says what befell it. Stopped with all its children when late."""
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"status": f"longer than {timeout:.0f} s"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        killed = process.returncode == -signal.SIGKILL
        how = "killed, probably out of memory" if killed else f"failed: {errors.strip()[-200:]}"
        return {"status": f"{how}: exit status {process.returncode}"}
    row: Row = json.loads(lines[-1])
    if row["status"].startswith("failed"):
        print(errors, file=sys.stderr)
    return row


def measured(process: subprocess.Popen[str]) -> Row:
    """What a case measured that the others cannot do without."""
    row = finish_case(process)
    if row.pop("status") != "ok":
        raise SystemExit(f"The case {process.args} failed")
    return row


def describe_run(floor: Floor, **settings: Any) -> Row:
    """When, where and how a run was measured, and the floor of its machine."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"started": started, **describe_machine(), **settings, "floor": asdict(floor)}


def conditions(run: Row) -> list[str]:
    """The same as a list in Markdown."""
    lines = []
    for name, value in run.items():
        if value is not None:
            shown = Floor(**value).sentence() if name == "floor" else value
            lines.append(f"- {name.replace('_', ' ')}: {shown}")
    return [*lines, ""]


def report(title: str, script: str, *parts: Sequence[str]) -> str:
    """A page of results: its title, where it comes from, and parts with an empty line between them."""
    lines = [f"# {title}", "", f"Written by `benchmarks/{script}`; `benchmarks/README.md` explains it.", ""]
    for part in parts:
        lines += [*part, ""]
    return "\n".join(lines).rstrip() + "\n"


def write_results(folder: Path | None, name: str, text: str, content: Any) -> None:
    """Writes `name.md` and `name.json` into a folder, each at once; nothing without one."""
    if folder is not None:
        replace_file(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
        replace_file(folder / f"{name}.md", text)
