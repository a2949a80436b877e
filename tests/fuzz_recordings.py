"""Damage tiny recordings at random and watch what the package does with them; see docs/fuzzing.md.

::

    python tests/fuzz_recordings.py --cases 20000              seeds 0 to 19,999, spread over all readers
    python tests/fuzz_recordings.py --reader experanto-mem --seed 123 --cases 1     one case again
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from queue import Empty, Queue

from fuzzing.case import describe_damage, run_case
from fuzzing.sessions import READERS

EXTRA_BYTES = 512 * 2**20
"""Address space that a worker may take beyond what it has once everything is imported."""

TIMEOUT = 20.0
"""Seconds after which a case counts as hanging."""


def work(reader: str, first: int, last: int) -> None:
    """Run cases and print a line of JSON before and after each; ends when told to by the parent or by a limit."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        run_case(reader, first, Path(scratch) / "warm-up") if first < 0 else None
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + EXTRA_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(first, last):
            print(json.dumps({"seed": seed}), flush=True)
            try:
                case = run_case(reader, seed, Path(scratch) / "case")
                result = {"outcome": case.outcome, "windows": case.windows, "damage": case.damage}
            except (Exception, RecursionError, MemoryError) as error:
                trace = traceback.format_exc().splitlines()[-8:]
                result = {"outcome": "violation", "what": f"{type(error).__name__}: {str(error)[:400]}", "trace": trace}
            result["grown_kb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started
            print(json.dumps(result), flush=True)


def watch(reader: str, first: int, last: int) -> tuple[Counter[str], list[tuple[int, str]], int, int]:
    """Run a range of seeds in worker processes; a worker that dies or hangs is replaced.

    Returns:
        (cases per outcome, seed and description of every violation, windows cut, most kB that a worker grew by).
    """
    outcomes: Counter[str] = Counter()
    violations: list[tuple[int, str]] = []
    windows = grown = 0
    while first < last:
        command = [sys.executable, __file__, "--work", reader, str(first), str(last)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        lines: Queue[str | None] = Queue()
        threading.Thread(target=_forward, args=(worker, lines), daemon=True).start()
        seed, patience = None, 120.0  # importing takes a while
        while True:
            try:
                line = lines.get(timeout=patience)
            except Empty:
                line = None
                worker.kill()
                problem = f"hangs for more than {patience:g} s"
            else:
                problem = f"the process died with status {worker.wait()}" if line is None else ""
            if line is None:
                break
            message = json.loads(line)
            patience = TIMEOUT
            if "outcome" not in message:
                seed = message["seed"]
                continue
            outcomes[message["outcome"]] += 1
            windows, grown = windows + message.get("windows", 0), max(grown, message["grown_kb"])
            if message["outcome"] == "violation":
                violations.append((seed or 0, "\n    ".join([message["what"], *message["trace"]])))
            first, seed = (seed or 0) + 1, None
        if first >= last:
            break
        if seed is None:
            raise RuntimeError(
                f"a worker ended before it began: {worker.stderr.read()[-2000:] if worker.stderr else ''}"
            )
        outcomes["violation"] += 1
        violations.append((seed, problem))
        first = seed + 1
    return outcomes, violations, windows, grown


def _forward(worker: subprocess.Popen[str], lines: Queue[str | None]) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        lines.put(line)
    lines.put(None)


def main() -> int:
    """Run cases and print what was found; status 1 when anything was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="in total, spread over the readers")
    parser.add_argument("--seed", type=int, default=0, help="of the first case of each reader")
    parser.add_argument("--reader", choices=READERS, help="only this one")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # damaged names are printed
    if args.work:
        work(args.work[0], int(args.work[1]), int(args.work[2]))
        return 0
    readers = [args.reader] if args.reader else list(READERS)
    failed = 0
    for number, reader in enumerate(readers):
        n_cases = args.cases // len(readers) + (number < args.cases % len(readers))
        began = time.perf_counter()
        outcomes, violations, windows, grown = watch(reader, args.seed, args.seed + n_cases)
        seconds = time.perf_counter() - began
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(
            f"{reader}: {n_cases} cases in {seconds:.0f} s ({counts}; {windows} windows cut; "
            f"memory grew by at most {grown / 1024:.0f} MB)",
            flush=True,
        )
        for seed, problem in violations:
            print(f"  --reader {reader} --seed {seed}: {describe_damage(reader, seed)}\n    {problem}", flush=True)
        failed += len(violations)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
