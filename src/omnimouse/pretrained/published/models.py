"""Whether every tensor of published weights fits their architecture, and models of those that do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from omnimouse.model.configuration_omnimouse import PRESETS, OmniMouseConfig
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.pretrained.published.architecture import config_from_tensors
from omnimouse.pretrained.published.checkpoint_files import RankFiles, survey, warn_of_missing_sessions
from omnimouse.pretrained.published.published_names import SESSION_NAMES, SortedTensors, all_names

Network = TypeVar("Network", bound=OmniMouseNetwork)

_SIZE_FIELDS = (
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_fusion_layers",
    "num_local_layers",
    "num_global_layers",
    "ffn_multiplier",
    "decoder_ffn_multiplier",
    "response_token_window",
    "response_token_stride",
    "num_latents",
    "num_registers",
    "video_hidden_size",
    "video_depths",
    "video_patch_kernel",
)
"""What the size table fixes and tensors tell."""


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint whose names and shapes were checked."""

    config: OmniMouseConfig
    files: RankFiles
    size: str | None  # name of the released size whose table it fits


def open_published(folder: Path, size: str | None = None) -> PublishedCheckpoint:
    """Reads what a checkpoint folder holds and checks every tensor's name and shape, without reading tensors' data.

    With `size` it must fit the preset of that name; by default sizes are read off the tensors.

    Raises:
        ValueError: As `omnimouse.published.load_checkpoint` says.
    """
    files = survey(folder)
    warn_of_missing_sessions(folder, files.missing_sessions)
    try:
        config = config_from_tensors(files.tensors)
    except StrictDataclassError as error:
        raise ValueError(f"{folder}: the sizes of its tensors do not make a model. {error}") from None
    sizes = [name for name in PRESETS if not _differing(config, name)]
    if size is not None and size.lower() not in sizes:
        raise ValueError(f"{folder} does not hold a {size} model: {'; '.join(_differing(config, size))}.")
    check_tensors(config, files, files.specs)
    return PublishedCheckpoint(config, files, sizes[0] if sizes else None)


def _differing(config: OmniMouseConfig, size: str) -> list[str]:
    """In what a configuration read off tensors is not that of a released size; identity sizes may differ."""
    preset = OmniMouseConfig.from_preset(size, identity_size=config.identity_size)
    pairs = {name: (getattr(config, name), getattr(preset, name)) for name in _SIZE_FIELDS}
    return [f"{name} is {found}, expected {wanted}" for name, (found, wanted) in pairs.items() if found != wanted]


def check_tensors(config: OmniMouseConfig, found: SortedTensors, specs: Mapping[str, SessionSpec]) -> None:
    """Compares names and shapes with those that the configuration and the sessions ask for.

    Raises:
        ValueError: Tensors missing, unexpected or misshapen; all are listed, by published names.
    """
    expected = {name: tuple(t.shape) for name, t in empty_core(config).items() if name != "identity.initial"}
    published = {ours: name for name, ours in all_names(config.num_fusion_layers, sum(config.video_depths)).items()}
    problems = [f"unexpected: {name}" for name in found.unexpected]
    problems += [f"missing: {published.get(name, name)}" for name in expected if name not in found.core]
    problems += [f"unexpected: {published.get(name, name)}" for name in found.core if name not in expected]
    pairs = {published.get(name, name): (t, expected.get(name)) for name, t in found.core.items()}
    size = config.identity_size
    for key, table in found.tables.items():
        if key not in specs:
            problems.append(f"unexpected: tensors of session {key}, which the sessions do not list")
            continue
        n = specs[key].n_neurons
        for (suffix, name), shape in zip(SESSION_NAMES.items(), ((n, size), (n,), (size,)), strict=True):
            if name in table:
                pairs[f"sess_params.{key}.{suffix}"] = (table[name], shape)
            else:
                problems.append(f"missing: sess_params.{key}.{suffix}")
        if specs[key].animal_id not in found.animals:
            problems.append(f"missing: animal_params._animal_embeddings.{specs[key].animal_id}, of session {key}")
    pairs |= {f"animal_params._animal_embeddings.{name}": (vector, (size,)) for name, vector in found.animals.items()}
    problems += [
        f"misshapen: {name} is {list(tensor.shape)}, expected {list(wanted)}"
        for name, (tensor, wanted) in pairs.items()
        if wanted is not None and tensor.shape != wanted
    ]
    problems += [
        f"misshapen: {published.get(name, name)} holds {t.dtype}, expected floating point numbers"
        for name, t in found.core.items()
        if not t.is_floating_point()
    ]
    if problems:
        raise ValueError("These weights do not fit the model:\n  " + "\n  ".join(problems))


def empty_core(config: OmniMouseConfig) -> dict[str, Tensor]:
    """The core's tensors without data, by our names."""
    with torch.device("meta"):
        return OmniMouseNetwork(config).core_state_dict()


def build_core(core: Mapping[str, Tensor], config: OmniMouseConfig, kind: type[Network]) -> Network:
    """A model of checked tensors, in evaluation mode, without sessions; the tensors become its own."""
    with torch.device("meta"):
        model = kind(config)
    model.load_state_dict(dict(core), strict=False, assign=True)
    model.identity.initial = torch.zeros(3, config.identity_size, dtype=model.identity.neuron.weight.dtype)
    return model.eval()
