"""Models from the weights that the authors of OmniMouse published: names of the released code, one pickle per rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnimouse.model.session_tables.initial_vectors import InitialVectors
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.pretrained.published.architecture import config_from_hyperparameters
from omnimouse.pretrained.published.checkpoint_files import session_specs
from omnimouse.pretrained.published.models import build_core, check_tensors, open_published
from omnimouse.pretrained.published.published_names import clean_name, sort_tensors

__all__ = ["load_checkpoint", "model_from_state_dict"]


def model_from_state_dict(
    state_dict: Mapping[str, Tensor], hyperparameters: Mapping[str, Any], sessions: Mapping[str, Mapping[str, Any]]
) -> OmniMouseModel:
    """Builds a model from weights under their published names.

    Args:
        state_dict: Tensors by published name, possibly prefixed `_orig_mod.`.
        hyperparameters: Published hyperparameters by their published names.
        sessions: `{key: {"n_neurons": ..., "animal_id": ...}}`; those whose tensors are there are added.

    Returns:
        A model in evaluation mode with `video_attention_layout="published"`.

    Raises:
        ValueError: Unsupported hyperparameters, or tensors missing, unexpected or misshapen (all are listed).
    """
    named = {clean_name(name): tensor for name, tensor in state_dict.items()}
    config = config_from_hyperparameters(hyperparameters, named)
    found, specs = sort_tensors(named), session_specs(sessions, "sessions")
    check_tensors(config, found, specs)
    tables = (
        (specs[key], {**table, "animal_embedding": found.animals[specs[key].animal_id]})
        for key, table in found.tables.items()
    )
    return _with_sessions(build_core(found.core, config, OmniMouseModel), tables)


def load_checkpoint(folder: str | Path, size: str | None = None) -> OmniMouseModel:
    """Loads a published checkpoint with all its sessions: a folder of `rank_<r>.ckpt` files.

    To load the core alone, or some of the sessions, use `OmniMouseModel.from_pretrained(folder, sessions=...)`.

    Args:
        folder: The folder.
        size: Name of a preset that every tensor must fit; by default sizes are read off the tensors alone.

    Returns:
        A model in evaluation mode with `video_attention_layout="published"`. Its tensors are memory-mapped.

    Raises:
        ValueError: No such files, a file that cannot be read safely, or tensors that do not fit (all are listed).
    """
    found = open_published(Path(folder), size)
    return _with_sessions(build_core(found.files.core, found.config, OmniMouseModel), found.files.sessions())


def _with_sessions(model: OmniMouseModel, sessions: Iterable[tuple[SessionSpec, dict[str, Tensor]]]) -> OmniMouseModel:
    """Adds sessions one at a time, and lets new ones start at the means over them."""
    initial = InitialVectors()

    def counted() -> Iterator[tuple[SessionSpec, dict[str, Tensor]]]:
        for spec, tensors in sessions:
            initial.add(spec, tensors)
            yield spec, tensors

    model.sessions.add_all(counted(), device="cpu", dtype=torch.float32)
    initial.put_into(model.identity.initial)
    return model
