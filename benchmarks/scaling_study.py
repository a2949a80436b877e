"""How held-out scores grow with the number of training sessions and with the size of the core, on simulated mice.

    python benchmarks/scaling_study.py --work scaling-study                # about 70 minutes on one CPU core
    omnimouse scaling scaling-study/runs/* --output benchmarks/results/scaling
    python benchmarks/scaling_study.py --work scaling-study --transfer     # about 6 minutes

Nested sets of 1, 2, 4, 8 and 16 sessions at one size; four sizes on all 16. All runs are alike in everything else, the
number of steps included. Each is a trunk at a constant rate, with an anneal from its middle and one from its end. All
are scored on the held-out trials of the one session that they have in common. With `--transfer`, the annealed cores are
frozen, and adapted to a mouse that none of them has seen. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from machine import HERE, markdown_table, replace_file

from omnimouse import OmniMouseModel, anneal, evaluate, simulate_recording, train
from omnimouse.recordings.simulation.simulated import SimulationSettings
from omnimouse.scaling import collect_points
from omnimouse.training import finetune

N_MICE, N_NEURONS, MINUTES, FIRST_SEED = 16, 128, 8, 500
N_UNSEEN = 1
STEPS, ANNEAL_STEPS = 2000, 300

SETTINGS = SimulationSettings(
    mean_rate=16.0, response_scale=1.6, validation_fraction=0.2, oracle_fraction=0.0, final_test_fraction=0.2
)
"""Five times as many spikes as by default, so that a few thousand steps learn from the stimulus."""

WIDTHS = (16, 32, 64, 128)
MAIN_WIDTH = 64
N_SESSIONS = (1, 2, 4, 8, 16)

MASKS = {"stimulus+behavior": 3, "population+stimulus+behavior": 1, "forecasting+stimulus+behavior": 1, "population": 1}


TRANSFER_STEPS = 200
TRANSFER_TASKS = ("stimulus+behavior", "population+stimulus+behavior", "forecasting+stimulus+behavior", "population")


def architecture(width: int) -> dict[str, int]:
    """Fields of the `tiny` preset that differ at a width; the head size is 64 or the width, if that is less."""
    return {
        "hidden_size": width,
        "num_attention_heads": max(1, width // 64),
        "video_hidden_size": width // 2,
        "video_num_heads": max(1, width // 64),
    }


def recipe(work: Path, n_sessions: int, width: int) -> dict:
    """The recipe of one trunk, as it would stand in a YAML file."""
    return {
        "output": str(work / "runs" / f"{n_sessions:02d}-sessions-width-{width}"),
        "recordings": {"paths": [str(work / "mice" / f"mouse-{i:02d}") for i in range(n_sessions)]},
        "model": {"preset": "tiny", "overrides": architecture(width), "initialization": "open"},
        "masks": {"names": list(MASKS), "weights": list(MASKS.values())},
        "steps": STEPS,
        "batch_size": 4,
        "optimizer": {"core": {"learning_rate": 1.5e-3}, "session": {"learning_rate": 1.2e-2}},
        "schedule": {"warmup_steps": 150},
        "evaluation": {"every": STEPS, "masks": list(MASKS), "max_windows": 40, "sessions": ["study00-1-1"]},
        "outputs": {"checkpoint_every": STEPS // 4, "keep_every": STEPS // 2, "log_every": 50, "trackers": []},
        "loader": {"workers": 1},
        "mixed_precision": "bf16",
    }


def simulate_mice(work: Path) -> None:
    """Writes the mice that are not there yet."""
    for i in range(N_MICE + N_UNSEEN):
        mouse = work / "mice" / f"mouse-{i:02d}"
        if not mouse.exists():
            simulate_recording(
                mouse, FIRST_SEED + i, n_neurons=N_NEURONS, minutes=MINUTES, animal=f"study{i:02d}", settings=SETTINGS
            )


def carry_out(work: Path, n_sessions: int, width: int) -> None:
    """Trains one trunk and its two anneals."""
    run = train(recipe(work, n_sessions, width), progress=False)
    for fork in anneal(run.output, [STEPS // 2, STEPS], steps=ANNEAL_STEPS, progress=False):
        row = [row for row in fork.history if row["kind"] == "evaluation"][-1]
        scores = {name: round(entry["score"], 3) for name, entry in row["scores"].items()}
        print(f"{fork.output}: loss {row['loss']:.4f}, {yaml.safe_dump(scores, default_flow_style=True)}", flush=True)


def transfer(work: Path) -> None:
    """Adapts every core to the unseen mice and writes a table of held-out scores."""
    rows = []
    for run in sorted((work / "runs").iterdir()):
        cores = [run / "anneals" / f"step-{at:08d}-1-sqrt-{ANNEAL_STEPS}" for at in (STEPS // 2, STEPS)]
        end = min(collect_points(cores), key=lambda point: point.loss)  # the better one, as in the curves
        core = run / "anneals" / end.name.rpartition("/")[2] / "model"
        scores = [adapt(core, work / "mice" / f"mouse-{N_MICE + i:02d}", work / "transfer") for i in range(N_UNSEEN)]
        means = {task: sum(score[task] for score in scores) / len(scores) for task in TRANSFER_TASKS}
        rows.append([str(len(end.sessions)), f"{end.parameters:,}", *(f"{means[task]:.3f}" for task in TRANSFER_TASKS)])
        print(rows[-1], flush=True)
    rows.sort(key=lambda row: (int(row[1].replace(",", "")), int(row[0])))
    lines = [
        "# Frozen cores on mice they have not seen",
        "",
        f"Single-trial correlation on held-out trials, after {TRANSFER_STEPS} steps "
        "that trained their session adapters alone.",
        "",
        *markdown_table(["sessions", "parameters", *TRANSFER_TASKS], rows, numbers_from=0),
        "",
    ]
    replace_file(HERE / "results" / "scaling" / "transfer.md", "\n".join(lines))


def adapt(core: Path, mouse: Path, work: Path) -> dict[str, float]:
    """Trains an adapter of one mouse on a frozen core, unless that was done before: task -> held-out correlation."""
    result = work / f"{core.parents[2].name}-{core.parent.name}-{mouse.name}.json"
    if not result.exists():
        model = OmniMouseModel.from_pretrained(core)  # without sessions: all new neurons start alike, at the mean
        finetune(
            model, mouse, steps=TRANSFER_STEPS, batch_size=4, masks=list(MASKS), mask_weights=list(MASKS.values()),
            session_learning_rate=3e-2, validation_tier=None, mixed_precision="bf16",
        )  # fmt: skip
        scores = evaluate(model, mouse, tasks=TRANSFER_TASKS, tier="final_test", progress=False)
        replace_file(result, json.dumps({task: scores.tasks[task].score for task in TRANSFER_TASKS}))
    return json.loads(result.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("scaling-study"), help="folder for mice and runs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--only", nargs=2, type=int, metavar=("SESSIONS", "WIDTH"), help="one run instead of all")
    parser.add_argument("--transfer", action="store_true", help="adapt the finished cores to unseen mice instead")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    simulate_mice(arguments.work)
    if arguments.transfer:
        transfer(arguments.work)
        return
    if arguments.only:
        carry_out(arguments.work, *arguments.only)
        return
    # The ends first, so that an unfinished study tells most.
    runs = [(16, MAIN_WIDTH), (1, MAIN_WIDTH), (4, MAIN_WIDTH), (16, 32), (16, 128), (8, MAIN_WIDTH), (2, MAIN_WIDTH)]
    runs += [(16, 16)]
    for n_sessions, width in runs:
        # A process for each: memory and plans of one are not left to the next.
        subprocess.run(
            [sys.executable, __file__, "--work", str(arguments.work), "--threads", str(arguments.threads),
             "--only", str(n_sessions), str(width)],
            check=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
