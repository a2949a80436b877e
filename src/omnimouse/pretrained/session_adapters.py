"""Session adapters: one session in a folder or repo of its own, saved from a model and loaded into one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from omnimouse.hub.names import PACKAGED_CORES, PACKAGED_FOLDER
from omnimouse.hub.sources import Source
from omnimouse.model.core_identity import core_settings, settings_differences, stored_settings
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.session_tables.session_surgery import AnimalConflict
from omnimouse.pretrained.session_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterConfig,
    is_adapter,
    read_tensors,
)
from omnimouse.pretrained.stored_core import is_core
from omnimouse.support.tensor_files import write_tensors
from omnimouse.support.version import __version__


def save_adapter(
    model: OmniMouseNetwork, source: Source | None, key: str, folder: Path, dtype: torch.dtype | str | None
) -> None:
    """Writes one session as an adapter folder, as `OmniMouseModel.save_session` says; `source` is the model's."""
    spec = model.sessions.check(key)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a session adapter is a folder. Choose another name.")
    if (folder / ADAPTER_CONFIG).exists():
        other = AdapterConfig.read(folder).session.key
        if other != spec.key:
            raise ValueError(
                f"{folder} holds the adapter of session {other!r}. Choose another folder for {spec.key!r}."
            )
    elif (folder / "config.json").exists():
        raise ValueError(f"{folder} holds a model. Save the session adapter to a folder of its own.")
    state, stored_as = model.session_state(spec.key), _as_dtype(dtype)
    if stored_as is not None:
        state = {name: tensor.to(stored_as) for name, tensor in state.items()}
    write_tensors(folder / ADAPTER_WEIGHTS, state)
    AdapterConfig(
        session_key=spec.key,
        animal_id=spec.animal_id,
        n_neurons=spec.n_neurons,
        core_sha256=model.core_hash(),
        base_model_name_or_path=source.name if source else None,
        base_commit=source.commit if source else None,
        core_config=core_settings(model.config),
        injected_sha256=model.injected_hash(),
        unit_ids_sha256=spec.unit_ids_hash,
        training=dict(spec.training or {}) or None,
        processor=dict(spec.processor or {}) or None,
        omnimouse_version=__version__,
    ).write(folder)


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A floating point type by itself or by name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}; expected a floating point type such as 'float32' or 'bfloat16'.")
    return found


@torch.no_grad()
def load_adapter(
    model: OmniMouseNetwork,
    own: Source | None,
    adapter: Source,
    *,
    on_animal_conflict: AnimalConflict = "error",
    force: bool = False,
) -> str:
    """Loads a session adapter that was found, as `OmniMouseModel.load_session` says; `own` is the model's source."""
    if not is_adapter(adapter.folder):
        raise ValueError(
            f"{adapter.name} is no session adapter: it has no {ADAPTER_CONFIG} of ours. Adapters are written by "
            "model.save_session(key, folder); whole models are opened with OmniMouseModel.from_pretrained."
        )
    config = AdapterConfig.read(adapter.folder)
    if not force:
        _check_core(model, own, adapter.name, config)
    adapter.fetch([ADAPTER_WEIGHTS])
    tensors = read_tensors(adapter.folder / ADAPTER_WEIGHTS)
    sessions = [(config.session, tensors)]
    model.sessions.add_all(sessions, device=model.device, dtype=torch.float32, on_conflict=on_animal_conflict)
    return config.session.key


def _check_core(model: OmniMouseNetwork, own: Source | None, name: str, config: AdapterConfig) -> None:
    """Refuses an adapter that was trained on another core than the model's, or on another LoRA."""
    differences = settings_differences(_trained_settings(model, config), core_settings(model.config))
    if differences:
        raise ValueError(
            f"The adapter in {name} was trained on a core that computes with other settings: {differences}. "
            "Load the core as it was, without these changes, or pass force=True and finetune again."
        )
    if not is_core(model, own, config.core_sha256):
        raise ValueError(
            f"The adapter in {name} was trained on another core "
            f"({config.base_model or 'a model that was never saved'}, hash {config.core_sha256[:12]}; this one is "
            f"{model.core_hash()[:12]}). Load that core, or pass force=True and finetune again."
        )
    injected = model.injected_hash()
    if config.injected_sha256 == injected:
        return
    if config.injected_sha256 is None:
        raise ValueError(
            f"The adapter in {name} was trained with no LoRA; this model carries one. Load the session before the "
            "LoRA, or pass force=True and finetune again."
        )
    difference = "with another LoRA than this model carries"
    if injected is None:
        difference = "with a LoRA (or another layer of peft), which this model lacks"
    raise ValueError(
        f"The adapter in {name} was trained {difference}. Load that one first, with "
        "PeftModel.from_pretrained(model, folder), or pass force=True and finetune again."
    )


def _trained_settings(model: OmniMouseNetwork, adapter: AdapterConfig) -> Mapping[str, Any]:
    """What the core of a session adapter computes with, as far as is known; else what this one does.

    Adapters of earlier versions do not say; where the core that they name is at hand, its configuration does.
    """
    if adapter.core_config is not None:
        return adapter.core_config
    base = adapter.base_model or ""
    place = PACKAGED_FOLDER / base if base in PACKAGED_CORES else Path(base)
    named = bool(base) and (place / "config.json").is_file()
    return stored_settings(place) if named else core_settings(model.config)
