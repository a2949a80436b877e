"""One optimizer step of a pre-training: every process trains one of its sessions, and all move the core alike."""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from omnimouse.support.files import write_json
from omnimouse.support.tensor_files import write_tensors
from omnimouse.support.validation import to_mapping
from omnimouse.training.pretraining.corpus_order import CorpusPlan, corpus_plan, session_at, step_seed
from omnimouse.training.pretraining.expected_targets import expect_responses
from omnimouse.training.pretraining.setup import PretrainingRun
from omnimouse.training.runs.flops import training_flops
from omnimouse.training.runs.monitor import STEP_NUMBERS, count_tokens, mask_family
from omnimouse.training.shared.data import ahead, cut_batch
from omnimouse.training.shared.forward import forward_batch, seeded_torch
from omnimouse.training.shared.optimizers import ParameterGroup


@dataclass(frozen=True)
class StepBatch:
    """What one process trains on in one step: what was drawn, the windows, when they start (seconds), and rows of their
    behaviour that were not recorded."""

    plan: CorpusPlan
    arrays: dict[str, torch.Tensor]
    starts: list[float]
    missing_channels: tuple[int, ...]


@dataclass(frozen=True)
class StepResult:
    """What a step did: `STEP_NUMBERS` over all processes, learning rates, norm of the core's gradient unclipped."""

    numbers: dict[str, float]
    rates: dict[str, float]
    core_norm: float


def load_step(run: PretrainingRun, step: int) -> StepBatch | ValueError | None:
    """Cuts the windows of one step; None in a process without sessions.

    An error of the data is returned rather than raised: all processes have to learn of it.
    """
    if not run.owned:
        return None
    recipe, process = run.recipe, run.processes.rank
    visits = {key: info.visits for key, info in run.owned.items()}
    key, visit = session_at(recipe.seed, step, process, visits)
    try:
        with run.recordings.lend_to_train(key) as windows:
            plan = corpus_plan(
                recipe.seed,
                step,
                process,
                session=key,
                visit=visit,
                n_windows=len(windows),
                batch_size=recipe.batch_size,
                mask_weights=run.masks.weights,
                usable_masks=run.masks.usable[key],
                n_neurons=run.owned[key].n_neurons,
                max_population=run.model.config.max_population,
            )
            needs = run.masks.needs[key][plan.mask_index]
            arrays = cut_batch(windows, plan.window_indices, needs=needs, device=run.processes.device)
            if recipe.recordings.targets == "expected" and "responses" in arrays:
                mask = run.masks.usable[key][plan.mask_index].resolve(plan.neuron_ids.shape[1], run.model.config)
                responses = arrays["responses"]
                arrays["responses"] = expect_responses(responses, windows, plan.window_indices, plan.neuron_ids, mask)
            starts = [float(windows.starts[i]) for i in plan.window_indices]
            return StepBatch(plan, arrays, starts, windows.missing_channels)
    except ValueError as error:
        return error
    except OSError as error:
        return ValueError(f"Session {key!r} cannot be read from {run.owned[key].path}: {error}")


def load_steps(run: PretrainingRun, first: int) -> Generator[StepBatch | ValueError | None, None, None]:
    """Yields the batches of this process from one step to the end of the run, read in advance by threads."""
    return ahead(lambda step: load_step(run, step), range(first, run.last), workers=run.recipe.loader.workers)


def pretraining_step(
    run: PretrainingRun, step: int, batch: StepBatch | ValueError | None, *, wants_to_stop: bool
) -> StepResult:
    """Does one step, 0 for the first, with what `load_step` gave; all processes hear of it if one `wants_to_stop`.

    Raises:
        ValueError: in all processes, when the data, the loss or a gradient of one of them is not finite, or the loss is
            above the limit. The weights have not moved then, and the batch is written down in the run's folder.
    """
    rates = _set_rates(run, step)
    # Those of the device are read once, when all is computed: `run.gradients.read`.
    numbers: dict[str, float | torch.Tensor] = dict.fromkeys(STEP_NUMBERS, 0.0)
    numbers |= {"stop": float(wants_to_stop), "problem": float(isinstance(batch, ValueError))}
    trained = batch if isinstance(batch, StepBatch) else None
    parts = None if trained is None else _backward(run, trained, numbers)
    animal = None if trained is None else run.owned[trained.plan.session].animal_id
    total = run.gradients.fill(active=bool(run.owned), animal=animal)
    vital = None if parts is None else torch.stack((*(part.to(total.dtype) for part in parts), total))
    if vital is not None:
        numbers["problem"] = 1.0 - (vital.isfinite().all() & (vital[0] <= run.recipe.loss_limit)).to(vital.dtype)
    run.gradients.exchange([numbers[name] for name in STEP_NUMBERS])
    reduced = run.gradients.read(_clip(run.core))
    added, core_norm = dict(zip(STEP_NUMBERS, reduced.extra, strict=True)), reduced.core_norm
    if added["problem"] or not math.isfinite(core_norm):
        norm = f"The norm of the core's mean gradient is {core_norm}"
        problem = _problem(run, batch, vital) if added["problem"] else norm
        _refuse(run, step, trained, problem)
    animals = [run.animals[name] for name in sorted(reduced.animals & run.animals.keys())]
    for group in animals:
        _clip(group)
    tables = [] if trained is None else [run.tables[trained.plan.session]]
    for group in (run.core, *animals, *tables):
        group.optimizer.step()
        group.optimizer.zero_grad(set_to_none=True)
    return StepResult(added, rates, core_norm)


def _set_rates(run: PretrainingRun, step: int) -> dict[str, float]:
    """Sets the learning rates of a step in all optimizers and returns them."""
    peaks = {"core": run.recipe.optimizer.core.learning_rate, "session": run.recipe.optimizer.session.learning_rate}
    rates = {name: run.rate(peak, step) for name, peak in peaks.items()}
    run.core.set_learning_rate(rates["core"])
    for group in (*run.tables.values(), *run.animals.values()):
        group.set_learning_rate(rates["session"])
    return rates


def _clip(group: ParameterGroup) -> torch.Tensor:
    """Clips the gradient of a group and returns its norm before, yet unread."""
    return clip_grad_norm_(list(group.parameters.values()), group.recipe.max_grad_norm)


def _problem(run: PretrainingRun, batch: StepBatch | ValueError | None, vital: torch.Tensor | None) -> str | None:
    """What is wrong with this process's batch, by its loss, norm of the session's gradient and sum of the core's."""
    if vital is None:
        return str(batch) if isinstance(batch, ValueError) else None
    loss, norm, total = vital.tolist()
    if not math.isfinite(loss):
        return f"The loss is {loss}"
    if loss > run.recipe.loss_limit:
        return f"The loss is {loss:.4g}, above loss_limit ({run.recipe.loss_limit:.4g})"
    if not math.isfinite(norm):
        return f"The gradient norm of the session's tables is {norm}"
    return None if math.isfinite(total) else "A gradient of the core is not finite"


def _backward(
    run: PretrainingRun, batch: StepBatch, numbers: dict[str, float | torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the gradients of a batch, clips the session's, fills in `numbers`; returns loss and norm, yet unread."""
    plan = batch.plan
    mask = run.masks.usable[plan.session][plan.mask_index]
    run.model.train()
    with seeded_torch(step_seed(run.recipe.seed, plan.step, run.processes.rank), run.accelerator.device):
        output, loss = forward_batch(
            run.model, run.accelerator, plan.session, batch.arrays, mask, plan.neuron_ids, batch.missing_channels
        )
        run.accelerator.backward(loss)
    norm = _clip(run.tables[plan.session])
    family = mask_family(mask)
    numbers[f"{family}/loss"], numbers[f"{family}/count"] = loss, 1.0
    for kind in ("response_loss", "behavior_loss"):
        value = getattr(output, kind)
        if value is not None:
            numbers[f"{kind}/sum"], numbers[f"{kind}/count"] = value, 1.0
    numbers["session_norm"] = norm
    n_windows, population = plan.neuron_ids.shape
    numbers["first"] = float((mask, population) not in run.met)
    run.met.add((mask, population))
    numbers["tokens"] = n_windows * count_tokens(mask, population, run.model.config)
    layout, n_neurons = run.model.window_plan(mask, population), run.owned[plan.session].n_neurons
    numbers["flops"] = training_flops(layout, run.model.config, n_windows=n_windows, n_neurons=n_neurons)
    return loss.detach(), norm


def _refuse(run: PretrainingRun, step: int, batch: StepBatch | None, problem: str | None) -> None:
    """Writes the batch down where this process is the one concerned, and raises."""
    run.core.optimizer.zero_grad(set_to_none=True)
    if problem is None:
        raise ValueError(f"Training stopped at step {step + 1}: another process met a problem and says which.")
    written = "" if batch is None else f" The batch was written to {write_failure(run, batch, problem)}."
    raise ValueError(
        f"{problem.rstrip('.')}, at step {step + 1} in process {run.processes.rank}.{written} The weights are those of "
        "the step before, and the last checkpoint is as it was. Lower the learning rates or warm up for longer, leave "
        "the recording out if its values are extreme (`omnimouse check`), or raise loss_limit."
    )


def write_failure(run: PretrainingRun, batch: StepBatch, problem: str) -> Path:
    """Writes a batch that training could not go on from: what was drawn as JSON, which is returned, and the windows."""
    plan = batch.plan
    stem = run.folder.failures / f"step-{plan.step + 1:08d}-process-{run.processes.rank}"
    tensors = stem.with_suffix(".safetensors")
    arrays = {name: array.cpu() for name, array in batch.arrays.items()}
    write_tensors(tensors, {**arrays, "neuron_ids": torch.from_numpy(plan.neuron_ids)})
    document: dict[str, Any] = {
        "problem": problem,
        "step": plan.step + 1,
        "process": run.processes.rank,
        "processes": run.processes.count,
        "session": plan.session,
        "recording": os.fspath(run.owned[plan.session].path),
        "mask": run.masks.names[plan.mask_index],
        "mask_fields": to_mapping(run.masks.usable[plan.session][plan.mask_index]),
        "window_indices": plan.window_indices.tolist(),
        "window_starts_s": batch.starts,
        "arrays": tensors.name,
    }
    write_json(stem.with_suffix(".json"), document)
    return stem.with_suffix(".json")
