"""Annealing: forks of a run's checkpoints in which the learning rate falls to near zero."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from omnimouse.support.files import write_json
from omnimouse.support.validation import require, require_counts, require_numbers
from omnimouse.training.pretraining.pretraining_recipe import PretrainingRecipe, load_recipe
from omnimouse.training.pretraining.train import PretrainingResult, pretrain
from omnimouse.training.runs.distributed import Processes
from omnimouse.training.runs.run_folder import Fork, RunCheckpoint, RunFolder, alone, newest_whole
from omnimouse.training.shared.accelerators import start_accelerator

DecayShape = Literal["inverse-sqrt", "1-sqrt", "power"]
SHAPES: tuple[DecayShape, ...] = ("inverse-sqrt", "1-sqrt", "power")

INVERSE_SQRT_RANGE = 99.0
"""How far the shape "inverse-sqrt" goes along `1 / sqrt(1 + s)`: to a tenth of the peak, before the shift to zero."""

PUBLISHED_STEPS = 10_000


@dataclass(frozen=True)
class AnnealSchedule:
    """How the learning rate falls over T steps, as a factor of the constant phase's rate.

    With x = (t + 1) / (T + 1), so that the last step (t = T - 1) still moves the weights a little:

    * "1-sqrt": `1 - sqrt(x)`.
    * "inverse-sqrt": `(1 / sqrt(1 + s x) - 1 / sqrt(1 + s)) / (1 - 1 / sqrt(1 + s))` with s = 99: an inverse square
      root in time that would end at a tenth of the peak, shifted and stretched to go from 1 to 0.
    * "power": `(1 - x) ** power`; 1 is linear.

    Attributes:
        steps: T.
        shape: one of the above.
        power: exponent of "power".
    """

    steps: int = PUBLISHED_STEPS
    shape: DecayShape = "1-sqrt"
    power: float = 1.0

    def __post_init__(self) -> None:
        require_counts(self, 1, "steps")
        require(self.shape in SHAPES, self, "shape", self.shape, f"one of {', '.join(SHAPES)}")
        require_numbers(self, "power")

    def factor(self, step: int) -> float:
        """Returns the factor at step t of the decay, 0 for its first; in (0, 1)."""
        x = (min(max(step, 0), self.steps - 1) + 1) / (self.steps + 1)
        if self.shape == "1-sqrt":
            return 1.0 - math.sqrt(x)
        if self.shape == "power":
            return (1.0 - x) ** self.power
        end = 1.0 / math.sqrt(1.0 + INVERSE_SQRT_RANGE)
        return (1.0 / math.sqrt(1.0 + INVERSE_SQRT_RANGE * x) - end) / (1.0 - end)

    @property
    def name(self) -> str:
        """What folders of such a decay are called."""
        shape = f"power-{self.power:g}" if self.shape == "power" else self.shape
        return f"{shape}-{self.steps}"


def anneal(
    run: str | os.PathLike[str],
    at: int | Sequence[int],
    *,
    steps: int = PUBLISHED_STEPS,
    shape: DecayShape = "1-sqrt",
    power: float = 1.0,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> list[PretrainingResult]:
    """Forks checkpoints of a pre-training and decays each to near zero; the run itself is left as it is.

    A fork goes on in the data order of its run, in the folder `anneals/step-<at>-<decay>` of the run, which is a run
    folder of its own: it has a history and a model, and can be interrupted and continued by the same call. Forks are
    made one after another. Their checkpoints in the run are kept from now on.

    Args:
        run: folder of the run.
        at: step or steps whose checkpoints are forked.
        steps: optimizer steps of the decay.
        shape: how the rate falls, see `AnnealSchedule`.
        power: exponent of the shape "power".
        overrides: fields of the recipe to replace, e.g. `recordings.paths=[...]` after the data moved.
        progress: see `train`.

    Returns:
        One result for each step.

    Raises:
        ValueError: no run there, no checkpoint at one of the steps (those there are, are listed), or a number out of
            range.
    """
    schedule = AnnealSchedule(steps, shape, power)
    folder = RunFolder(Path(run))
    wanted = [at] if isinstance(at, int) else list(at)
    require(bool(wanted), "anneal", "at", at, "at least one step")
    recipe = load_recipe(folder.recipe, overrides)
    accelerator = start_accelerator(recipe.mixed_precision, cpu=recipe.cpu)
    processes = Processes(accelerator)
    with processes.together("find the checkpoints"):
        _keep_sources(folder, wanted, is_main=processes.is_main)
    results = []
    for step in wanted:
        fork = RunFolder(folder.anneals / f"step-{step:08d}-{schedule.name}")
        with alone(fork, processes):
            start = newest_whole(fork, processes) or RunCheckpoint.open(folder.checkpoint(step))
            with processes.together("begin a fork"):
                if processes.is_main:
                    made = Fork(str(folder.path.absolute()), step, steps, shape, power)
                    write_json(fork.fork, asdict(made))
            rate, own = _rate(recipe, schedule, step), replace(recipe, output=str(fork.path))
            last = step + steps
            results.append(pretrain(own, fork, accelerator, start, rate=rate, last=last, progress=progress))
    return results


def _keep_sources(folder: RunFolder, wanted: Sequence[int], *, is_main: bool) -> None:
    """Makes sure that checkpoints to fork from are there, and, in the main process, whole and kept from now on."""
    there = folder.checkpoint_steps()
    missing = [step for step in wanted if step not in there]
    if missing:
        raise ValueError(
            f"{folder.path} has no checkpoint at step {', '.join(map(str, missing))}; it has "
            f"{', '.join(map(str, there)) or 'none'}. Choose of these; outputs.keep_every of the recipe decides "
            "which ones are kept."
        )
    if is_main:
        folder.add_anneal_sources(wanted)
        for step in wanted:
            RunCheckpoint.check(folder.checkpoint(step))


def _rate(recipe: PretrainingRecipe, schedule: AnnealSchedule, at: int) -> Callable[[float, int], float]:
    """Returns (peak, step) -> learning rate of a fork: the run's rate where it was forked, times the decay."""

    def rate(peak: float, step: int) -> float:
        return recipe.schedule.learning_rate(peak, at, recipe.steps) * schedule.factor(step - at)

    return rate
