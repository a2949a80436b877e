"""How held-out scores grow with the number of training sessions and with the size of the core, on simulated mice.

    python benchmarks/scaling_study.py --work scaling-study     # about 70 minutes on one CPU core
    omnimouse scaling scaling-study/runs/* --output benchmarks/results/scaling

Nested sets of 1, 2, 4, 8 and 16 sessions at one size; four sizes on all 16. All runs are alike in everything else, the
number of steps included. Each is a trunk at a constant rate, with an anneal from its middle and one from its end. All
are scored on the held-out trials of the one session that they have in common. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from omnimouse import anneal, simulate_recording, train
from omnimouse.recordings.simulated import SimulationSettings

N_MICE, N_NEURONS, MINUTES, FIRST_SEED = 16, 128, 8, 500
STEPS, ANNEAL_STEPS = 2000, 300

SETTINGS = SimulationSettings(
    mean_rate=16.0, response_scale=1.6, validation_fraction=0.2, oracle_fraction=0.0, final_test_fraction=0.2
)
"""Five times as many spikes as by default, so that a few thousand steps learn from the stimulus."""

WIDTHS = (16, 32, 64, 128)
MAIN_WIDTH = 64
N_SESSIONS = (1, 2, 4, 8, 16)

MASKS = {"stimulus+behavior": 3, "population+stimulus+behavior": 1, "forecasting+stimulus+behavior": 1, "population": 1}


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
    for i in range(N_MICE):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("scaling-study"), help="folder for mice and runs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--only", nargs=2, type=int, metavar=("SESSIONS", "WIDTH"), help="one run instead of all")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    simulate_mice(arguments.work)
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
