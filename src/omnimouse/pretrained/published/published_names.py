"""Names of tensors in published checkpoints, and ours for the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

_BLOCK = {
    "attn_pre_norm.weight": "attention_norm.weight",
    "attn_pre_norm_context.weight": "context_norm.weight",
    "ffn_pre_norm.weight": "feed_forward_norm.weight",
    "attention.wq.weight": "query.weight",
    "attention.wkv.weight": "key_value.weight",
    "attention.wqkv.weight": "query_key_value.weight",
    "attention.wo.weight": "output.weight",
    "feed_forward.up_proj.weight": "feed_forward.up.weight",
    "feed_forward.gate_proj.weight": "feed_forward.gate.weight",
    "feed_forward.down_proj.weight": "feed_forward.down.weight",
}
_VIDEO_BLOCK = {
    "pre_norm1.weight": "attention_norm.weight",
    "pre_norm2.weight": "feed_forward_norm.weight",
    "attn.qkv.weight": "attention.query_key_value.weight",
    "attn.qkv.bias": "attention.query_key_value.bias",
    "attn.proj.weight": "attention.output.weight",
    "attn.proj.bias": "attention.output.bias",
    "mlp.up_proj.weight": "feed_forward.up.weight",
    "mlp.gate_proj.weight": "feed_forward.gate.weight",
    "mlp.down_proj.weight": "feed_forward.down.weight",
    "proj.weight": "pool_projection.weight",
    "proj.bias": "pool_projection.bias",
}
_PLAIN = {
    "neuron_to_model_proj.weight": "identity.neuron.weight",
    "neuron_to_model_proj.bias": "identity.neuron.bias",
    "sess_to_model_proj.weight": "identity.session.weight",
    "sess_to_model_proj.bias": "identity.session.bias",
    "animal_to_model_proj.weight": "identity.animal.weight",
    "animal_to_model_proj.bias": "identity.animal.bias",
    "behavior_channel_embeddings": "tokens.behavior_channels",
    "missing_modality_embeddings": "tokens.missing_modalities",
    "response_latent_embedding._latent_embeddings.weight": "tokens.latents",
    "response_featx._feature_proj.weight": "tokens.response.weight",
    "response_featx._feature_proj.bias": "tokens.response.bias",
    "behavior_featx.weight": "tokens.behavior.weight",
    "behavior_featx.bias": "tokens.behavior.bias",
    "response_readout_proj.weight": "response_readout.weight",
    "behavior_readout_proj": "behavior_readout",
    "hiera.backbone.pos_embed_spatial": "video_encoder.spatial_position",
    "hiera.backbone.pos_embed_temporal": "video_encoder.temporal_position",
    "hiera.backbone.patch_embed.proj.weight": "video_encoder.patch_embedding.weight",
    "hiera.backbone.patch_embed.proj.bias": "video_encoder.patch_embedding.bias",
    "hiera.feature_proj.weight": "video_projection.weight",
    "hiera.feature_proj.bias": "video_projection.bias",
}
_DERIVED = re.compile(
    r"exp_time_(embedding|to_model_proj)\.|response_latent_embedding\._latent_(ids|timestamps|window_sizes)$"
    r"|behavior_timestamps$|rotary_emb\.inv_freq$"
)
SESSION = re.compile(
    r"sess_params\.(?P<key>.+)\.(?P<name>_neuron_embeddings\.weight|_neuron_biases|_session_embedding)$"
)
SESSION_NAMES = {
    "_neuron_embeddings.weight": "neuron_embedding",
    "_neuron_biases": "neuron_bias",
    "_session_embedding": "session_embedding",
}
"""How the published names of a session's tensors end, and our names."""

ANIMAL = re.compile(r"animal_params\._animal_embeddings\.(?P<animal>.+)$")
_UNSQUEEZED = {"tokens.response.weight", "video_encoder.spatial_position", "video_encoder.temporal_position"}


def clean_name(name: str) -> str:
    return name.replace("_orig_mod.", "")


def our_name(name: str) -> str | None:
    if name in _PLAIN:
        return _PLAIN[name]
    for pattern, target, table in (
        (r"enc\.(.+)$", "encoder", _BLOCK),
        (r"decs\.0\.(.+)$", "decoder", _BLOCK),
        (r"proc\.(\d+)\.(.+)$", "fusion.{}", _BLOCK),
        (r"hiera\.backbone\.blocks\.(\d+)\.(.+)$", "video_encoder.blocks.{}", _VIDEO_BLOCK),
    ):
        match = re.match(pattern, name)
        if match and match.groups()[-1] in table:
            return target.format(*match.groups()[:-1]) + "." + table[match.groups()[-1]]
    return None


def all_names(num_fusion_layers: int, num_video_blocks: int) -> dict[str, str]:
    """Published name -> our name of every tensor that a core may have."""
    names = list(_PLAIN)
    names += [f"{block}.{name}" for block in ("enc", "decs.0") for name in _BLOCK]
    names += [f"proc.{i}.{name}" for i in range(num_fusion_layers) for name in _BLOCK]
    names += [f"hiera.backbone.blocks.{i}.{name}" for i in range(num_video_blocks) for name in _VIDEO_BLOCK]
    return {name: ours for name in names if (ours := our_name(name)) is not None}


@dataclass(kw_only=True)
class SortedTensors:
    """Published tensors by our names."""

    core: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # session -> its tensors but the animal's
    animals: dict[str, Tensor] = field(default_factory=dict)  # animal -> its vector `[E]`
    unexpected: list[str] = field(default_factory=list)  # what means nothing to us


def sort_tensors(state_dict: Mapping[str, Tensor]) -> SortedTensors:
    """Splits published tensors into core, sessions, animals, and names that mean nothing to us."""
    found = SortedTensors()
    for published, tensor in state_dict.items():
        name = clean_name(published)
        if match := SESSION.match(name):
            part = SESSION_NAMES[match["name"]]
            table = found.tables.setdefault(match["key"], {})
            table[part] = tensor if part == "neuron_embedding" else tensor.reshape(-1)
        elif match := ANIMAL.match(name):
            found.animals[match["animal"]] = tensor.reshape(-1)
        elif (ours := our_name(name)) is not None:
            squeeze = ours in _UNSQUEEZED and tensor.dim() > 1 and tensor.numel() > 0
            rows = tensor.shape[-2 if tensor.shape[0] == 1 else 0] if squeeze else 0
            found.core[ours] = tensor.reshape(rows, -1) if squeeze else tensor
        elif not _DERIVED.match(name):
            found.unexpected.append(name)
    return found
