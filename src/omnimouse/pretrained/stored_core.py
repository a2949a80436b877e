"""Cores in model folders, and whether a core in memory is the one that is stored somewhere."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from omnimouse.hub.sources import Source
from omnimouse.model.core_identity import core_settings, join_hashes, settings_hash, stored_settings
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.session_tables.session_surgery import without_sessions
from omnimouse.support.tensor_files import hash_tensors

CORE_WEIGHTS = "model.safetensors"


def core_weight_patterns(variant: str | None = None) -> list[str]:
    """Names of the files that may hold a core: one file, or shards with their index."""
    middle = f".{variant}" if variant else ""
    return [
        f"model{middle}.safetensors",
        f"model{middle}-?????-of-?????.safetensors",
        f"model.safetensors.index{middle}.json",
    ]


def core_weight_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """Those of some file names that may hold a core, sorted."""
    patterns = core_weight_patterns(variant)
    return sorted(name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns))


def stored_core(folder: Path) -> dict[str, Tensor]:
    """The core's tensors in a model folder, memory-mapped, whether in one file or in shards; empty without any.

    One file goes before shards, as it does for transformers. Tables of sessions, which lie beside the core in folders
    that generic code wrote, are left out.
    """
    found = core_weight_files(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [CORE_WEIGHTS] if CORE_WEIGHTS in found else [name for name in found if name.endswith(".safetensors")]
    stored: dict[str, Tensor] = {}
    for name in found:
        stored |= load_file(folder / name)
    return without_sessions(stored)


def core_hashes(model: OmniMouseNetwork, source: Source | None) -> set[str]:
    """`model.core_hash()`, and the hash that earlier versions knew this core by: that of its tensors alone.

    The latter says nothing of the configuration, so it only counts where that is the one the core came with.
    """
    tensors, settings = hash_tensors(model.core_state_dict()), core_settings(model.config)
    known = {join_hashes(tensors, settings_hash(settings))}
    return known | {tensors} if _has_settings_of(model, source) else known


def _has_settings_of(model: OmniMouseNetwork, source: Source | None) -> bool:
    """Whether the core computes with the settings it has where it came from; true where that cannot be told."""
    if source is None or not (source.folder / "config.json").is_file():
        return True
    return stored_settings(source.folder) == core_settings(model.config)


def is_core(model: OmniMouseNetwork, source: Source | None, core_hash: str) -> bool:
    """Whether a model's core is the one of a hash, perhaps rounded to another type when it was loaded from `source`."""
    if core_hash in core_hashes(model, source):
        return True
    if source is None or not is_core_of(model, source):
        return False
    stored = stored_core(source.folder)
    kinds = (torch.float32, torch.bfloat16, torch.float16)  # of this core, or of the one the adapter was trained on
    rounded = ({name: tensor.to(kind) for name, tensor in stored.items()} for kind in kinds)
    settings = settings_hash(core_settings(model.config))
    hashes = (hash_tensors(tensors) for tensors in (stored, *rounded))
    return any(core_hash in (tensors, join_hashes(tensors, settings)) for tensors in hashes)


def is_core_of(model: OmniMouseNetwork, source: Source) -> bool:
    """Whether a model's core is the one that a source has stored, in the type in which it was loaded."""
    stored, core = stored_core(source.folder), model.core_state_dict()
    same = stored.keys() == core.keys() and all(torch.equal(stored[n].to(core[n]), core[n]) for n in core)
    return same and _has_settings_of(model, source)


def core_has_changed(model: OmniMouseNetwork, source: Source | None) -> bool:
    """Whether a model's core is no longer the one at the place that it was loaded from or pushed to.

    `False` for a model that was never saved, and where what is stored there cannot be told.
    """
    if source is None:
        return False
    if source.core_sha256 is not None:
        return source.core_sha256 != model.core_hash()
    return bool(stored_core(source.folder)) and not is_core_of(model, source)
