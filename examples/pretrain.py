"""Pre-training on many mice, from the recipe to a core that is used on a new one.

    python examples/pretrain.py                                      # simulates four mice first
    python examples/pretrain.py recipe.yaml --set steps=20000        # your own
    accelerate launch --multi_gpu --num_processes 4 examples/pretrain.py recipe.yaml

Stop it when you like: the same command goes on where it stopped, on as many processes as you like.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from accelerate.state import PartialState

from omnimouse import anneal, simulate_recording, train
from omnimouse.training import load_recipe

RECIPE = """
output: pretraining/run
recordings:
  paths: ["pretraining/mice/mouse-?"] # session folders, or globs of them
  tiers: [train]
model:
  preset: tiny                        # 1m, 5m, 20m, 80m, 300m: the released sizes
masks:
  names: [forecasting+stimulus+behavior, population+stimulus+behavior, stimulus+behavior, behavior]
  weights: [1, 1, 2, 0.5]             # leave masks out for the 120 of the release
steps: 400
batch_size: 4                         # windows per step and process, all of one session
optimizer:
  core: {learning_rate: 5.0e-4}
schedule:
  warmup_steps: 100                   # then constant: decays are forks, see below
evaluation:
  every: 100
  max_windows: 8
  masks: [forecasting+stimulus+behavior, stimulus+behavior]
outputs:
  checkpoint_every: 100
  keep_every: 200
  log_every: 20
"""


def simulate_mice(folder: Path, *, n_mice: int, n_neurons: int, minutes: float) -> None:
    """Writes the recordings of the recipe above; every mouse is an animal of its own."""
    for i in range(n_mice):
        mouse = folder / f"mouse-{i}"
        if not mouse.exists():
            simulate_recording(mouse, seed=100 + i, n_neurons=n_neurons, minutes=minutes, animal=f"mouse{i}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, help="YAML file; the recipe in this script if left out")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--anneal-steps", type=int, default=100, help="steps of the decay")
    parser.add_argument("--n-neurons", type=int, default=64, help="neurons of a simulated mouse")
    parser.add_argument("--minutes", type=float, default=10, help="length of a simulated recording")
    arguments = parser.parse_args()

    recipe = arguments.recipe
    if recipe is None:
        recipe = Path("pretraining/recipe.yaml")
        with PartialState().main_process_first():  # the others find what it wrote
            if not recipe.exists():
                simulate_mice(
                    Path("pretraining/mice"), n_mice=4, n_neurons=arguments.n_neurons, minutes=arguments.minutes
                )
                recipe.write_text(RECIPE)
    recipe = load_recipe(recipe, arguments.overrides)

    # The constant phase, which can go on for as long as you like ...
    run = train(recipe)

    # ... and a decay to near zero, forked from its last checkpoint: the core to use, and to publish.
    (fork,) = anneal(run.output, run.steps, steps=arguments.anneal_steps, shape="1-sqrt")
    if PartialState().is_main_process:
        print(f"{run.n_processes} process(es), {fork.steps} steps; the core and its sessions: {fork.model}")
        print(f"use it: omnimouse finetune my-recording/ --core {fork.model} --output my-mouse/")


if __name__ == "__main__":
    main()
