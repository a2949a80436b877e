"""Reads weights in the form in which they were published: names of the released code, one pickle per rank.

Loading never runs code from a file: pickles are read with `weights_only=True` and a short allow-list.
"""

from __future__ import annotations

import codecs
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .attention import feed_forward_width
from .configuration_omnimouse import DEFAULT_BEHAVIOR_CHANNELS, OmniMouseConfig
from .modeling_omnimouse import OmniMouseModel
from .published_names import clean_name, sort_tensors
from .sessions import SessionSpec

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
    config = config_from_hyperparameters(hyperparameters, {clean_name(k): v for k, v in state_dict.items()})
    return _build(state_dict, config, sessions)


def _build(
    state_dict: Mapping[str, Tensor], config: OmniMouseConfig, sessions: Mapping[str, Mapping[str, Any]]
) -> OmniMouseModel:
    model = OmniMouseModel(config)
    core, tables, animals, unexpected = sort_tensors(state_dict)
    expected = {name: t for name, t in model.core_state_dict().items() if name != "identity.initial"}
    problems = [f"unexpected: {name}" for name in unexpected]
    problems += [f"missing: {name}" for name in expected if name not in core]
    problems += [f"unexpected: {name}" for name in core if name not in expected]
    for name, tensor in core.items():
        if name in expected and tensor.shape != expected[name].shape:
            problems.append(f"misshapen: {name} is {list(tensor.shape)}, expected {list(expected[name].shape)}")
    problems += [
        f"unexpected: tensors of session {key}, which the sessions do not list" for key in tables if key not in sessions
    ]
    if problems:
        raise ValueError("These weights do not fit the model:\n  " + "\n  ".join(problems))
    model.load_state_dict(core, strict=False, assign=True)
    for key, entry in sessions.items():
        if key not in tables:
            continue
        spec = SessionSpec(key, int(entry["n_neurons"]), str(entry["animal_id"]))
        tensors = {**tables[key]}
        if spec.animal_id in animals:
            tensors["animal_embedding"] = animals[spec.animal_id].float()
        model.sessions.add(spec, tensors, device="cpu")
    if model.session_keys:
        model.update_initial_vectors()
    return model.eval()


def load_checkpoint(folder: str | Path, size: str | None = None) -> OmniMouseModel:
    """Loads a published checkpoint: a folder of `rank_<r>.ckpt` files, one per process of the training run.

    Rank 0 holds the core and its own sessions, other ranks only theirs. Files are memory-mapped and read one at a
    time. Nothing in them is executed: what is not tensors, numbers, strings, containers or NumPy arrays is refused.

    Args:
        folder: The folder.
        size: Name of a preset that the tensors must fit; by default sizes are read off the tensors alone.

    Raises:
        ValueError: No such files, a file that cannot be read safely, or tensors that do not fit together.
    """
    folder = Path(folder)
    files = {
        int(match[1]): path for path in folder.glob("rank_*.ckpt") if (match := re.search(r"rank_(\d+)\.", path.name))
    }
    if 0 not in files:
        raise ValueError(f"{folder} holds no rank_0.ckpt, so it is no published checkpoint (folder of rank_<r>.ckpt).")
    state_dict: dict[str, Tensor] = {}
    sessions: dict[str, Any] = {}
    for _, path in sorted(files.items()):
        content = _read_pickle(path)
        if not isinstance(content.get("state_dict"), dict):
            raise ValueError(f"{path} has no state_dict, so it is no published checkpoint.")
        state_dict.update({clean_name(name): tensor for name, tensor in content["state_dict"].items()})
        sessions.update(content.get("session_map", {}))
    absent = [key for key in sessions if f"sess_params.{key}._session_embedding" not in state_dict]
    if absent:
        warnings.warn(f"{folder}: rank files of {len(absent)} sessions are missing ({absent[0]}, ...).", stacklevel=2)
    config = config_from_tensors(state_dict)
    if size is not None:
        expected = OmniMouseConfig.from_preset(size, identity_size=config.identity_size)
        for name in ("hidden_size", "num_attention_heads", "num_fusion_layers", "video_depths", "num_latents"):
            if getattr(expected, name) != getattr(config, name):
                raise ValueError(
                    f"{folder} does not hold a {size} model: {name} is {getattr(config, name)}, expected "
                    f"{getattr(expected, name)}."
                )
    return _build(state_dict, config, sessions)


def _read_pickle(path: Path) -> dict[str, Any]:
    """Reads a file of `torch.save` without running code from it. NumPy arrays (random states) are allowed by name."""
    reconstruct = np.empty(0).__reduce__()[0]
    allowed: list[Any] = [
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        codecs.encode,
        *{type(np.dtype(name)) for name in ("u1", "u4", "u8", "i4", "i8", "f4", "f8")},
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = re.search(r"Unsupported [^\n]*?(?= was not| by default|$)", str(error))
        raise ValueError(
            f"{path} is refused: it asks for more than tensors and plain data "
            f"({reason[0] if reason else str(error).splitlines()[0]}). Loading it could run code, so it was not loaded."
        ) from None
    except (RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint ({error}). Copy or download it again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dict with state_dict and session_map.")
    return content


def config_from_tensors(tensors: Mapping[str, Tensor]) -> OmniMouseConfig:
    """Reads a configuration off published tensors. What they cannot tell is as in the released sizes.

    Args:
        tensors: Tensors by published name, without prefix.

    Raises:
        ValueError: A tensor that tells a size is missing.
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
    latents, ids, identity, conv, readout, behavior, rotary, enc_ffn, dec_ffn, qkv, patch = (
        tuple(tensors[name].shape) for name in needed
    )
    size, head_dim = identity[0], 2 * rotary[0]
    steps = OmniMouseConfig().num_latent_steps
    num_latents = (ids[0] - latents[0]) // (steps - 1)
    layers = _count_blocks(tensors, r"proc\.(\d+)\.")
    blocks = _count_blocks(tensors, r"hiera\.backbone\.blocks\.(\d+)\.")
    first = next((i for i in range(blocks) if f"hiera.backbone.blocks.{i}.proj.weight" in tensors), 1)
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
