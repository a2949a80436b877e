"""The architecture of published weights, read off their hyperparameters or off their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from omnimouse.model.attention import feed_forward_width
from omnimouse.model.configuration_omnimouse import BEHAVIOR_CHANNELS, OmniMouseConfig

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

_FIELDS = {
    "response_rate": "num_samples_per_s",
    "num_response_samples": "num_samples_per_block",
    "video_rate": "num_frames_per_s",
    "num_frames": "num_frames_per_block",
    "behavior_rate": "num_behavior_samples_per_s",
    "num_behavior_samples": "num_behavior_samples_per_block",
    "max_population": "max_population_size",
    "guard_samples": "interpolation_buffer",
    "skip_samples": "skip_n_samples",
    "hidden_size": "d_model",
    "identity_size": "d_embedding",
    "num_attention_heads": "num_heads",
    "ffn_multiplier": "ffn_hidden_mult",
    "rms_norm_eps": "norm_eps",
    "response_token_window": "response_window_size_samples",
    "response_token_stride": "response_stride_samples",
    "num_latents": "num_response_latent_groups",
    "latent_window": "response_latent_window_size_samples",
    "num_registers": "num_global_latents",
    "video_hidden_size": "hiera_embed_dim",
    "video_num_heads": "hiera_num_heads",
    "video_depths": "hiera_stages",
    "video_patch_kernel": "hiera_patch_kernel",
    "video_patch_stride": "hiera_patch_stride",
    "video_patch_padding": "hiera_patch_padding",
    "video_ffn_multiplier": "hiera_mlp_ratio",
    "video_drop_path_rate": "hiera_drop_path_rate",
    "softplus_beta": "softplus_beta",
    "response_loss_epsilon": "response_poisson_loss_eps",
    "response_loss_clamp": "response_loss_clamp_value",
    "behavior_loss_clamp": "behavior_loss_clamp_value",
    "behavior_loss_weight": "behavior_loss_factor",
}
"""Field of our configuration -> published hyperparameter, where both hold the same."""

_DIMENSIONS = {
    "response_latent_embedding._latent_embeddings.weight": 2,
    "response_latent_embedding._latent_ids": 1,
    "neuron_to_model_proj.weight": 2,
    "response_featx._feature_proj.weight": 3,
    "response_readout_proj.weight": 2,
    "behavior_readout_proj": 3,
    "rotary_emb.inv_freq": 1,
    "enc.feed_forward.up_proj.weight": 2,
    "decs.0.feed_forward.up_proj.weight": 2,
    "proc.0.attention.wqkv.weight": 2,
    "hiera.backbone.patch_embed.proj.weight": 5,
}
"""Tensors that tell sizes, by published name, and how many dimensions each has."""


def config_from_hyperparameters(hyperparameters: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> OmniMouseConfig:
    """Translates published hyperparameters. A null decoder multiplier means the ordinary one.

    Raises:
        ValueError: A hyperparameter has a value that the released models never use; all such are listed.
    """
    given = hyperparameters.items()
    h: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in given}
    bad = [
        f"{name}={h[name]!r} (supported: {value!r})"
        for name, value in _SUPPORTED.items()
        if name in h and h[name] != value
    ]
    lookahead, window = h.get("response_query_lookahead_samples"), h["response_window_size_samples"]
    if lookahead not in (None, window):
        bad.append(f"response_query_lookahead_samples={lookahead!r} (supported: None or {window})")
    if h["response_latent_window_stride_samples"] != h["response_latent_window_size_samples"]:
        bad.append("response_latent_window_stride_samples differs from response_latent_window_size_samples")
    if bad:
        raise ValueError("Unsupported hyperparameters: " + "; ".join(bad) + ".")
    (local, global_), (height, width) = h["local_to_global_ratio"], h["video_resolution"]
    decoder_multiplier = h.get("decoder_ffn_hidden_mult")
    return OmniMouseConfig(
        **{ours: h[published] for ours, published in _FIELDS.items()},
        frame_height=height,
        frame_width=width,
        num_key_value_heads=h.get("num_kv_heads"),
        num_fusion_layers=_count_blocks(tensors, r"proc\.(\d+)\."),
        num_local_layers=local,
        num_global_layers=global_,
        decoder_ffn_multiplier=h["ffn_hidden_mult"] if decoder_multiplier is None else decoder_multiplier,
        video_attention_layout="published",
        behavior_channels=_channel_names(h["behavior_channels"]),
    )


def config_from_tensors(tensors: Mapping[str, Tensor]) -> OmniMouseConfig:
    """Reads a configuration off published tensors (by name, without prefix); the rest is as in the released sizes.

    Raises:
        ValueError: A tensor that tells a size is missing, or its shape cannot be.
    """
    latents, ids, identity, conv, readout, behavior, rotary, enc_ffn, dec_ffn, qkv, patch = _telling_shapes(tensors)
    size, head_dim = identity[0], 2 * rotary[0]
    if size % head_dim:
        raise ValueError(
            f"These weights do not fit the model:\n  misshapen: rotary_emb.inv_freq is {list(rotary)}, half of a head, "
            f"but heads of {head_dim} do not make up the width {size}"
        )
    num_latents = (ids[0] - latents[0]) // (OmniMouseConfig().num_latent_steps - 1)
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


def _telling_shapes(tensors: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    """Shapes of the tensors that tell sizes, in the order of `_DIMENSIONS`."""
    missing = [name for name in _DIMENSIONS if name not in tensors]
    if missing:
        raise ValueError(f"The checkpoint lacks the core's tensors {', '.join(missing)}; is rank_0.ckpt complete?")
    shapes = {name: tuple(tensors[name].shape) for name in _DIMENSIONS}
    flat = [
        f"\n  misshapen: {name} is {list(shape)}, expected {_DIMENSIONS[name]} sizes above 0"
        for name, shape in shapes.items()
        if len(shape) != _DIMENSIONS[name] or 0 in shape
    ]
    if flat:
        raise ValueError("These weights do not fit the model:" + "".join(flat))
    return list(shapes.values())


def _multiplier(size: int, width: int) -> float:
    return next((m for m in (2.67, 4) if feed_forward_width(size, m) == width), width / size)


def _channel_names(count: int) -> list[str]:
    """The released channels, or plain numbers where there are more or fewer."""
    released = list(BEHAVIOR_CHANNELS)
    return released if count == len(released) else [f"channel_{i}" for i in range(count)]


def _count_blocks(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = {int(match[1]) for name in tensors if (match := re.match(pattern, name))}
    if found != set(range(len(found))) or not found:
        raise ValueError(f"Blocks {sorted(found)} of the fusion stack are not numbered 0, 1, ...; the file is damaged.")
    return len(found)
