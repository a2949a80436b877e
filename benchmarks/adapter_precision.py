"""Size of a session adapter, and what storing it in bfloat16 changes in its scores. See README.md.

python benchmarks/adapter_precision.py           # 8,000 simulated neurons, about 15 minutes on two CPU cores
python benchmarks/adapter_precision.py --quick   # a toy size, to see that everything works
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from floor import floor
from machine import markdown_table
from running import Parser, conditions, describe_run, report, write_results
from stand_in import random_sessions

from omnimouse import OmniMouseConfig, OmniMouseModel, evaluate, finetune, open_recording, simulate_recording
from omnimouse.evaluation.scores import Scores
from omnimouse.model.session_tables.session_specs import SessionSpec

TASKS = ("stimulus+behavior", "population+stimulus+behavior", "forecasting+stimulus+behavior", "behavior+stimulus")
DTYPES = ("float32", "bfloat16")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(
        __doc__,
        {
            "neurons": (8000, 32, "neurons of the simulated mouse"),
            "minutes": (10.0, 2.0, "length of its recording"),
            "steps": (200, 3, "training steps of its adapter"),
        },
    )
    parser.add_argument("--windows", type=int, default=40, help="windows to score per task (default: 40)")
    return parser.options(argv)


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
    settings = {name: getattr(options, name) for name in ("neurons", "minutes", "steps", "windows")}
    run = describe_run(floor(quick=options.quick), **settings)
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
    text = report(
        "A session adapter in float32 and in bfloat16",
        "adapter_precision.py",
        [f"Size on disk of an adapter of {options.neurons:,} neurons (both its files), in MB:"],
        markdown_table(["identity size", *DTYPES, "ratio"], sizes),
        [f"Scores of an adapter of `omnimouse-tiny` (identity size 64) for {options.neurons:,} simulated neurons:"],
        markdown_table(["task", *DTYPES, "change", "largest change of a neuron"], compare(*scores)),
        conditions(run),
    )
    content = {"run": run, "sizes": sizes, "scores": [part.to_dict(per_neuron=False) for part in scores]}
    write_results(options.output, "adapter-precision", text, content)
    print(text)


if __name__ == "__main__":
    main()
