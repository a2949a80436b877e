"""The loop over steps: forward, backward, clip, update, validate, checkpoint, stop when asked to.

Everything random within a step is a function of (seed, step), and a step's state is its parameters and Adam moments, so
a run that continues from a checkpoint repeats what the uninterrupted run would have done, bit for bit on one CPU.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from omnimouse.model.masks import Mask
from omnimouse.support.progress import progress_bar
from omnimouse.training.shared.accelerators import OneDevice
from omnimouse.training.shared.checkpoint import TrainingState, append_history, copy_parameters, save_checkpoint
from omnimouse.training.shared.data import (
    BatchPlan,
    MaskChoice,
    WindowSource,
    batch_plan,
    batches,
    cut_batch,
    torch_seed,
)
from omnimouse.training.shared.recipe import FinetuneRecipe, ParameterGroup

logger = logging.getLogger(__name__)

HISTORY_FILE = "history.jsonl"

ECHO_SECONDS = 10.0
"""Launchers and schedulers send a request to stop several times: to the process group, and once more from the launcher
to its children. Within this time of the first, all are one request."""


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

    windows: WindowSource
    indices: list[int]
    masks: dict[str, Mask]
    needs: tuple[str, ...]
    neuron_ids: np.ndarray | None


@dataclass(frozen=True)
class TrainingRun:
    """Everything the loop needs and does not change.

    Attributes:
        model: an `OmniMouseModel` on the accelerator's device.
        accelerator: device and precision.
        session: key of the session trained.
        n_neurons: neurons of that session.
        recipe: how to train.
        windows: what to train on.
        choice: masks to draw from.
        groups: optimizers, by the name of their parameters' set.
        validation: what to validate on, or None.
        output_dir: where checkpoints and the history go, or None.
        checkpoint_every: steps between checkpoints.
        identity: see `save_checkpoint`.
        num_workers: see `batches`.
        progress: whether to show a progress bar.
    """

    model: Any
    accelerator: Accelerator | OneDevice
    session: str
    n_neurons: int
    recipe: FinetuneRecipe
    windows: WindowSource
    choice: MaskChoice
    groups: dict[str, ParameterGroup]
    validation: Validation | None
    output_dir: Path | None
    checkpoint_every: int
    identity: dict[str, Any]
    num_workers: int
    progress: bool

    def plan(self, step: int) -> BatchPlan:
        """Returns the plan of one step, 0 for the first."""
        return batch_plan(
            self.recipe.seed,
            step,
            n_windows=len(self.windows),
            batch_size=self.recipe.batch_size,
            mask_weights=self.choice.weights,
            n_neurons=self.n_neurons,
            max_population=self.model.config.max_population,
        )


class StopRequest:
    """While active, SIGTERM and Ctrl-C ask the loop to stop after the step under way; a later one stops at once.

    Signals can be handled in the main thread only; elsewhere this does nothing. On exit the old handlers are put back.

    Args:
        grace_seconds: a signal within this time of the first is taken for an echo of it.
    """

    def __init__(self, grace_seconds: float = 0.0) -> None:
        self.signal_number: int | None = None
        self.grace_seconds = grace_seconds
        self._first = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number, self._first = number, time.monotonic()
        elif time.monotonic() - self._first >= self.grace_seconds:
            self.leave()

    def leave(self) -> None:
        """Raises what the signal stands for: KeyboardInterrupt for Ctrl-C, SystemExit(143) for SIGTERM."""
        if self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def only_trainable(model: nn.Module, groups: Mapping[str, ParameterGroup]) -> Iterator[None]:
    """Freezes everything but the groups' parameters, and undoes that afterwards, leaving no gradient behind.

    With the core frozen the model is in eval mode, so stochastic depth does not blur a core that cannot adapt to it;
    `train_step` sees to that.
    """
    was_training = model.training
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    trained = {id(parameter) for group in groups.values() for parameter in group.parameters.values()}
    for parameter, _ in flags:
        parameter.requires_grad_(id(parameter) in trained)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        model.train(was_training)


@contextmanager
def seeded_torch(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch within the block and gives the caller's random state back afterwards."""
    kind = device.type if device.type in ("cuda", "xpu") else "cuda"  # `fork_rng` knows devices with numbers only
    mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=[device] if device.type == kind else [], device_type=kind):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)


def _forward(run: TrainingRun, batch: Mapping[str, torch.Tensor], mask: Mask, neuron_ids: np.ndarray | None) -> Any:
    """Returns the model's output for one batch, in the run's precision."""
    return forward_batch(run.model, run.accelerator, run.session, batch, mask, neuron_ids)


def forward_batch(
    model: Any,
    accelerator: Accelerator | OneDevice,
    session: str,
    batch: Mapping[str, torch.Tensor],
    mask: Mask,
    neuron_ids: np.ndarray | None,
) -> Any:
    """Returns the model's output for one batch of a session, in the accelerator's precision.

    Args:
        model: on the accelerator's device.
        accelerator: device and precision.
        session: key of the session.
        batch: windows of it.
        mask: what is visible and what is predicted.
        neuron_ids: int64 [B, P]; None for the whole population in file order.
    """
    device = accelerator.device
    moved = {name: array.to(device, non_blocking=True) for name, array in batch.items()}
    ids = None if neuron_ids is None else torch.from_numpy(neuron_ids).to(device)
    with accelerator.autocast():
        return model(session, **moved, mask=mask, neuron_ids=ids, all_neurons=ids is None)


def _refuse(run: TrainingRun, plan: BatchPlan, what: str) -> None:
    """Raises ValueError naming the step, mask and windows that gave a number no training can go on from."""
    starts = ", ".join(f"{run.windows.starts[index]:.3f} s" for index in plan.window_indices)
    mask = run.choice.masks[plan.mask_index]
    raise ValueError(
        f"{what} at step {plan.step + 1}, with mask {run.choice.names[plan.mask_index]} ({mask}) and the windows of "
        f"session {run.session!r} starting at {starts}; the weights are those of the step before. Lower the learning "
        "rate, or run `omnimouse check` on the recording for extreme values in these windows."
    )


def train_step(run: TrainingRun, plan: BatchPlan, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Does one optimizer step.

    Args:
        run: model, optimizers and recipe.
        plan: what to train on.
        batch: the windows of `plan`.

    Returns:
        The step's row of the history, yet without validation.

    Raises:
        ValueError: when the loss or a gradient is NaN or infinite; the weights have not moved then.
    """
    rates = {}
    for name, group in run.groups.items():
        rates[name] = run.recipe.schedule.learning_rate(group.recipe.learning_rate, plan.step, run.recipe.steps)
        group.set_learning_rate(rates[name])
    run.model.train(run.recipe.core is not None)
    with seeded_torch(torch_seed(run.recipe.seed, plan.step), run.accelerator.device):
        output = _forward(run, batch, run.choice.masks[plan.mask_index], plan.neuron_ids)
        loss = output.loss.item()
        if not math.isfinite(loss):
            _refuse(run, plan, f"The loss is {loss}")
        run.accelerator.backward(output.loss)
    norms = {}
    for name, group in run.groups.items():
        norms[name] = float(run.accelerator.clip_grad_norm_(group.parameters.values(), group.recipe.max_grad_norm))
        if not math.isfinite(norms[name]):
            _refuse(run, plan, f"The gradient norm of the {name} is {norms[name]}")
    for group in run.groups.values():
        group.optimizer.step()
        group.optimizer.zero_grad(set_to_none=True)
    return {
        "step": plan.step + 1,
        "loss": loss,
        "response_loss": as_number(output.response_loss),
        "behavior_loss": as_number(output.behavior_loss),
        "validation_loss": None,
        "validation_losses": None,
        "seconds": None,
        "mask": run.choice.names[plan.mask_index],
        "learning_rate": rates,
        "gradient_norm": norms,
    }


def as_number(loss: torch.Tensor | None) -> float | None:
    """Returns a loss as a float, None when the mask does not have this loss."""
    return None if loss is None else float(loss.item())


def validate(run: TrainingRun) -> dict[str, float]:
    """Returns mask name -> mean loss over the validation windows.

    Raises:
        ValueError: when a loss is not finite.
    """
    validation = run.validation
    assert validation is not None
    totals = dict.fromkeys(validation.masks, 0.0)
    run.model.eval()
    with torch.no_grad():
        for start in range(0, len(validation.indices), run.recipe.batch_size):
            rows = slice(start, start + run.recipe.batch_size)
            batch = cut_batch(validation.windows, validation.indices[rows], needs=validation.needs)
            ids = None if validation.neuron_ids is None else validation.neuron_ids[rows]
            for name, mask in validation.masks.items():
                totals[name] += _forward(run, batch, mask, ids).loss.item() * len(validation.indices[rows])
    losses = {name: total / len(validation.indices) for name, total in totals.items()}
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


def _after_step(run: TrainingRun, state: TrainingState, row: dict[str, Any], begun: float) -> None:
    """Counts a step, validates when it is time to, and writes the row."""
    state.step = row["step"]
    last = state.step == run.recipe.steps
    if run.validation is not None and (last or state.step % run.recipe.validate_every == 0):
        row["validation_losses"] = validate(run)
        row["validation_loss"] = _note_validation(run, state, row["validation_losses"])
    row["seconds"] = state.seconds = time.perf_counter() - begun
    state.history.append(row)
    state.stopped_early = not last and _out_of_patience(run, state)
    if run.output_dir is not None:
        append_history(run.output_dir / HISTORY_FILE, row)


def _save(run: TrainingRun, state: TrainingState) -> None:
    """Saves a checkpoint when the run has a folder for it."""
    if run.output_dir is not None:
        save_checkpoint(run.output_dir, run.groups, state, run.identity)


def run_steps(run: TrainingRun, state: TrainingState) -> None:
    """Trains from where `state` stands to the end of the recipe; `state` is brought up to date after every step.

    Raises:
        ValueError: NaN or infinity in the data, the loss or a gradient.
        KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM, after a last checkpoint; the model then holds the weights
            of the last step.
    """
    if state.stopped_early or state.step == run.recipe.steps:
        return
    begun = time.perf_counter() - state.seconds
    with StopRequest(grace_seconds=ECHO_SECONDS) as stop:
        if run.validation is not None and state.initial_validation_loss is None:
            state.initial_validation_loss = _note_validation(run, state, validate(run))
        plans = (run.plan(step) for step in range(state.step, run.recipe.steps))
        stream = batches(run.windows, plans, needs=run.choice.needs, num_workers=run.num_workers)
        with progress_bar(
            total=run.recipe.steps,
            initial=state.step,
            desc=f"finetune {run.session}",
            unit="step",
            shown=run.progress,
        ) as bar:
            for plan, batch in stream:
                row = train_step(run, plan, batch)
                _after_step(run, state, row, begun)
                _show(bar, run, row, state)
                done = state.stopped_early or state.step == run.recipe.steps
                if done or stop.signal_number is not None or state.step % run.checkpoint_every == 0:
                    _save(run, state)
                if done:
                    break
                if stop.signal_number is not None:
                    stream.close()
                    stop.leave()
        stream.close()
