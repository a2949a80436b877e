"""New sessions: what a recording, or a key with sizes, adds to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.processing_omnimouse import OmniMouseProcessor, processor_fields
from omnimouse.model.session_tables.initial_vectors import inverse_softplus
from omnimouse.model.session_tables.session_specs import SessionSpec, hash_unit_ids
from omnimouse.recordings.recording import Recording
from omnimouse.recordings.windows import mean_responses


def add_session(
    model: OmniMouseNetwork,
    recording: Recording | str,
    n_neurons: int | None,
    animal_id: str | None,
    means: Tensor | np.ndarray | Sequence[float] | None,
    unit_ids: np.ndarray | Sequence[int] | None,
    processor: OmniMouseProcessor | None,
) -> str:
    """Adds a new session, as `OmniMouseModel.add_session` says, and returns its key."""
    if isinstance(recording, str):
        if n_neurons is None or animal_id is None:
            raise ValueError(
                f"add_session({recording!r}) needs n_neurons and animal_id. To add a recording, open it first: "
                "model.add_session(open_recording(folder))."
            )
        spec = SessionSpec(recording, int(n_neurons), str(animal_id), hash_unit_ids(unit_ids))
    else:
        spec = _spec_of(recording, n_neurons, animal_id)
        if means is None:
            cut_by = processor or model.processor or OmniMouseProcessor(profile="strict")
            means = mean_responses(recording, cut_by)
    rates = torch.ones(spec.n_neurons) if means is None else torch.as_tensor(means)
    if rates.shape != (spec.n_neurons,) or not bool(torch.isfinite(rates).all()):
        raise ValueError(
            f"Session {spec.key}: mean_responses should be {spec.n_neurons} finite numbers, one per neuron, got "
            f"shape {tuple(rates.shape)}."
        )
    spec = replace(spec, animal_id=model.sessions.known_animal(spec.animal_id))
    neuron, session, animal = model.identity.initial.float().cpu()
    known = model.sessions.animal_vector(spec.animal_id)
    tensors = {
        "neuron_embedding": neuron.repeat(spec.n_neurons, 1),
        "neuron_bias": inverse_softplus(rates, model.config.softplus_beta).float(),
        "session_embedding": session.clone(),
        "animal_embedding": animal.clone() if known is None else known,
    }
    model.sessions.add_all([(spec, tensors)], device=model.device)
    if processor is not None:
        model.sessions.note_processor(spec.key, processor_fields(processor))
    return spec.key


def _spec_of(recording: Recording, n_neurons: int | None, animal_id: str | None) -> SessionSpec:
    if n_neurons is not None and n_neurons != recording.n_neurons:
        raise ValueError(f"n_neurons={n_neurons}, but the recording has {recording.n_neurons} neurons.")
    return SessionSpec(
        recording.session_key,
        recording.n_neurons,
        str(animal_id or recording.animal_id),
        hash_unit_ids(recording.unit_ids),
    )
