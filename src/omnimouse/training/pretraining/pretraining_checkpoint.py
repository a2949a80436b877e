"""Checkpoints and the model of a pre-training: what is stored of a run, and put back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.session_tables.session_surgery import TENSORS
from omnimouse.support.outputs import identity_differences
from omnimouse.support.tensor_files import hash_tensors
from omnimouse.training.pretraining.corpus_sessions import pack_session, restore_session, session_spec
from omnimouse.training.pretraining.setup import PretrainingRun, build_model
from omnimouse.training.runs.run_folder import RunCheckpoint, write_checkpoint
from omnimouse.training.shared.checkpoint import PARTIAL
from omnimouse.training.shared.identity import warn_of_unknown
from omnimouse.training.shared.optimizers import pack_moments, restore_moments


def check_continues(checkpoint: RunCheckpoint, run: PretrainingRun) -> None:
    """Refuses to continue a run other than the one the checkpoint belongs to.

    Raises:
        ValueError: the checkpoint is beyond the run's end, or of another run; every difference is listed.
    """
    if checkpoint.step > run.last:
        raise ValueError(
            f"The checkpoint {checkpoint.path} is beyond the {run.last} steps asked for. Raise steps, anneal from an "
            "earlier checkpoint with `omnimouse anneal`, or choose another output."
        )
    state = checkpoint.state
    differences = identity_differences(state["identity"], run.identity)
    pairs = {f"windows of {key}": (state["windows"].get(key), found) for key, found in run.windows.items()}
    noted = state.get("recordings")
    if noted is not None:
        pairs |= {
            f"{part} of {key}": (noted.get(key, {}).get(part), text)
            for key, parts in run.data.items()
            for part, text in parts.items()
        }
    elif run.processes.is_main:  # a run begun before recordings had fingerprints
        warn_of_unknown(checkpoint.path, ["recordings"])
    differences += [f"  {name}: {old} in the checkpoint, {now} now" for name, (old, now) in pairs.items() if old != now]
    if differences:
        raise ValueError(
            f"The checkpoint {checkpoint.path} belongs to another run:\n"
            + "\n".join(differences)
            + "\nGive the recipe the checkpoint's values (and its recordings) to continue that run, pass "
            "resume=False (--no-resume) to discard it and begin anew, or choose another output."
        )


def _copy_core(model: OmniMouseNetwork, stored: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in model.core_state_dict().items():
            tensor.copy_(stored[name])


def restore_run(run: PretrainingRun, checkpoint: RunCheckpoint) -> None:
    """Puts weights and moments of the core and of this process's sessions back."""
    stored = checkpoint.core()
    _copy_core(run.model, stored)
    restore_moments(run.core, stored)
    for key, info in run.owned.items():
        restore_session(run.tables[key], run.animals[info.animal_id], checkpoint.session(key))


def check_core(run: PretrainingRun) -> None:
    """Makes sure that all processes hold the same core: diverged copies would show nowhere else.

    Raises:
        RuntimeError: they do not.
    """
    digest = bytes.fromhex(hash_tensors(run.model.core_state_dict()))
    words = [int.from_bytes(digest[i : i + 2], "big") for i in range(0, len(digest), 2)]
    if not run.processes.agree(words):
        raise RuntimeError(
            "The processes hold different cores. They have to run on the same kind of device with the same versions of "
            "PyTorch; go on from the last checkpoint."
        )


def save_run(run: PretrainingRun, step: int, *, seconds: float, log: Mapping[str, float]) -> Path:
    """Writes a checkpoint of all processes.

    Args:
        run: what is trained.
        step: steps done.
        seconds: time spent on them.
        log: what the monitor has summed up and not yet written.
    """
    check_core(run)
    return write_checkpoint(
        run.folder,
        run.processes,
        core={**run.model.core_state_dict(), **pack_moments(run.core)},
        sessions={key: pack_session(run.tables[key], run.animals[info.animal_id]) for key, info in run.owned.items()},
        windows=run.windows,
        data=run.data,
        state={
            "step": step,
            "last": run.last,
            "seconds": seconds,
            "identity": run.identity,
            "log": dict(log),
            "sessions": {
                key: {"animal": info.animal_id, "neurons": info.n_neurons} for key, info in run.sessions.items()
            },
        },
        keep_newest=run.recipe.outputs.keep_newest,
        keep_every=run.recipe.outputs.keep_every,
    )


def write_model(run: PretrainingRun, checkpoint: RunCheckpoint) -> Path:
    """Writes the model of a checkpoint with all sessions, read from its files, as a model folder of the run.

    New sessions will start at the means over these ones.
    """
    model = build_model(run.recipe, run.recordings.processor)
    _copy_core(model, checkpoint.core())
    for key, info in run.sessions.items():
        tensors = checkpoint.session(key)
        spec = session_spec(info, run.recipe.recordings.tiers)
        model.sessions.add_all([(spec, {name: tensors[name].clone() for name in TENSORS})], device="cpu")
    model.update_initial_vectors()
    partial = run.folder.path / f"{PARTIAL}model"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, training=_recipe_in_words(run, checkpoint.step))
    shutil.rmtree(run.folder.model, ignore_errors=True)
    os.replace(partial, run.folder.model)
    return run.folder.model


def _recipe_in_words(run: PretrainingRun, step: int) -> dict[str, Any]:
    """The recipe of a run, for the card of its model."""
    recipe, names = run.recipe, run.masks.names
    return {
        "pre-training on": f"{len(run.sessions)} sessions with "
        f"{sum(info.n_neurons for info in run.sessions.values()):,} neurons",
        "steps": step,
        "processes": run.processes.count,
        "windows per step and process": recipe.batch_size,
        "peak learning rate of the core": recipe.optimizer.core.learning_rate,
        "peak learning rate of the sessions": recipe.optimizer.session.learning_rate,
        "masks": ", ".join(names) if len(names) <= 8 else f"{len(names)} masks",
        "precision": "bfloat16 autocast" if recipe.mixed_precision == "bf16" else "float32",
    }
