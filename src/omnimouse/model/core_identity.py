"""What a core is: its tensors, and every field of its configuration that changes a prediction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.support.files import read_mapping
from omnimouse.support.tensor_files import hash_tensors

CHANGES_NO_PREDICTION = frozenset(
    {
        "max_population",  # how many neurons a training step draws
        "video_drop_path_rate",  # training alone
        "response_loss_epsilon",
        "response_loss_clamp",
        "behavior_loss_clamp",
        "behavior_loss_weight",
    }
)
"""Fields of `OmniMouseConfig` that do not count. All others do, also those that will be added."""

PEFT_ORIGINALS = ("base_layer", "original_module")
"""Where peft keeps a layer that it put one of its own around."""

T = TypeVar("T", bound=Tensor)


def core_settings(config: OmniMouseConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a configuration that change a prediction, as far as they are not at their defaults.

    What transformers adds (types, versions, names) is no such field. Defaults are left out so that a field which a
    later version adds, at the value that stands for what was computed before, changes no core that was there before.

    Args:
        config: a configuration, or the content of a `config.json`.
    """
    given = config.to_dict() if isinstance(config, OmniMouseConfig) else config
    usual = {name: _plain(field.default) for name, field in OmniMouseConfig.architecture_fields().items()}
    found = {n: _plain(given[n]) if n in given else usual[n] for n in usual if n not in CHANGES_NO_PREDICTION}
    if found["num_key_value_heads"] == found["num_attention_heads"]:
        found["num_key_value_heads"] = None  # which stands for as many
    return {n: value for n, value in found.items() if value != usual[n]}


def _plain(value: Any) -> Any:
    """A value as JSON has it, and one number for 4 and 4.0."""
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def stored_settings(folder: Path) -> dict[str, Any]:
    """The settings of the core in a model folder, from its `config.json`."""
    return core_settings(read_mapping(folder / "config.json", "the architecture of a model"))


def settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 over what `core_settings` returns."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def core_sha256(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """SHA-256 over a core's tensors and settings: session adapters, scores and checkpoints belong to one such core."""
    return join_hashes(hash_tensors(tensors), settings_hash(settings))


def join_hashes(*hashes: str) -> str:
    """One SHA-256 of several."""
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def settings_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Names the settings in which two cores differ, as `softplus_beta 0.1 there, 3 here`; empty if in none."""
    usual = {name: _plain(field.default) for name, field in OmniMouseConfig.architecture_fields().items()}
    pairs = {n: [s.get(n, usual.get(n, "nothing")) for s in (theirs, ours)] for n in sorted({*theirs, *ours})}
    return "; ".join(f"{name} {there} there, {here} here" for name, (there, here) in pairs.items() if there != here)


def split_injected(tensors: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """Splits named tensors into the model's own, under the names they always had, and those that peft added.

    peft puts a layer of its own around the original, which it keeps as `base_layer` (or `original_module`), with what
    it adds beside it. Going by these names serves all of its methods and works without peft.
    """
    split = {name: name.split(".") for name in tensors}
    wrapped = {tuple(parts[:i]) for parts in split.values() for i, part in enumerate(parts) if part in PEFT_ORIGINALS}
    own, injected = {}, {}
    for name, parts in split.items():
        if any(tuple(parts[:i]) in wrapped and part not in PEFT_ORIGINALS for i, part in enumerate(parts)):
            injected[name] = tensors[name]
        else:
            own[".".join(part for part in parts if part not in PEFT_ORIGINALS)] = tensors[name]
    return own, injected
