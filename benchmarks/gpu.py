"""Everything that needs a GPU, in one script of at most eight minutes: is it right, and how fast is it? See README.md.

    python benchmarks/gpu.py                        # writes benchmarks/results/gpu.md and gpu.jsonl
    python benchmarks/gpu.py --device cpu --quick   # a toy size, to see that everything works

Cases run in processes of their own (`gpu_case.py`), group by group. One that fails, takes its process down or runs over
its time is a row of the table; a new process goes on with the next case.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from machine import HERE, describe_machine, markdown_table, replace_file
from meters import Row

GROUPS = ("reference", "gradients-tiny", "paths", "speed", "training", "before", "workflow", "flex", "compilation",
          "gradients-5m")  # fmt: skip
"""In the order in which they run: what matters most comes before what may not fit into the time."""

START_SECONDS = 60.0
"""For a process to start and import everything; on top of what its first case may take."""

HEADER = ["group", "case", "status", "seconds", "measured"]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="as for finetune(device=...) (default: cuda)")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="what to run (default: everything)")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for everything (default: 480)")
    parser.add_argument("--quick", action="store_true", help="toy sizes; writes only with --output")
    parser.add_argument("--output", type=Path, help="folder for gpu.md and gpu.jsonl (default: benchmarks/results)")
    options = parser.parse_args(argv)
    if options.output is None and not options.quick:
        options.output = HERE / "results"
    return options


def run_cases(command: Sequence[str], group: str, deadline: float, report: Callable[[Row], None]) -> None:
    """Runs a group's cases, in as many processes as it takes, and reports a row for each.

    Args:
        command: starts a process; the number of cases to leave out is appended. It prints a JSON object a line: first
            `{"cases": [[name, seconds], ...]}`, then a row for each case.
        group: name of the group.
        deadline: `time.monotonic()` after which nothing more is waited for.
        report: takes a row.
    """
    done, cases = 0, None
    while cases is None or done < len(cases):
        if time.monotonic() >= deadline:
            report({"group": group, "case": _name(cases, done), "status": "not run: time was up"})
            return
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen([*command, str(done)], stdout=subprocess.PIPE, stderr=errors, text=True)
            lines: queue.Queue[str | None] = queue.Queue()
            threading.Thread(target=_read, args=(process, lines), daemon=True).start()
            limit, status = START_SECONDS + (cases[done][1] if cases else 0.0), None
            while status is None:
                try:
                    line = lines.get(timeout=max(0.0, min(limit, deadline - time.monotonic())))
                except queue.Empty:
                    status = "ran over its time" if time.monotonic() < deadline else "stopped: time was up"
                    break
                if line is None:
                    status = f"process ended with {process.wait()}: {_last_line(errors)}"
                    break
                content = json.loads(line)
                if "cases" in content:
                    cases = content["cases"]
                else:
                    report({"group": group, **content})
                    done += 1
                if done >= len(cases or ()):
                    break
                limit = (cases or [])[done][1]
            process.kill()
            process.wait()
        if cases is None or done < len(cases):
            report({"group": group, "case": _name(cases, done), "status": f"FAILED: {status}"})
            if cases is None:
                return
            done += 1


def _name(cases: Sequence[Sequence[Any]] | None, done: int) -> str:
    return "all" if cases is None else str(cases[done][0])


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):  # others are what libraries print
            lines.put(line)
    lines.put(None)


def _last_line(errors: Any) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"


def as_cells(row: Row) -> list[str]:
    """The row in the table's columns; what was measured is written out by name."""
    measured = {name: value for name, value in row.items() if name not in ("group", "case", "status", "seconds")}
    shown = ", ".join(f"{n.replace('_', ' ')} {v:.3g}" if isinstance(v, float) else f"{n.replace('_', ' ')} {v}"
                      for n, v in measured.items())  # fmt: skip
    seconds = f"{row['seconds']:.1f}" if "seconds" in row else ""
    return [row["group"], row["case"], row["status"].replace("|", "/"), seconds, shown]


class Report:
    """Prints every row when it comes, and keeps both files up to date."""

    def __init__(self, output: Path | None, machine: Row):
        self.output, self.machine, self.rows = output, machine, list[Row]()

    def __call__(self, row: Row) -> None:
        self.rows.append(row)
        print("| " + " | ".join(as_cells(row)) + " |", flush=True)
        print(json.dumps(row), flush=True)
        if self.output is not None:
            lines = [json.dumps(content) for content in ({"machine": self.machine}, *self.rows)]
            replace_file(self.output / "gpu.jsonl", "\n".join(lines) + "\n")
            replace_file(self.output / "gpu.md", self.text())

    def text(self) -> str:
        """The table and the machine, as Markdown."""
        table = markdown_table(HEADER, [as_cells(row) for row in self.rows], numbers_from=len(HEADER))
        facts = [f"- {name}: {value}" for name, value in self.machine.items()]
        title = ["# On a GPU", "", "Written by `benchmarks/gpu.py`; `benchmarks/README.md` explains it.", ""]
        return "\n".join([*title, *table, "", *facts, ""])


def device_name(device: str) -> str:
    """What the card calls itself; refuses a device that is not there."""
    import torch

    from omnimouse.support.compute_devices import resolve_device

    found = resolve_device(device)
    assert found is not None
    return torch.cuda.get_device_name(found) if found.type == "cuda" else str(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the groups; returns 1 when a case failed or was wrong."""
    options = parse_arguments(argv)
    deadline = time.monotonic() + options.budget
    report = Report(options.output, {"device": device_name(options.device), **describe_machine()})
    print("\n".join(markdown_table(HEADER, [], numbers_from=len(HEADER))), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # A toy needs no process of its own for each group; starting one takes longer than its cases.
        for groups in [options.groups] if options.quick else [[group] for group in options.groups]:
            command = [sys.executable, str(HERE / "gpu_case.py"), options.device, folder, ",".join(groups)]
            command.append("quick" if options.quick else "full")
            run_cases(command, "quick" if options.quick else groups[0], deadline, report)
    failed = [row for row in report.rows if row["status"].startswith(("FAILED", "WRONG"))]
    print(f"{len(report.rows)} rows, {len(failed)} failed or wrong", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
