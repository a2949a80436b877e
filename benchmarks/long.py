"""One hour of 10,000 neurons: peak memory and seconds of `predict` by task and of `evaluate`, and a kill in the middle.

    python benchmarks/long.py            # writes results/long.md, about ten minutes on two cores
    python benchmarks/long.py --quick    # toy sizes: does everything work?

The recording is a simulation of 250 neurons repeated with noise. Every task predicts its first windows into a file, in
a process of its own, first few and then many: memory must not differ. What the whole hour would take is said from the
windows per second. One task is killed with SIGKILL halfway and called again; its file must be that of a call that was
not killed.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path

from floor import floor
from loader import write_sessions
from machine import markdown_table
from meters import GIB, Row
from running import Parser, conditions, describe_run, measured, report, start_case, write_results

from omnimouse import TASKS
from omnimouse.evaluation.predicting.prediction_store import PROGRESS_FILE, partial_folder

SIZES = {
    "neurons": (10_000, 300, "neurons of the recording"),
    "minutes": (60.0, 3.0, "its length"),
    "preset": ("tiny", "tiny", "size of the core"),
    "few": (8, 2, "windows after which memory is looked at first"),
    "windows": (48, 4, "windows of each task"),
    "killed": (96, 24, "windows of the task that is killed"),
}
TIER, KILLED = "train", "forecasting"


def killed_and_resumed(case: Row, folder: Path) -> Row:
    """A whole call; one that is killed when half of it is on the disk; and the same call again."""
    case = {**case, "commit_seconds": 1.0}
    whole = measured(start_case("long_case.py", **case, output=str(folder / "whole.npz")))
    output = folder / "resumed.npz"
    process = start_case("long_case.py", **case, output=str(output))
    progress, done = partial_folder(output) / PROGRESS_FILE, 0
    while process.poll() is None and done < case["windows"] // 2:
        time.sleep(0.05)
        if progress.exists():
            done = json.loads(progress.read_text())["done"]
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    resumed = measured(start_case("long_case.py", **case, output=str(output)))
    return {"done": done, "whole": whole, "resumed": resumed, "same": whole["sha256"] == resumed["sha256"]}


def main() -> None:
    options = Parser(__doc__, SIZES).options()
    lowest = floor(quick=options.quick)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        begun = time.perf_counter()
        (recording,) = write_sessions(folder, 1, options.neurons, options.minutes)
        print(f"recording written in {time.perf_counter() - begun:.0f} s", flush=True)
        case: Row = {"recording": recording, "preset": options.preset, "tier": TIER}
        rows = []
        for task in TASKS:
            asked = {"do": "predict", "task": task, "few": options.few, "windows": options.windows}
            row = measured(start_case("long_case.py", **case, **asked, output=str(folder / "task.npz")))
            rows.append({"task": task, **row})
            print(json.dumps(rows[-1]), flush=True)
        scored = measured(start_case("long_case.py", **case, do="evaluate", windows=options.few))
        asked = {"do": "predict", "task": KILLED, "few": None, "windows": options.killed}
        kill = killed_and_resumed({**case, **asked}, folder)
    per_hour = 3600  # windows, at the default stride of a second
    table = markdown_table(
        ["task", "peak GiB", f"after {options.few} windows", "windows/s", "an hour takes", "its file, GB"],
        [
            [
                row["task"],
                *(f"{row[name] / GIB:.2f}" for name in ("peak", "peak_of_few")),
                f"{row['windows'] / row['seconds']:.2f}",
                f"{per_hour * row['seconds'] / row['windows'] / 60:.0f} min",
                f"{per_hour * row['bytes'] / row['windows'] / 1e9:.2f}",
            ]
            for row in rows
        ],
    )
    words = [
        f"`evaluate` of {scored['tasks']} tasks on {options.few} windows: {scored['seconds']:.0f} s, peak "
        f"{scored['peak'] / GIB:.2f} GiB.",
        f"`predict` of {KILLED}, killed after {kill['done']} of {options.killed} windows: the same call took "
        f"{kill['resumed']['seconds']:.1f} s where a whole one takes {kill['whole']['seconds']:.1f} s, and the file is "
        + ("the same, byte for byte." if kill["same"] else "ANOTHER ONE."),
    ]
    run = describe_run(
        lowest, neurons=options.neurons, minutes=options.minutes, preset=options.preset, windows=options.windows
    )
    text = report("Long recordings of many neurons", "long.py", conditions(run), table, words)
    print(text)
    write_results(options.output, "long", text, {"run": run, "tasks": rows, "evaluate": scored, "killed": kill})
    if not kill["same"]:
        raise SystemExit("the resumed file is not that of an uninterrupted call")


if __name__ == "__main__":
    main()
