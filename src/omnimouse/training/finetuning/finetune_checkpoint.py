"""Checkpoints of a fine-tune, keyed by parameter name and without pickles.

A checkpoint holds `tensors.safetensors` (trained parameters, Adam moments, best parameters so far, random state) and
`state.json` (everything else, and the checksum of the first).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omnimouse.support.files import explained_writing, hash_file
from omnimouse.training.shared.checkpoint import (
    PARTIAL,
    STATE_FILE,
    checkpoint_name,
    complete_checkpoint,
    complete_checkpoints,
    nothing_whole,
    remove_checkpoints,
)
from omnimouse.training.shared.optimizers import ParameterGroup, pack_moments, restore_moments

FORMAT_VERSION = 1
TENSORS_FILE = "tensors.safetensors"


@dataclass
class TrainingState:
    """Where a run stands, apart from the weights themselves.

    Attributes:
        step: optimizer steps done.
        seconds: time spent training, over all its sittings.
        history: one row per step done.
        best_step: step with the lowest validation loss (0 before training), or None before any validation.
        best_validation_loss: that loss.
        initial_validation_loss: validation loss before the first step.
        stopped_early: whether patience ran out.
        best_parameters: name -> the trained parameters at `best_step`, on the CPU.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    best_validation_loss: float | None = None
    initial_validation_loss: float | None = None
    stopped_early: bool = False
    best_parameters: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk and found whole: see `save_checkpoint`; tensors by their stored names."""

    path: Path
    identity: dict[str, Any]
    state: TrainingState
    tensors: dict[str, torch.Tensor]


def _named_parameters(groups: Mapping[str, ParameterGroup]) -> dict[str, torch.nn.Parameter]:
    """Returns all trained parameters by name."""
    return {name: parameter for group in groups.values() for name, parameter in group.parameters.items()}


def copy_parameters(groups: Mapping[str, ParameterGroup]) -> dict[str, torch.Tensor]:
    """Returns name -> a copy on the CPU of every trained parameter."""
    return {name: value.detach().to("cpu", copy=True) for name, value in _named_parameters(groups).items()}


def load_parameters(groups: Mapping[str, ParameterGroup], values: Mapping[str, torch.Tensor]) -> None:
    """Writes `values`, as made by `copy_parameters`, into the trained parameters."""
    with torch.no_grad():
        for name, parameter in _named_parameters(groups).items():
            parameter.copy_(values[name])


def save_checkpoint(
    folder: Path, groups: Mapping[str, ParameterGroup], state: TrainingState, identity: Mapping[str, Any]
) -> Path:
    """Writes `folder/checkpoint-<step>`, then removes older ones, and returns it.

    `identity` is what a run must have in common with the checkpoint to be continued from it; JSON types only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / checkpoint_name(state.step)
    partial = folder / f"{PARTIAL}{target.name}-{os.getpid()}"
    tensors: dict[str, torch.Tensor] = {f"parameter/{name}": value for name, value in _named_parameters(groups).items()}
    tensors |= {f"best/{name}": value for name, value in state.best_parameters.items()}
    for group in groups.values():
        tensors |= pack_moments(group)
    tensors["random_state"] = torch.get_rng_state()
    with _partial_folder(partial, target):
        _write_tensors({name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}, partial)
        document = {
            "format_version": FORMAT_VERSION,
            "tensors_sha256": hash_file(partial / TENSORS_FILE),
            "identity": identity,
            "state": {name: value for name, value in vars(state).items() if name != "best_parameters"},
        }
        complete_checkpoint(partial, target, document, written=[partial / TENSORS_FILE])
    remove_checkpoints(folder, keep=target)
    return target


@contextmanager
def _partial_folder(partial: Path, target: Path) -> Iterator[None]:
    """A new folder under a hidden name, which is gone afterwards unless it was renamed: a full disk keeps its room."""
    with explained_writing(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write_tensors(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Raises what Python's own files raise on a full disk where safetensors raises its own error."""
    try:
        save_file(tensors, folder / TENSORS_FILE)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else None, str(error)) from error


def _read(path: Path) -> Checkpoint:
    """Raises ValueError or OSError where a file is missing, is not what was written, or comes from another format."""
    document = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    if document["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format version {document['format_version']}, expected {FORMAT_VERSION}")
    if hash_file(path / TENSORS_FILE) != document["tensors_sha256"]:
        raise ValueError(f"{TENSORS_FILE} differs from what was written")
    tensors = load_file(path / TENSORS_FILE)
    # Copies, because what safetensors returns may be mapped from a file that is removed later.
    best = {name.removeprefix("best/"): value.clone() for name, value in tensors.items() if name.startswith("best/")}
    return Checkpoint(path, document["identity"], TrainingState(**document["state"], best_parameters=best), tensors)


def newest_finetune_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the newest whole checkpoint of a run, or None when there is none at all.

    A damaged checkpoint is passed over for the next older one, with a warning that names it.

    Raises:
        ValueError: there are checkpoints, and none of them is whole: beginning anew is for the caller to say.
    """
    reasons = []
    complete = complete_checkpoints(folder)
    for path in complete:
        try:
            return _read(path)
        except (ValueError, OSError, KeyError, TypeError, SafetensorError) as error:
            reasons.append(f"{path}: {error if str(error) else type(error).__name__}")
            if path != complete[-1]:
                warnings.warn(
                    f"Passing over the damaged checkpoint {reasons[-1]}. The run goes on from the one before.",
                    stacklevel=2,
                )
    if reasons:
        raise ValueError(nothing_whole(folder, reasons))
    return None


def restore_groups(checkpoint: Checkpoint, groups: Mapping[str, ParameterGroup]) -> TrainingState:
    """Puts parameters, moments and the random state back into freshly built groups; returns where the run stood."""
    load_parameters(groups, {name: checkpoint.tensors[f"parameter/{name}"] for name in _named_parameters(groups)})
    for group in groups.values():
        restore_moments(group, checkpoint.tensors)
    torch.set_rng_state(checkpoint.tensors["random_state"])
    return checkpoint.state
