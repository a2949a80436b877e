"""Trains the core that ships with the package, `omnimouse-tiny`, on simulated mice.

    python examples/train_tiny_core.py --work tiny-core                    # from first weights
    python examples/train_tiny_core.py --work tiny-core --start old-core   # on from an earlier core

The same `train` and `anneal` that serve recordings of one's own. Two things only simulated mice offer: as many mice as
one likes, and targets without noise (`recordings.targets: expected`). Stopped and started again, it goes on where it
was; with more steps, beyond. The core goes to `<work>/omnimouse-tiny`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from omnimouse import OmniMouseModel, anneal, session_keys, simulate_recording, train

N_MICE, N_NEURONS, MINUTES, FIRST_SEED = 12, 256, 20, 100
BATCH, WARMUP_STEPS = 4, 150

# Weight of each mask. Half of the steps predict responses from the stimulus: how it drives neurons takes longest.
TASK_WEIGHTS = {
    "stimulus+behavior": 3.0,
    "stimulus": 1.5,
    "population+stimulus+behavior": 1.2,
    "population": 0.8,
    "population+behavior": 0.4,
    "forecasting": 1.2,
    "forecasting+behavior": 0.7,
    "forecasting+stimulus+behavior": 1.5,
    "forecasting+stimulus": 0.4,
    "behavior": 0.4,
    "behavior+stimulus": 0.2,
}
# The second half of the responses from the frames around it: cheaper than the whole window.
LATE_STIMULUS = {
    "n_visible_neurons": 0, "prefix_start": 0, "prefix_length": 0, "full_population_prefix_length": 0,
    "context_start": 0, "context_length": 0, "n_target_neurons": "all", "target_start": 30, "target_length": 30,
    "frames_start": 20, "n_frames": 40, "behavior": "encoded",
}  # fmt: skip
LATE_STIMULUS_WEIGHT = 2.0

EVALUATED = (
    "stimulus+behavior", "population", "population+stimulus+behavior", "forecasting", "forecasting+stimulus+behavior",
    "behavior",
)  # fmt: skip


def recipe(work: Path, start: str | None, steps: int, every: int) -> dict:
    """The recipe, as it would stand in a YAML file."""
    known = [] if start is None else session_keys(start)
    return {
        "output": str(work / "run"),
        "recordings": {
            "paths": [str(work / "mice" / "mouse-[0-9][0-9]")],
            "targets": "expected",
            "weights": {"*": 2, **dict.fromkeys(known, 1)},  # mice that the core knows are visited half as often
        },
        "model": {"preset": "tiny", "initialization": "open"} if start is None else {"start_from": start},
        "masks": {"names": [*TASK_WEIGHTS, LATE_STIMULUS], "weights": [*TASK_WEIGHTS.values(), LATE_STIMULUS_WEIGHT]},
        "steps": steps,
        "batch_size": BATCH,
        "seed": 18,
        "optimizer": {"core": {"learning_rate": 1.2e-3}, "session": {"learning_rate": 1.0e-2}},
        "schedule": {"warmup_steps": WARMUP_STEPS},
        "evaluation": {"every": every, "masks": list(EVALUATED), "max_windows": 16, "max_sessions": 6},
        "outputs": {
            "checkpoint_every": max(1, every // 2), "keep_every": None, "log_every": min(100, every), "trackers": [],
        },
        "loader": {"workers": 1},
        "mixed_precision": "bf16",
        "cpu": True,
    }  # fmt: skip


def simulate_mice(folder: Path) -> None:
    """Writes the mice that are not there yet."""
    for i in range(N_MICE):
        mouse = folder / f"mouse-{i:02d}"
        if not mouse.exists():
            simulate_recording(mouse, FIRST_SEED + i, n_neurons=N_NEURONS, minutes=MINUTES, animal=f"core{i:02d}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("tiny-core"), help="folder for mice, run and core")
    parser.add_argument("--start", help="name or folder of a core to go on from; default: first weights")
    parser.add_argument("--steps", type=int, default=20_000, help="steps at the constant rate")
    parser.add_argument("--anneal-steps", type=int, default=3_000, help="steps of the decay after them")
    parser.add_argument("--every", type=int, default=1_000, help="steps between evaluations")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = arguments.work
    simulate_mice(work / "mice")
    run = train(recipe(work, arguments.start, arguments.steps, arguments.every))
    (fork,) = anneal(run.output, run.steps, steps=arguments.anneal_steps, shape="1-sqrt")
    model = OmniMouseModel.from_pretrained(fork.model, sessions="all").eval().to(torch.bfloat16)
    if (work / "omnimouse-tiny").exists():  # of fewer steps
        shutil.rmtree(work / "omnimouse-tiny")
    model.save_pretrained(work / "omnimouse-tiny")


if __name__ == "__main__":
    main()
