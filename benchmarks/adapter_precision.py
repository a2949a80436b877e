"""Size of a session adapter, and what storing it in bfloat16 changes in its scores. See README.md.

python benchmarks/adapter_precision.py           # 8,000 simulated neurons, about 15 minutes on two CPU cores
python benchmarks/adapter_precision.py --quick   # a toy size, to see that everything works
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from machine import HERE, describe_machine, markdown_table, replace_file
from stand_in import random_sessions

from omnimouse import OmniMouseConfig, OmniMouseModel, evaluate, finetune, open_recording, simulate_recording
from omnimouse.evaluation.scores import Scores
from omnimouse.model.session_tables.session_specs import SessionSpec

TASKS = ("stimulus+behavior", "population+stimulus+behavior", "forecasting+stimulus+behavior", "behavior+stimulus")
DTYPES = ("float32", "bfloat16")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, help="neurons of the simulated mouse (default: 8000)")
    parser.add_argument("--minutes", type=float, help="length of its recording (default: 10)")
    parser.add_argument("--steps", type=int, help="training steps of its adapter (default: 200)")
    parser.add_argument("--windows", type=int, default=40, help="windows to score per task (default: 40)")
    parser.add_argument("--quick", action="store_true", help="32 neurons, 3 steps; writes only with --output")
    parser.add_argument("--output", type=Path, help="folder of the results (default: benchmarks/results)")
    options = parser.parse_args(argv)
    options.neurons = options.neurons or (32 if options.quick else 8000)
    options.minutes = options.minutes or (2 if options.quick else 10)
    options.steps = options.steps or (3 if options.quick else 200)
    if options.output is None and not options.quick:
        options.output = HERE / "results"
    return options


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def measure_sizes(neurons: int, work: Path) -> list[list[str]]:
    """Bytes on disk of an adapter's folder, by identity size and type. Values are random; they do not matter here."""
    rows = []
    for size in (64, 128, 256):
        model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", identity_size=size))
        ((spec, tensors),) = random_sessions([SessionSpec("stand-in", neurons, "animal")], size)
        model.sessions.add_all([(spec, tensors)], device="cpu")
        cells = [
            folder_bytes(model.save_session("stand-in", work / f"{size}-{dtype}", dtype=dtype)) for dtype in DTYPES
        ]
        rows.append([str(size), *(f"{cell / 1e6:.2f}" for cell in cells), f"{cells[1] / cells[0]:.2f}"])
    return rows


def compare(first: Scores, second: Scores) -> list[list[str]]:
    """Scores of both, and how far single neurons moved."""
    rows = []
    for task in TASKS:
        a, b = first[task], second[task]
        if a.score is not None and a.per_neuron is not None and b.per_neuron is not None:
            moved = np.abs(a.per_neuron - b.per_neuron)
            rows.append(
                [task, f"{a.score:.5f}", f"{b.score:.5f}", f"{b.score - a.score:+.1e}", f"{np.nanmax(moved):.1e}"]
            )
        for group, value in a.behavior_groups.items():
            other = b.behavior_groups[group]
            rows.append([f"{task}: {group}", f"{value:.5f}", f"{other:.5f}", f"{other - value:+.1e}", ""])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    run: dict[str, Any] = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **describe_machine(),
        **{name: getattr(options, name) for name in ("neurons", "minutes", "steps", "windows")},
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sizes = measure_sizes(options.neurons, work)
        simulate_recording(work / "mouse", seed=77, n_neurons=options.neurons, minutes=options.minutes)
        recording = open_recording(work / "mouse")
        model = OmniMouseModel.from_pretrained("omnimouse-tiny", sessions="all")
        finetune(model, recording, steps=options.steps, batch_size=4, masks=TASKS, mixed_precision="no")
        scores = []
        for dtype in DTYPES:
            model.save_session(recording.session_key, work / dtype, dtype=dtype)
            loaded = OmniMouseModel.from_pretrained(work / dtype)
            scores.append(
                evaluate(loaded, recording, tasks=TASKS, tier="final_test", max_windows=options.windows, stride=30)
            )
    lines = [
        "# A session adapter in float32 and in bfloat16",
        "",
        "Written by `benchmarks/adapter_precision.py`; `benchmarks/README.md` explains it.",
        "",
        f"Size on disk of an adapter of {options.neurons:,} neurons (both its files), in MB:",
        "",
        *markdown_table(["identity size", *DTYPES, "ratio"], sizes),
        "",
        f"Scores of an adapter of `omnimouse-tiny` (identity size 64) for {options.neurons:,} simulated neurons:",
        "",
        *markdown_table(["task", *DTYPES, "change", "largest change of a neuron"], compare(*scores)),
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in run.items()),
        "",
    ]
    if options.output is not None:
        replace_file(options.output / "adapter-precision.md", "\n".join(lines))
        content = {"run": run, "sizes": sizes, "scores": [part.to_dict(per_neuron=False) for part in scores]}
        replace_file(options.output / "adapter-precision.json", json.dumps(content, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
