"""Trains the core that ships with the package, `omnimouse-tiny`, on simulated mice.

    python examples/train_tiny_core.py --work tiny-core                  # about 70 minutes on one CPU core
    python examples/train_tiny_core.py --work tiny-core --steps 30000    # longer; goes on where it stopped

The same `train` and `anneal` that serve recordings of one's own. Only two things are special: half of the mice have
ten times as many spikes, so that their responses tell of the stimulus with little noise, and the core starts from
weights that let the stimulus through from the first step. The core goes to `<work>/omnimouse-tiny`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from omnimouse import OmniMouseConfig, OmniMouseModel, anneal, simulate_recording, train
from omnimouse.recordings.simulated import SimulationSettings
from omnimouse.training.initialization import open_stimulus_path

N_MICE, N_NEURONS, MINUTES, FIRST_SEED = 16, 256, 20, 100
WARMUP_STEPS, STEPS, ANNEAL_STEPS = 150, 9_000, 2_500

CLEAR = SimulationSettings(mean_rate=32.0, response_scale=0.8)
"""Mice with many spikes: noise is a third of the default's, all else is the same."""

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
# The last third of the responses from the frames around it: cheaper than the whole window.
LATE_STIMULUS = {
    "n_visible_neurons": 0, "prefix_start": 0, "prefix_length": 0, "full_population_prefix_length": 0,
    "context_start": 0, "context_length": 0, "n_target_neurons": "all", "target_start": 30, "target_length": 30,
    "frames_start": 20, "n_frames": 40, "behavior": "encoded",
}  # fmt: skip
LATE_STIMULUS_WEIGHT = 2.0


def recipe(work: Path, steps: int, every: int) -> dict:
    """The recipe, as it would stand in a YAML file."""
    return {
        "output": str(work / "run"),
        "recordings": {"paths": [str(work / "mice" / "*")]},
        "model": {"start_from": str(work / "start")},
        "masks": {"names": [*TASK_WEIGHTS, LATE_STIMULUS], "weights": [*TASK_WEIGHTS.values(), LATE_STIMULUS_WEIGHT]},
        "steps": steps,
        "batch_size": 4,
        "seed": 17,
        "optimizer": {"core": {"learning_rate": 1.5e-3}, "session": {"learning_rate": 1.2e-2}},
        "schedule": {"warmup_steps": WARMUP_STEPS},
        "evaluation": {
            "every": every,
            "masks": ["stimulus+behavior", "population", "population+stimulus+behavior",
                      "forecasting", "forecasting+stimulus+behavior", "behavior"],
            "max_windows": 16,
            "max_sessions": 6,
        },
        "outputs": {"checkpoint_every": every, "keep_every": None, "log_every": min(100, every), "trackers": []},
        "loader": {"workers": 1},
        "mixed_precision": "bf16",
    }  # fmt: skip


def simulate_mice(folder: Path) -> None:
    """Writes the mice that are not there yet; every second one is clear."""
    for i in range(N_MICE):
        mouse = folder / f"mouse-{i:02d}"
        if not mouse.exists():
            simulate_recording(
                mouse, FIRST_SEED + i, n_neurons=N_NEURONS, minutes=MINUTES, animal=f"core{i:02d}",
                settings=CLEAR if i % 2 else None,
            )  # fmt: skip


def build_start(folder: Path) -> None:
    """Writes the core that training starts from."""
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny"))
    open_stimulus_path(model)
    model.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("tiny-core"), help="folder for mice, run and core")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps at the constant rate")
    parser.add_argument("--anneal-steps", type=int, default=ANNEAL_STEPS, help="steps of the decay after them")
    parser.add_argument("--every", type=int, default=1000, help="steps between checkpoints and evaluations")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = arguments.work
    simulate_mice(work / "mice")
    if not (work / "start").exists():
        build_start(work / "start")
    run = train(recipe(work, arguments.steps, arguments.every))
    (fork,) = anneal(run.output, run.steps, steps=arguments.anneal_steps, shape="1-sqrt")
    model = OmniMouseModel.from_pretrained(fork.model, sessions="all").eval().to(torch.bfloat16)
    if (work / "omnimouse-tiny").exists():  # of fewer steps
        shutil.rmtree(work / "omnimouse-tiny")
    model.save_pretrained(work / "omnimouse-tiny")


if __name__ == "__main__":
    main()
