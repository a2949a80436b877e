"""The loop over the steps of a fine-tune: forward, backward, clip, update, validate, checkpoint, stop when asked to.

Everything random within a step is a function of (seed, step), and a step's state is its parameters and Adam moments, so
a run that continues from a checkpoint repeats what the uninterrupted run would have done, bit for bit on one CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from omnimouse.model.masking.masks import Mask
from omnimouse.recordings import Windows
from omnimouse.recordings.held_windows import HeldWindows
from omnimouse.support.progress import PartClock, progress_bar
from omnimouse.training.finetuning.finetune_checkpoint import TrainingState, copy_parameters, save_checkpoint
from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe
from omnimouse.training.finetuning.run_video import RunVideo
from omnimouse.training.shared.accelerators import OneDevice
from omnimouse.training.shared.checkpoint import append_history
from omnimouse.training.shared.data import BatchPlan, MaskChoice, batch_plan, cut_batch, planned_batches, torch_seed
from omnimouse.training.shared.forward import ECHO_SECONDS, StopRequest, forward_batch, read_numbers, seeded_torch
from omnimouse.training.shared.optimizers import ParameterGroup

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork

HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True)
class Validation:
    """What a run is validated on; the same windows, masks and neurons every time.

    Attributes:
        windows: of the validation tier.
        indices: which of them.
        masks: name -> mask.
        needs: the arrays these masks need.
        neuron_ids: int64 [len(indices), P], neurons of each window; None for the whole population in file order.
    """

    windows: Windows
    indices: list[int]
    masks: dict[str, Mask]
    needs: tuple[str, ...]
    neuron_ids: np.ndarray | None


@dataclass(frozen=True)
class TrainingRun:
    """Everything the loop needs and does not change.

    Attributes:
        model: on the accelerator's device.
        accelerator: device and precision.
        session: key of the session trained.
        recipe: how to train, settled.
        windows: what to train on.
        choice: masks to draw from.
        groups: optimizers, by the name of their parameters' set.
        validation: what to validate on, or None.
        output_dir: where checkpoints and the history go, or None.
        identity: see `save_checkpoint`.
        progress: whether to show a progress bar.
        video: where video features come from.
        clock: what its time goes into.
    """

    model: OmniMouseNetwork
    accelerator: Accelerator | OneDevice
    session: str
    recipe: FinetuneRecipe
    windows: Windows | HeldWindows
    choice: MaskChoice
    groups: dict[str, ParameterGroup]
    validation: Validation | None
    output_dir: Path | None
    identity: dict[str, Any]
    progress: bool
    video: RunVideo
    clock: PartClock = field(default_factory=PartClock)

    def plan(self, step: int) -> BatchPlan:
        """Returns the plan of one step, 0 for the first."""
        return batch_plan(
            self.recipe.seed,
            step,
            n_windows=len(self.windows),
            batch_size=self.recipe.batch_size,
            mask_weights=self.choice.weights,
            n_neurons=self.model.session_spec(self.session).n_neurons,
            max_population=self.model.config.max_population,
        )

    def refuse(self, plan: BatchPlan, what: str) -> None:
        """Raises ValueError naming the step, mask and windows that gave a number no training can go on from."""
        starts = ", ".join(f"{self.windows.starts[index]:.3f} s" for index in plan.window_indices)
        mask = self.choice.masks[plan.mask_index]
        raise ValueError(
            f"{what} at step {plan.step + 1}, with mask {self.choice.names[plan.mask_index]} ({mask}) and the windows "
            f"of session {self.session!r} starting at {starts}; the weights are those of the step before. Lower the "
            "learning rate, or run `omnimouse check` on the recording for extreme values in these windows."
        )


def finetune_step(run: TrainingRun, plan: BatchPlan, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Does one optimizer step on the windows of `plan`; returns its row of the history, yet without validation.

    Raises:
        ValueError: when the loss or a gradient is NaN or infinite; the weights have not moved then.
    """
    rates = {}
    for name, group in run.groups.items():
        rates[name] = run.recipe.schedule.learning_rate(group.recipe.learning_rate, plan.step, run.recipe.steps)
        group.set_learning_rate(rates[name])
    run.model.train(run.recipe.train_core)
    mask = run.choice.masks[plan.mask_index]
    batch = run.video.training_batch(batch, mask)
    with seeded_torch(torch_seed(run.recipe.seed, plan.step), run.accelerator.device):
        output, objective = forward_batch(
            run.model, run.accelerator, run.session, batch, mask, plan.neuron_ids, run.windows.missing_channels
        )
        run.accelerator.backward(objective)
    numbers = {"loss": objective, "response_loss": output.response_loss, "behavior_loss": output.behavior_loss}
    for name, group in run.groups.items():
        norm = run.accelerator.clip_grad_norm_(group.parameters.values(), group.recipe.max_grad_norm)
        numbers[f"gradient norm of the {name}"] = norm
    found = read_numbers(numbers)
    for name, number in found.items():
        if number is not None and not math.isfinite(number):
            run.refuse(plan, f"The {name} is {number}")
    for group in run.groups.values():
        group.optimizer.step()
        group.optimizer.zero_grad(set_to_none=True)
    return {
        "step": plan.step + 1,
        **{name: found[name] for name in ("loss", "response_loss", "behavior_loss")},
        "validation_loss": None,
        "validation_losses": None,
        "seconds": None,
        "mask": run.choice.names[plan.mask_index],
        "learning_rate": rates,
        "gradient_norm": {name: found[f"gradient norm of the {name}"] for name in run.groups},
    }


def validate(run: TrainingRun, validation: Validation) -> dict[str, float]:
    """Returns mask name -> mean loss over the validation windows.

    Raises:
        ValueError: when a loss is not finite.
    """
    found: dict[str, list[torch.Tensor]] = {name: [] for name in validation.masks}
    sizes = []
    run.model.eval()
    run.video.new_validation()
    with torch.no_grad(), run.clock.part("validation"):
        for start in range(0, len(validation.indices), run.recipe.batch_size):
            rows = slice(start, start + run.recipe.batch_size)
            batch = cut_batch(validation.windows, validation.indices[rows], needs=validation.needs)
            ids = None if validation.neuron_ids is None else validation.neuron_ids[rows]
            sizes.append(len(validation.indices[rows]))
            for name, mask in validation.masks.items():
                given = run.video.validation_batch(batch, mask, start)
                lacks = validation.windows.missing_channels
                found[name].append(forward_batch(run.model, run.accelerator, run.session, given, mask, ids, lacks)[1])
    means = torch.stack([torch.stack(values) for values in found.values()]).tolist()
    totals = [sum(loss * size for loss, size in zip(row, sizes, strict=True)) for row in means]
    losses = {name: total / sum(sizes) for name, total in zip(found, totals, strict=True)}
    if not all(math.isfinite(loss) for loss in losses.values()):
        raise ValueError(
            f"A validation loss of session {run.session!r} is not finite: {losses}. Lower the learning rate, or run "
            "`omnimouse check` on the recording for extreme values in the validation tier."
        )
    return losses


def _note_validation(run: TrainingRun, state: TrainingState, losses: Mapping[str, float]) -> float:
    """Takes the mean of `losses` into `state`, keeps the weights when it is the lowest so far, and returns it."""
    loss = sum(losses.values()) / len(losses)
    if state.best_validation_loss is None or loss < state.best_validation_loss:
        state.best_validation_loss, state.best_step = loss, state.step
        state.best_parameters = copy_parameters(run.groups)
    return loss


def _out_of_patience(run: TrainingRun, state: TrainingState) -> bool:
    """Whether the last `patience` validations brought no improvement; read off the history, so resuming keeps count."""
    if run.recipe.patience is None or state.best_step is None:
        return False
    since = [row for row in state.history if row["step"] > state.best_step and row["validation_loss"] is not None]
    return len(since) >= run.recipe.patience


def _show(bar: tqdm, run: TrainingRun, row: Mapping[str, Any], state: TrainingState) -> None:
    """Updates the progress bar with one row of the history."""
    shown = {"loss": f"{row['loss']:.3f}"}
    if state.best_validation_loss is not None:
        shown["best validation"] = f"{state.best_validation_loss:.3f} @ {state.best_step}"
    shown |= {f"|grad {name}|": f"{norm:.2g}" for name, norm in row["gradient_norm"].items()}
    if elapsed := bar.format_dict["elapsed"]:  # its own rate is unknown until something was shown
        shown["windows/s"] = f"{(bar.n + 1 - bar.initial) * run.recipe.batch_size / elapsed:.1f}"
    bar.set_postfix(shown, refresh=False)
    bar.update()


def _after_step(run: TrainingRun, state: TrainingState, row: dict[str, Any], begun: float) -> bool:
    """Counts a step, validates when it is time to, writes the row, and returns whether the run has ended."""
    state.step = row["step"]
    last = state.step == run.recipe.steps
    if run.validation is not None and (last or state.step % run.recipe.validation_interval == 0):
        row["validation_losses"] = validate(run, run.validation)
        row["validation_loss"] = _note_validation(run, state, row["validation_losses"])
    row["seconds"] = state.seconds = time.perf_counter() - begun
    state.history.append(row)
    state.stopped_early = not last and _out_of_patience(run, state)
    if run.output_dir is not None:
        append_history(run.output_dir / HISTORY_FILE, row)
    return last or state.stopped_early


def run_steps(run: TrainingRun, state: TrainingState) -> None:
    """Trains from where `state` stands to the end of the recipe; `state` is brought up to date after every step.

    Raises:
        ValueError: NaN or infinity in the data, the loss or a gradient.
        KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM, after a last checkpoint; the model then holds the weights
            of the last step.
    """
    recipe = run.recipe
    if state.stopped_early or state.step == recipe.steps:
        return
    begun = time.perf_counter() - state.seconds
    with StopRequest(grace_seconds=ECHO_SECONDS) as stop:
        if run.validation is not None and state.initial_validation_loss is None:
            state.initial_validation_loss = _note_validation(run, state, validate(run, run.validation))
        plans = (run.plan(step) for step in range(state.step, recipe.steps))
        stream = planned_batches(
            run.windows, plans, needs=run.choice.needs_of, num_workers=recipe.num_workers, device=run.accelerator.device
        )
        name = f"finetune {run.session}"
        with progress_bar(total=recipe.steps, initial=state.step, desc=name, unit="step", shown=run.progress) as bar:
            for plan, batch in stream:
                row = finetune_step(run, plan, batch)
                done = _after_step(run, state, row, begun)
                _show(bar, run, row, state)
                due = done or stop.signal_number is not None or state.step % recipe.checkpoint_interval == 0
                if due and run.output_dir is not None:
                    save_checkpoint(run.output_dir, run.groups, state, run.identity)
                if done:
                    break
                if stop.signal_number is not None:
                    stream.close()
                    stop.leave()
        stream.close()
