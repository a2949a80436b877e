"""What published weights are: their architecture, and whether every tensor fits it.

Loading never runs code from a file: see `checkpoint_files.py` for how the pickles are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from omnimouse.model.attention import feed_forward_width
from omnimouse.model.configuration_omnimouse import DEFAULT_BEHAVIOR_CHANNELS, PRESETS, OmniMouseConfig
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.sessions import SessionSpec
from omnimouse.pretrained.published.checkpoint_files import RankFiles, survey, warn_of_missing_sessions
from omnimouse.pretrained.published.names import SESSION_NAMES, all_names

Network = TypeVar("Network", bound=OmniMouseNetwork)

_SUPPORTED = {
    "add_meta_to_embeddings": True,
    "add_meta_to_latents": True,
    "add_meta_to_video_feats": False,
    "add_exp_time_embedding": False,
    "response_query_lookback_samples": 0,
    "rope_use_radians": True,
    "rope_base": None,
    "use_qk_norm": True,
    "video_channels": 1,
    "hiera_q_pool": 1,
    "hiera_q_stride": [1, 2, 2],
    "hiera_mask_unit_size": [1, 8, 8],
}

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
class OpenCheckpoint:
    """A published checkpoint whose names and shapes were checked.

    Args:
        config: Its architecture.
        core: The core's tensors by our names, memory-mapped.
        files: What its files hold.
        size: Name of the released size whose table it fits, or `None`.
    """

    config: OmniMouseConfig
    core: dict[str, Tensor]
    files: RankFiles
    size: str | None


def open_checkpoint(folder: Path, size: str | None = None) -> OpenCheckpoint:
    """Reads what a checkpoint folder holds and checks every tensor's name and shape, without reading tensors' data.

    Args:
        folder: The folder.
        size: Name of a preset that it must fit; by default sizes are read off the tensors.

    Raises:
        ValueError: As `omnimouse.published.load_checkpoint` says.
    """
    files = survey(folder)
    warn_of_missing_sessions(folder, files.missing_sessions)
    try:
        config = config_from_tensors(files.tensors)
    except StrictDataclassError as error:
        raise ValueError(f"{folder}: the sizes of its tensors do not make a model. {error}") from None
    sizes = [name for name in PRESETS if fits_preset(config, name)]
    if size is not None and size.lower() not in sizes:
        expected = OmniMouseConfig.from_preset(size, identity_size=config.identity_size)
        wrong = [f"{n} is {getattr(config, n)}, expected {getattr(expected, n)}" for n in _differing(config, expected)]
        raise ValueError(f"{folder} does not hold a {size} model: {'; '.join(wrong)}.")
    check_tensors(config, files.core, files.tables, files.animals, files.specs, files.unexpected)
    return OpenCheckpoint(config, files.core, files, sizes[0] if sizes else None)


def fits_preset(config: OmniMouseConfig, name: str) -> bool:
    """Whether a configuration read off tensors is that of a released size; identity sizes may differ."""
    return not _differing(config, OmniMouseConfig.from_preset(name, identity_size=config.identity_size))


def _differing(config: OmniMouseConfig, expected: OmniMouseConfig) -> list[str]:
    return [name for name in _SIZE_FIELDS if getattr(config, name) != getattr(expected, name)]


def check_tensors(
    config: OmniMouseConfig,
    core: Mapping[str, Tensor],
    tables: Mapping[str, Mapping[str, tuple[int, ...]]],
    animals: Mapping[str, Tensor],
    specs: Mapping[str, SessionSpec],
    unexpected: Iterable[str] = (),
) -> None:
    """Compares names and shapes with those that the configuration and the sessions ask for.

    Args:
        config: The architecture.
        core: The core's tensors by our names.
        tables: Session -> shapes of its tensors by our names.
        animals: Animal -> vector.
        specs: Session -> neurons and animal.
        unexpected: Names that were found to mean nothing.

    Raises:
        ValueError: Tensors missing, unexpected or misshapen; all are listed, by published names.
    """
    expected = {name: tuple(t.shape) for name, t in empty_core(config).items() if name != "identity.initial"}
    published = {ours: name for name, ours in all_names(config.num_fusion_layers, sum(config.video_depths)).items()}
    problems = [f"unexpected: {name}" for name in unexpected]
    problems += [f"missing: {published.get(name, name)}" for name in expected if name not in core]
    problems += [f"unexpected: {published.get(name, name)}" for name in core if name not in expected]
    found = {published.get(name, name): (tuple(t.shape), expected.get(name)) for name, t in core.items()}
    size = config.identity_size
    for key, shapes in tables.items():
        if key not in specs:
            problems.append(f"unexpected: tensors of session {key}, which the sessions do not list")
            continue
        n = specs[key].n_neurons
        for (name, suffix), shape in zip(SESSION_NAMES.items(), ((n, size), (n,), (size,)), strict=True):
            if name in shapes:
                found[f"sess_params.{key}.{suffix}"] = (shapes[name], shape)
            else:
                problems.append(f"missing: sess_params.{key}.{suffix}")
        if specs[key].animal_id not in animals:
            problems.append(f"missing: animal_params._animal_embeddings.{specs[key].animal_id}, of session {key}")
    found |= {
        f"animal_params._animal_embeddings.{name}": (tuple(vector.shape), (size,)) for name, vector in animals.items()
    }
    problems += [
        f"misshapen: {name} is {list(shape)}, expected {list(wanted)}"
        for name, (shape, wanted) in found.items()
        if wanted is not None and shape != wanted
    ]
    problems += [
        f"misshapen: {published.get(name, name)} holds {t.dtype}, expected floating point numbers"
        for name, t in core.items()
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


def config_from_tensors(tensors: Mapping[str, Tensor]) -> OmniMouseConfig:
    """Reads a configuration off published tensors. What they cannot tell is as in the released sizes.

    Args:
        tensors: Tensors by published name, without prefix.

    Raises:
        ValueError: A tensor that tells a size is missing, or its shape cannot be.
    """
    needed = (
        "response_latent_embedding._latent_embeddings.weight",
        "response_latent_embedding._latent_ids",
        "neuron_to_model_proj.weight",
        "response_featx._feature_proj.weight",
        "response_readout_proj.weight",
        "behavior_readout_proj",
        "rotary_emb.inv_freq",
        "enc.feed_forward.up_proj.weight",
        "decs.0.feed_forward.up_proj.weight",
        "proc.0.attention.wqkv.weight",
        "hiera.backbone.patch_embed.proj.weight",
    )
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ValueError(f"The checkpoint lacks the core's tensors {', '.join(missing)}; is rank_0.ckpt complete?")
    shapes = {name: tuple(tensors[name].shape) for name in needed}
    flat = [
        f"{name} is {list(shape)}, expected {dimensions} sizes above 0"
        for (name, shape), dimensions in zip(shapes.items(), (2, 1, 2, 3, 2, 3, 1, 2, 2, 2, 5), strict=True)
        if len(shape) != dimensions or 0 in shape
    ]
    if flat:
        raise ValueError("These weights do not fit the model:\n  misshapen: " + "\n  misshapen: ".join(flat))
    latents, ids, identity, conv, readout, behavior, rotary, enc_ffn, dec_ffn, qkv, patch = shapes.values()
    size, head_dim = identity[0], 2 * rotary[0]
    if size % head_dim:
        raise ValueError(
            f"These weights do not fit the model:\n  misshapen: rotary_emb.inv_freq is {list(rotary)}, half of a head, "
            f"but heads of {head_dim} do not make up the width {size}"
        )
    steps = OmniMouseConfig().num_latent_steps
    num_latents = (ids[0] - latents[0]) // (steps - 1)
    layers = _count_blocks(tensors, r"proc\.(\d+)\.")
    blocks = _count_blocks(tensors, r"hiera\.backbone\.blocks\.(\d+)\.")
    pooling = {f"hiera.backbone.blocks.{i}.proj.{part}": i for i in range(blocks) for part in ("weight", "bias")}
    first = next((i for name, i in pooling.items() if name in tensors), 1)
    return OmniMouseConfig(
        hidden_size=size,
        identity_size=identity[1],
        num_attention_heads=size // head_dim,
        num_key_value_heads=None if qkv[0] == 3 * size else (qkv[0] - size) // (2 * head_dim),
        num_fusion_layers=layers,
        num_local_layers=min(layers, 6) - 1,
        num_global_layers=1,
        ffn_multiplier=_multiplier(size, enc_ffn[0]),
        decoder_ffn_multiplier=_multiplier(size, dec_ffn[0]),
        response_token_window=conv[2],
        response_token_stride=readout[0],
        num_latents=num_latents,
        num_registers=latents[0] - num_latents,
        video_hidden_size=patch[0],
        video_depths=[first, blocks - first],
        video_patch_kernel=list(patch[2:]),
        video_attention_layout="published",
        behavior_channels=_channel_names(behavior[0]),
    )


def _multiplier(size: int, width: int) -> float:
    return next((m for m in (2.67, 4) if feed_forward_width(size, m) == width), width / size)


def config_from_hyperparameters(hyperparameters: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> OmniMouseConfig:
    """Translates published hyperparameters. A null decoder multiplier means the ordinary one.

    Raises:
        ValueError: A hyperparameter has a value that the released models never use; all such are listed.
    """
    h = dict(hyperparameters)
    bad = [
        f"{name}={_plain(h[name])!r} (supported: {value!r})"
        for name, value in _SUPPORTED.items()
        if name in h and _plain(h[name]) != value
    ]
    lookahead, window = h.get("response_query_lookahead_samples"), h["response_window_size_samples"]
    if lookahead not in (None, window):
        bad.append(f"response_query_lookahead_samples={lookahead!r} (supported: None or {window})")
    if h["response_latent_window_stride_samples"] != h["response_latent_window_size_samples"]:
        bad.append("response_latent_window_stride_samples differs from response_latent_window_size_samples")
    if bad:
        raise ValueError("Unsupported hyperparameters: " + "; ".join(bad) + ".")
    local, global_ = h["local_to_global_ratio"]
    height, width = h["video_resolution"]
    decoder_multiplier = h.get("decoder_ffn_hidden_mult")
    return OmniMouseConfig(
        response_rate=h["num_samples_per_s"],
        num_response_samples=h["num_samples_per_block"],
        video_rate=h["num_frames_per_s"],
        num_frames=h["num_frames_per_block"],
        frame_height=height,
        frame_width=width,
        behavior_rate=h["num_behavior_samples_per_s"],
        num_behavior_samples=h["num_behavior_samples_per_block"],
        max_population=h["max_population_size"],
        guard_samples=h["interpolation_buffer"],
        skip_samples=h["skip_n_samples"],
        hidden_size=h["d_model"],
        identity_size=h["d_embedding"],
        num_attention_heads=h["num_heads"],
        num_key_value_heads=h.get("num_kv_heads"),
        num_fusion_layers=_count_blocks(tensors, r"proc\.(\d+)\."),
        num_local_layers=local,
        num_global_layers=global_,
        ffn_multiplier=h["ffn_hidden_mult"],
        decoder_ffn_multiplier=h["ffn_hidden_mult"] if decoder_multiplier is None else decoder_multiplier,
        rms_norm_eps=h["norm_eps"],
        response_token_window=window,
        response_token_stride=h["response_stride_samples"],
        num_latents=h["num_response_latent_groups"],
        latent_window=h["response_latent_window_size_samples"],
        num_registers=h["num_global_latents"],
        video_hidden_size=h["hiera_embed_dim"],
        video_num_heads=h["hiera_num_heads"],
        video_depths=list(h["hiera_stages"]),
        video_patch_kernel=list(h["hiera_patch_kernel"]),
        video_patch_stride=list(h["hiera_patch_stride"]),
        video_patch_padding=list(h["hiera_patch_padding"]),
        video_ffn_multiplier=h["hiera_mlp_ratio"],
        video_drop_path_rate=h["hiera_drop_path_rate"],
        video_attention_layout="published",
        softplus_beta=h["softplus_beta"],
        response_loss_epsilon=h["response_poisson_loss_eps"],
        response_loss_clamp=h["response_loss_clamp_value"],
        behavior_loss_clamp=h["behavior_loss_clamp_value"],
        behavior_loss_weight=h["behavior_loss_factor"],
        behavior_channels=_channel_names(h["behavior_channels"]),
    )


def _channel_names(count: int) -> list[str]:
    """The released channels, or plain numbers where there are more or fewer."""
    released = list(DEFAULT_BEHAVIOR_CHANNELS)
    return released if count == len(released) else [f"channel_{i}" for i in range(count)]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _count_blocks(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    if found != set(range(len(found))) or not found:
        raise ValueError(f"Blocks {sorted(found)} of the fusion stack are not numbered 0, 1, ...; the file is damaged.")
    return len(found)
