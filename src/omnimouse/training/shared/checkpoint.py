"""Checkpoints of a training run: complete or absent, keyed by parameter name, and without pickles.

A checkpoint is a folder `checkpoint-<steps done>` of two files: `tensors.safetensors` (trained parameters, Adam
moments, best parameters so far, random state) and `state.json` (everything else, and the checksum of the first). It is
written under another name, flushed to disk and then renamed, so whoever finds a folder of that name finds all of it,
whenever the writer was killed. Everything is keyed by parameter *name*: the order of parameters depends on the order
sessions are built in, and moments kept by position would load without an error onto the wrong session.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omnimouse.support.files import explained_writing, hash_file, sync, write_text
from omnimouse.training.shared.recipe import ParameterGroup

FORMAT_VERSION = 1
_TENSORS, STATE_FILE = "tensors.safetensors", "state.json"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{8})")
PARTIAL = ".partial-"
LOCK_FILE = ".lock"
NOTED_LATER = ("recording.", "architecture", "trained", "animal_vector")
"""How entries of a fine-tune's identity begin that checkpoints of earlier versions lack."""


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


def _named_parameters(groups: Mapping[str, ParameterGroup]) -> dict[str, torch.nn.Parameter]:
    """Returns all trained parameters by name."""
    return {name: parameter for group in groups.values() for name, parameter in group.parameters.items()}


def pack_moments(group: ParameterGroup) -> dict[str, torch.Tensor]:
    """Returns the Adam moments of a group, each under the name it is stored by; none for what never had a gradient."""
    return {
        f"optimizer/{moment}/{name}": value
        for name, parameter in group.parameters.items()
        for moment, value in group.optimizer.state.get(parameter, {}).items()
    }


def restore_moments(group: ParameterGroup, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts back the moments of `pack_moments` into a freshly built group."""
    for name, parameter in group.parameters.items():
        moments = {}
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            stored = tensors.get(f"optimizer/{moment}/{name}")
            if stored is not None:
                # The step counter stays on the CPU, where AdamW makes it.
                moments[moment] = stored.clone().to("cpu" if moment == "step" else parameter.device)
        if moments:
            group.optimizer.state[parameter] = moments


def _pack(groups: Mapping[str, ParameterGroup], state: TrainingState) -> dict[str, torch.Tensor]:
    """Returns every tensor of a checkpoint under the name it is stored by."""
    tensors: dict[str, torch.Tensor] = {f"parameter/{name}": value for name, value in _named_parameters(groups).items()}
    tensors |= {f"best/{name}": value for name, value in state.best_parameters.items()}
    for group in groups.values():
        tensors |= pack_moments(group)
    tensors["random_state"] = torch.get_rng_state()
    return {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Makes sure that no other run is going on in a folder: two would write over each other's checkpoints.

    The system frees the lock of a process that was killed. Where a file system has no locks, this warns and goes on.

    Raises:
        ValueError: another process, or another thread of this one, holds the folder.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"Another run is going on in {folder}. Wait until it has ended, stop it, or choose another output."
        ) from None
    except (OSError, NotImplementedError) as error:
        warnings.warn(
            f"{folder} cannot be locked ({error}). Make sure that no other run is going on in it.", stacklevel=3
        )
    try:
        yield
    finally:
        if lock.is_locked:
            # Before it is freed: whoever waits for the file finds that it has no name any more, and makes a new one.
            (folder / LOCK_FILE).unlink(missing_ok=True)
            lock.release()
        if is_new:
            with suppress(OSError):  # nothing came of it
                folder.rmdir()


def save_checkpoint(
    folder: Path, groups: Mapping[str, ParameterGroup], state: TrainingState, identity: Mapping[str, Any]
) -> Path:
    """Writes a checkpoint and then removes older ones.

    Args:
        folder: the run's folder.
        groups: optimizers with their parameters.
        state: where the run stands.
        identity: what a run must have in common with the checkpoint to be continued from it; JSON types only.

    Returns:
        The folder written, `folder/checkpoint-<step>`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / checkpoint_name(state.step)
    partial = folder / f"{PARTIAL}{target.name}-{os.getpid()}"
    with making(partial, target):
        with as_os_error():
            save_file(_pack(groups, state), partial / _TENSORS)
        values = {name: value for name, value in vars(state).items() if name != "best_parameters"}
        document = {
            "format_version": FORMAT_VERSION,
            "tensors_sha256": hash_file(partial / _TENSORS),
            "identity": identity,
            "state": values,
        }
        complete_checkpoint(partial, target, document, written=[partial / _TENSORS])
    remove_checkpoints(folder, keep=target)
    return target


@contextmanager
def making(partial: Path, target: Path) -> Iterator[None]:
    """A new folder under a hidden name, which is gone afterwards unless it was renamed: a full disk keeps its room."""
    with explained_writing(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def as_os_error() -> Iterator[None]:
    """Turns what safetensors says of a full disk into the error that Python's own files raise."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else None, str(error)) from error


def complete_checkpoint(partial: Path, target: Path, document: dict[str, Any], *, written: Sequence[Path]) -> None:
    """Writes the state of a checkpoint whose other files are there, and puts its folder in place as a whole.

    Args:
        partial: the folder under its hidden name.
        target: its place.
        document: what goes into its state file.
        written: files and folders in it that are not on the disk for certain yet.
    """
    (partial / STATE_FILE).write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    for path in (*written, partial / STATE_FILE, partial):
        sync(path)
    if target.exists():
        # Callers save a step once, so this is a damaged checkpoint that the run was not resumed from.
        shutil.rmtree(target)
    os.replace(partial, target)
    sync(target.parent)


def remove_checkpoints(folder: Path, *, keep: Path | None = None) -> None:
    """Removes checkpoints and the remains of unfinished ones from `folder`, except `keep`."""
    for path in _entries(folder):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def checkpoint_name(step: int) -> str:
    """Returns the name of the folder that holds the checkpoint of a step."""
    return f"checkpoint-{step:08d}"


def _entries(folder: Path) -> list[Path]:
    """Returns checkpoints and unfinished ones in `folder`."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name) or path.name.startswith(PARTIAL)]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk and found whole.

    Attributes:
        path: its folder.
        identity: see `save_checkpoint`.
        state: where the run stood, with `best_parameters`.
        tensors: stored name -> tensor.
    """

    path: Path
    identity: dict[str, Any]
    state: TrainingState
    tensors: dict[str, torch.Tensor]


def _read(path: Path) -> Checkpoint:
    """Reads one checkpoint.

    Raises:
        ValueError or OSError: a file is missing, is not what was written, or comes from another format.
    """
    document = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    if document["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format version {document['format_version']}, expected {FORMAT_VERSION}")
    if hash_file(path / _TENSORS) != document["tensors_sha256"]:
        raise ValueError(f"{_TENSORS} differs from what was written")
    tensors = load_file(path / _TENSORS)
    # Copies, because what safetensors returns may be mapped from a file that is removed later.
    best = {name.removeprefix("best/"): value.clone() for name, value in tensors.items() if name.startswith("best/")}
    return Checkpoint(path, document["identity"], TrainingState(**document["state"], best_parameters=best), tensors)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the newest whole checkpoint of a run, or None when there is none at all.

    A damaged checkpoint is passed over for the next older one, with a warning that names it.

    Raises:
        ValueError: there are checkpoints, and none of them is whole: beginning anew is for the caller to say.
    """
    reasons = []
    complete = sorted((path for path in _entries(folder) if CHECKPOINT_NAME.fullmatch(path.name)), reverse=True)
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


def nothing_whole(folder: Path, reasons: Sequence[str]) -> str:
    """What to do about a run of which no checkpoint can be read."""
    return (
        f"No checkpoint in {folder} is whole ({'; '.join(reasons)}). Copy the folder again from where it is whole; or "
        "pass resume=False (--no-resume) to discard it and begin anew, or choose another output."
    )


def check_identity(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Refuses to continue a run other than the one the checkpoint belongs to.

    Raises:
        ValueError: lists every entry that differs, as it was and as it is, and what to do.

    Warns:
        UserWarning: the checkpoint is of an earlier version, which did not note all that is compared.
    """
    unknown = [name for name in identity if name.startswith(NOTED_LATER) and name not in checkpoint.identity]
    known = {name: value for name, value in identity.items() if name not in unknown}
    differences = identity_differences(checkpoint.identity, known)
    if differences:
        raise ValueError(
            f"The checkpoint {checkpoint.path} belongs to another run:\n"
            + "\n".join(differences)
            + "\nRepeat the call with the checkpoint's values (and its recording) to continue that run, pass "
            "resume=False (--no-resume) to discard it and begin anew, or choose another output_dir (--output)."
        )
    if unknown:
        warn_of_unknown(checkpoint.path, unknown)


def warn_of_unknown(path: Path, names: Sequence[str]) -> None:
    """Says that a checkpoint of an earlier version cannot be compared in some respects; the run goes on."""
    warnings.warn(
        f"The checkpoint {path} is of an earlier version of omnimouse, which did not note {', '.join(names)}. The run "
        "goes on from it: make sure that recording and model are those that it was begun with. The next checkpoint "
        "will say.",
        stacklevel=2,
    )


def identity_differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Returns one line for each entry that differs between a checkpoint's identity and a run's, inside mappings too."""
    # A round trip through JSON makes tuples lists, as they are in the stored one.
    return _differences(found, json.loads(json.dumps(expected)), "")


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any], within: str) -> list[str]:
    lines = []
    for name in sorted(found.keys() | expected.keys()):
        there, now = found.get(name), expected.get(name)
        if isinstance(there, dict) and isinstance(now, dict):
            lines += _differences(there, now, f"{within}{name}.")
        elif there != now:
            lines.append(f"  {within}{name}: {_short(there)} in the checkpoint, {_short(now)} now")
    return lines


def _short(value: object) -> str:
    """Returns `value` in at most 120 characters."""
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def restore(checkpoint: Checkpoint, groups: Mapping[str, ParameterGroup]) -> TrainingState:
    """Puts parameters, moments and the random state back and returns where the run stood.

    Args:
        checkpoint: of this run, see `check_identity`.
        groups: freshly built optimizers over the same parameters.
    """
    for group in groups.values():
        for name, parameter in group.parameters.items():
            with torch.no_grad():
                parameter.copy_(checkpoint.tensors[f"parameter/{name}"])
        restore_moments(group, checkpoint.tensors)
    torch.set_rng_state(checkpoint.tensors["random_state"])
    return checkpoint.state


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line, replacing the file only once the new one is complete."""
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def append_history(path: Path, row: Mapping[str, Any]) -> None:
    """Adds one row to a file of `write_history`."""
    with explained_writing(path), path.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(row)}\n")


def copy_parameters(groups: Mapping[str, ParameterGroup]) -> dict[str, torch.Tensor]:
    """Returns name -> a copy on the CPU of every trained parameter."""
    return {name: value.detach().to("cpu", copy=True) for name, value in _named_parameters(groups).items()}


def load_parameters(groups: Mapping[str, ParameterGroup], values: Mapping[str, torch.Tensor]) -> None:
    """Writes `values`, as made by `copy_parameters`, into the trained parameters."""
    with torch.no_grad():
        for name, parameter in _named_parameters(groups).items():
            parameter.copy_(values[name])
