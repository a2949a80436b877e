"""A stand-in for the published models: sessions and neuron counts of the corpus, and random numbers for weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from omnimouse import OmniMouseConfig, OmniMouseModel, OmniMouseProcessor
from omnimouse.corpus.manifest import corpus_sessions
from omnimouse.model.core_identity import core_settings
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.pretrained.published.published_names import all_names
from omnimouse.pretrained.session_files import write_index, write_session


def read_manifest(limit: int | None = None) -> list[SessionSpec]:
    """The corpus's sessions, or the first `limit` of them."""
    sessions = corpus_sessions()[:limit]
    return [SessionSpec(session.published_key, session.n_neurons, session.animal_id) for session in sessions]


def random_sessions(specs: list[SessionSpec], size: int) -> Iterator[tuple[SessionSpec, dict[str, Tensor]]]:
    """Random tensors of sessions, one session at a time; sessions of one animal share its vector."""
    generator = torch.Generator().manual_seed(0)
    animals: dict[str, Tensor] = {}
    for spec in specs:
        yield (
            spec,
            {
                "neuron_embedding": torch.randn(spec.n_neurons, size, generator=generator),
                "neuron_bias": torch.randn(spec.n_neurons, generator=generator),
                "session_embedding": torch.randn(size, generator=generator),
                "animal_embedding": animals.setdefault(spec.animal_id, torch.randn(size, generator=generator)),
            },
        )


def random_core(preset: str, identity_size: int, layout: str = "spatial") -> OmniMouseModel:
    """A core as it is initialised."""
    torch.manual_seed(0)
    model = OmniMouseModel(
        OmniMouseConfig.from_preset(preset, identity_size=identity_size, video_attention_layout=layout)
    )
    model.processor = OmniMouseProcessor(profile="published")
    return model


def write_model(folder: Path, preset: str, identity_size: int, specs: list[SessionSpec]) -> None:
    """Writes a model folder, session by session."""
    core = random_core(preset, identity_size)
    settings, sessions = core_settings(core.config), random_sessions(specs, identity_size)
    write_index(folder, {spec.key: write_session(folder, spec, tensors, settings) for spec, tensors in sessions})
    core.save_pretrained(folder)


def write_published(folder: Path, preset: str, identity_size: int, specs: list[SessionSpec], ranks: int) -> None:
    """Writes rank files as published: sessions dealt out to ranks, the core and its optimizer state on rank 0."""
    folder.mkdir(parents=True)
    model = random_core(preset, identity_size, layout="published")
    config = model.config
    ours = model.core_state_dict()
    core = {
        published: _as_published(ours[name], name)
        for published, name in all_names(config.num_fusion_layers, sum(config.video_depths)).items()
        if name in ours
    }
    n_rows = config.num_latents * config.num_latent_steps + config.num_registers
    core["response_latent_embedding._latent_ids"] = torch.zeros(n_rows, dtype=torch.long)
    core["rotary_emb.inv_freq"] = torch.zeros(config.head_dim // 2, dtype=torch.float64)
    session_map = {spec.key: {"n_neurons": spec.n_neurons, "animal_id": spec.animal_id} for spec in specs}
    animals: dict[str, Tensor] = {}
    for rank in reversed(range(ranks)):  # rank 0 last, when all animals are known
        state: dict[str, Tensor] = {}
        for spec, tensors in random_sessions(specs[rank::ranks], identity_size):
            prefix = f"_orig_mod.sess_params.{spec.key}"
            state[f"{prefix}._neuron_embeddings.weight"] = tensors["neuron_embedding"]
            state[f"{prefix}._neuron_biases"] = tensors["neuron_bias"][:, None]
            state[f"{prefix}._session_embedding"] = tensors["session_embedding"]
            animals.setdefault(spec.animal_id, tensors["animal_embedding"])
        if rank == 0:
            state |= {f"_orig_mod.{name}": tensor for name, tensor in core.items()}
            state |= {f"_orig_mod.animal_params._animal_embeddings.{name}": v for name, v in animals.items()}
        moments = {name: {"exp_avg": t * 0, "exp_avg_sq": t * 0} for name, t in state.items()}
        content = {"state_dict": state, "session_map": session_map, "rank_optimizer_state_dict": {"state": moments}}
        torch.save(content, folder / f"rank_{rank}.ckpt")


def _as_published(tensor: Tensor, name: str) -> Tensor:
    """The three tensors that are stored with an axis more than ours."""
    if name == "tokens.response.weight":
        return tensor[:, None]
    if name in ("video_encoder.spatial_position", "video_encoder.temporal_position"):
        return tensor[None]
    return tensor
