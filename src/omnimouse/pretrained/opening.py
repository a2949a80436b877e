"""Opening a model by name: one descent for each kind of thing that the name can stand for."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omnimouse.hub.sources import HubOptions, Source
from omnimouse.model.core_identity import core_settings, settings_differences, settings_hash, stored_settings
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.model.session_tables.session_surgery import aligned
from omnimouse.pretrained.session_adapters import load_adapter
from omnimouse.pretrained.session_files import (
    ADAPTER_CONFIG,
    AdapterConfig,
    entry_spec,
    read_index,
    read_tensors,
    select_sessions,
)
from omnimouse.pretrained.source_kinds import check_model_folder, locate, source_kind
from omnimouse.pretrained.stored_core import core_weight_files, core_weight_patterns
from omnimouse.support.files import read_mapping

Sessions = str | Sequence[str] | None
"""`None`, `"all"`, or keys, short keys and globs."""


@dataclass(frozen=True)
class Opened:
    """A model that was opened, and where its core came from."""

    loaded: Any  # what `from_pretrained` returns: the model, or the model and what transformers says of its tensors
    model: OmniMouseNetwork
    source: Source


@dataclass(frozen=True)
class Opener:
    """How to open models of a class: by transformers' `from_pretrained` for that class, and what is passed on to it."""

    load_weights: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def open(self, name: str | Path, options: HubOptions, sessions: Sessions = None) -> Opened:
        """Opens what a name stands for, with the sessions asked for, as `OmniMouseModel.from_pretrained` says."""
        source = locate(name, options)
        kind = source_kind(source)
        if kind == "session adapter":
            return self._open_adapter(source, options, sessions)
        if kind == "LoRA":
            return self._open_lora(source, options, sessions)
        return self._open_model(source, sessions)

    def _open_model(self, source: Source, sessions: Sessions) -> Opened:
        """Opens a model folder or repo."""
        check_model_folder(source)
        keywords = dict(self.keywords)
        if source.is_packaged and keywords.get("torch_dtype") is None:
            keywords.setdefault("dtype", torch.float32)  # stored as bfloat16 to be small
        variant = keywords.get("variant")
        source.fetch(core_weight_patterns(variant))
        if not core_weight_files((path.name for path in source.folder.iterdir()), variant):
            raise ValueError(
                f"{source.name} has a config.json but no weights ({core_weight_patterns(variant)[0]}). Copy or push "
                "the whole model again."
            )
        loaded = self.load_weights(str(source.folder), *self.arguments, **keywords)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = aligned(tensor.data)
        model.config._name_or_path = model.name_or_path = source.name  # what adapters of peft name as their base
        attach_sessions(model, source, sessions, dtype=self._session_dtype(source))
        return Opened(loaded, model, source)

    def _open_adapter(self, source: Source, options: HubOptions, sessions: Sessions) -> Opened:
        """Opens the core that a session adapter names, then the adapter, then other sessions of that core."""
        adapter = AdapterConfig.read(source.folder)
        if adapter.base_model is None:
            raise ValueError(f"{source.name} does not say which core it belongs to. Load the core, then load_session.")
        try:
            opened = self.open(adapter.base_model, HubOptions(revision=adapter.base_commit, **options.reach))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"The adapter in {source.name} belongs to the core {adapter.base_model!r}, which cannot be loaded "
                f"({error}) If you have that core elsewhere, load it and call model.load_session({source.name!r})."
            ) from error
        key = load_adapter(opened.model, opened.source, source)
        wanted = select_sessions({key, *read_index(opened.source.folder)}, sessions, source.name)
        others = [other for other in wanted if other != key]
        attach_sessions(opened.model, opened.source, others, dtype=self._session_dtype(opened.source))
        return opened

    def _open_lora(self, source: Source, options: HubOptions, sessions: Sessions) -> Opened:
        """Opens the core that an adapter of peft names, then the adapter."""
        content = read_mapping(source.folder / ADAPTER_CONFIG, "an adapter's configuration")
        base = content.get("base_model_name_or_path")
        if not base:
            raise ValueError(
                f"{source.name} does not say which core it belongs to. Load the core, then "
                f"PeftModel.from_pretrained(model, {source.name!r})."
            )
        try:
            from peft import PeftModel
        except ImportError as error:
            raise ValueError(
                f"{source.name} holds an adapter of peft. Install it: pip install 'omnimouse[peft]'."
            ) from error
        opened = self.open(base, HubOptions(**options.reach), sessions)
        source.fetch(["adapter_model.safetensors"])
        # Not load_adapter of transformers: with peft 0.19 it finds no tensor, leaves the LoRA random, and goes on.
        PeftModel.from_pretrained(opened.model, source.folder)
        return opened

    def _session_dtype(self, source: Source) -> torch.dtype | None:
        """The type that sessions are loaded in: float32 if the core is asked for in it, else the one they have."""
        default = self.keywords.get("torch_dtype", torch.float32 if source.is_packaged else None)
        return torch.float32 if str(self.keywords.get("dtype", default)).endswith("float32") else None


@torch.no_grad()
def attach_sessions(
    model: OmniMouseNetwork, source: Source, sessions: Sessions, *, dtype: torch.dtype | None
) -> list[str]:
    """Loads the processor and the wanted sessions from where a model came from, and returns the keys that are new.

    Raises:
        ValueError: There is no such session, its file is not there, or it belongs to another core.
        OSError: The Hub does not give it.
    """
    if model.processor is None and (source.folder / "preprocessor_config.json").is_file():
        model.processor = OmniMouseProcessor.from_pretrained(source.folder)
    index = read_index(source.folder)
    keys = [key for key in select_sessions(index, sessions, source.name) if key not in model.sessions.specs]
    if keys:
        _check_settings(model, source, index, keys)
        source.fetch(glob.escape(index[key]["file"]) for key in keys)
    for key in keys:
        if not (source.folder / index[key]["file"]).is_file():
            raise ValueError(
                f"{source.name} lists session {key!r}, but {index[key]['file']} is not there and cannot be read. "
                "Save or push the session again, or leave it out."
            )
    wanted = ((entry_spec(key, index[key]), read_tensors(source.folder / index[key]["file"])) for key in keys)
    model.sessions.add_all(wanted, device=model.device, dtype=dtype)
    return keys


def _check_settings(model: OmniMouseNetwork, source: Source, index: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuses sessions of a model folder that belong to a core which computes otherwise than this one."""
    settings = core_settings(model.config)
    differences, ours = settings_differences(stored_settings(source.folder), settings), settings_hash(settings)
    others = [key for key in keys if index[key].get("core_config_sha256", ours) != ours]
    if differences or others:
        reason = differences or f"config.json is no longer the one that {', '.join(others[:5])} were saved with"
        raise ValueError(
            f"The sessions of {source.name} belong to a core that computes with other settings: {reason}. Load the "
            "core as it was, without these changes, or without its sessions."
        )
