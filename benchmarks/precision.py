"""Forward passes in float32 and bfloat16: time by size and task, and what bfloat16 changes in scores. See README.md.

python benchmarks/precision.py
python benchmarks/precision.py --quick   # toy sizes, to see that everything works
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from floor import floor
from machine import markdown_table
from meters import Row, timed
from running import Parser, conditions, describe_run, report, write_results

from omnimouse import OmniMouseConfig, OmniMouseModel, evaluate, open_recording, simulate_recording
from omnimouse.evaluation.computing.precision import choose_precision, computing_in
from omnimouse.evaluation.scores import Scores

TASKS = ("stimulus+behavior", "population+stimulus")
PRECISIONS = ("float32", "bfloat16")
CPU = torch.device("cpu")


def time_forward(size: str, neurons: int, rounds: int) -> list[Row]:
    """The least time of a window in each precision, measured in turn, by task."""
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset(size)).eval()
    model.add_session("mouse", n_neurons=neurons, animal_id="mouse")
    window = {
        "responses": torch.rand(1, 60, neurons) * 3,
        "video": torch.randn(1, 1, 60, 36, 64),
        "behavior": torch.randn(1, 5, 40),
    }
    rows = []
    for task in TASKS:
        least: dict[str, float] = {}
        outputs: dict[str, torch.Tensor] = {}

        def forward(precision: Any, task: str = task, outputs: dict[str, torch.Tensor] = outputs) -> None:
            with torch.inference_mode(), computing_in(model, precision):
                output = model("mouse", **window, mask=task, all_neurons=True)
            assert output.response_predictions is not None
            outputs[precision] = output.response_predictions

        for _ in range(rounds):
            for precision in PRECISIONS:
                (seconds,) = timed(lambda precision=precision: forward(precision), 1, CPU)  # type: ignore[misc]
                least[precision] = min(least.get(precision, seconds), seconds)
        exact, rounded = (outputs[name] for name in PRECISIONS)
        moved = float((rounded - exact).abs().max() / exact.abs().max())
        chosen = choose_precision("auto", model)
        rows.append({"size": size, "task": task, **least, "largest_change": moved, "auto": chosen})
    return rows


def compare(first: Scores, second: Scores) -> list[list[str]]:
    """Scores of both, and the largest change of a neuron or of a group of channels."""
    rows = []
    for name, a in first.tasks.items():
        b = second[name]
        scores = ["-" if part.score is None else f"{part.score:.5f}" for part in (a, b)]
        neurons = [abs(x - y) for x, y in zip(_per_neuron(a), _per_neuron(b), strict=True)]
        groups = [abs(b.behavior_groups[group] - value) for group, value in a.behavior_groups.items()]
        largest = ["-" if not found else f"{np.nanmax([0.0, *found]):.1e}" for found in (neurons, groups)]
        rows.append([name, *scores, *largest])
    return rows


def _per_neuron(task: Any) -> list[float]:
    return [] if task.per_neuron is None else task.per_neuron.tolist()


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        __doc__,
        {
            "sizes": (["tiny", "5m", "80m"], ["tiny"], "presets to time"),
            "neurons": (4096, 16, "neurons of the population that is timed"),
            "rounds": (3, 1, "measurements of each precision, of which the least counts"),
            "windows": (40, 2, "windows to score per task"),
        },
    )
    options = parser.options(argv)
    settings = {name: getattr(options, name) for name in ("sizes", "neurons", "rounds", "windows")}
    run = describe_run(floor(quick=options.quick), **settings)
    times = [row for size in options.sizes for row in time_forward(size, options.neurons, options.rounds)]
    with tempfile.TemporaryDirectory() as folder:
        simulate_recording(Path(folder) / "mouse", seed=77, n_neurons=64, minutes=2.0 if options.quick else 6.0)
        recording = open_recording(Path(folder) / "mouse")
        core = OmniMouseModel.from_pretrained("omnimouse-tiny")
        core.add_session(recording)
        settings = {"tier": "final_test", "max_windows": options.windows, "progress": False}
        tasks = TASKS if options.quick else "all"
        scores = [evaluate(core, recording, tasks, precision=name, **settings) for name in PRECISIONS]
    shown = [
        [row["size"], row["task"], *(f"{row[name]:.3g}" for name in PRECISIONS),
         f"{row['float32'] / row['bfloat16']:.2f}", f"{row['largest_change']:.1e}", row["auto"]]
        for row in times
    ]  # fmt: skip
    text = report(
        "Forward passes in float32 and in bfloat16",
        "precision.py",
        [f"Seconds of one window of {options.neurons:,} neurons; largest change over the largest prediction:"],
        markdown_table(["size", "task", *PRECISIONS, "times faster", "largest change", "auto chooses"], shown),
        ["Scores of `omnimouse-tiny` on a simulated mouse that it has no vectors for, and the largest changes:"],
        markdown_table(["task", *PRECISIONS, "of a neuron", "of a group of channels"], compare(*scores)),
        conditions(run),
    )
    content = {"run": run, "times": times, "scores": [part.to_dict(per_neuron=False) for part in scores]}
    write_results(options.output, "precision", text, content)
    print(text)


if __name__ == "__main__":
    main()
