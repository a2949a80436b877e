"""The sessions that a process owns: where their tables start, their optimizers, and their stored form.

Shape letters: n neurons of a session, E identity size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.model.session_tables.initial_vectors import inverse_softplus
from omnimouse.model.session_tables.session_names import match_keys, same_animal
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.model.session_tables.session_surgery import TENSORS
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.pretrained.session_files import read_index, read_tensors
from omnimouse.recordings import open_recording
from omnimouse.training.pretraining.corpus_order import name_words
from omnimouse.training.pretraining.corpus_recordings import SessionInfo
from omnimouse.training.pretraining.pretraining_recipe import PretrainingRecipe
from omnimouse.training.shared.data import STREAM_VECTORS, finite_means, random_words
from omnimouse.training.shared.optimizers import ParameterGroup, build_group, pack_moments, restore_moments
from omnimouse.training.shared.recipe import OptimizerRecipe

ANIMAL = TENSORS[3]


class FirstVectors:
    """Where the tables of a run's sessions start; the same whichever process asks.

    In a model from random weights, vectors are drawn from a truncated normal distribution of standard deviation
    E^-0.5, a pure function of the seed and the name of session or animal. On a core that was trained before, known
    sessions and animals keep their vectors, and the others start at the mean of those it was trained on.

    Args:
        model: without sessions; its `_source` tells which ones it came with.
        seed: of the run.
    """

    def __init__(self, model: OmniMouseModel, seed: int) -> None:
        self.model, self.seed = model, seed
        self._is_untrained = not bool(model.identity.initial.any())
        source = model._source
        self.index = {} if source is None else read_index(source.folder)

    def tensors(
        self, info: SessionInfo, tiers: Iterable[str], processor: OmniMouseProcessor
    ) -> dict[str, torch.Tensor]:
        """Returns the four tensors of a session, see `TENSORS`.

        Raises:
            ValueError: the core knows the session with another number of neurons, or other neurons; or a neuron has no
                finite response in the training tiers.
        """
        known = match_keys(info.key, self.index)
        if known:
            self._check(info, known[0])
            return {**self._stored(known[0]), ANIMAL: self.animal(info)}
        neuron, session, _ = self.model.identity.initial.float().cpu()
        if self._is_untrained:
            neurons = self._random(info.n_neurons, "neurons", info.key)
            session = self._random(1, "session", info.key)[0]
        else:
            neurons, session = neuron.repeat(info.n_neurons, 1), session.clone()
        means = torch.from_numpy(finite_means(open_recording(info.path), processor, tuple(tiers)))
        bias = inverse_softplus(means, self.model.config.softplus_beta).float()
        return dict(zip(TENSORS, (neurons, bias, session, self.animal(info)), strict=True))

    def animal(self, info: SessionInfo) -> torch.Tensor:
        """Returns the first vector of a session's animal, `[E]`."""
        for key, entry in self.index.items():
            if same_animal(entry["animal"], info.animal_id):
                return self._stored(key)[ANIMAL]
        if self._is_untrained:
            return self._random(1, "animal", info.animal_id)[0]
        return self.model.identity.initial[2].float().cpu().clone()

    def _random(self, rows: int, kind: str, name: str) -> torch.Tensor:
        """Returns `[rows, E]` random vectors."""
        size = self.model.config.identity_size
        word = random_words(1, self.seed, STREAM_VECTORS, *name_words(f"{kind} {name}"))[0]
        generator = torch.Generator().manual_seed(int(word >> np.uint64(1)))
        return nn.init.trunc_normal_(torch.empty(rows, size), std=size**-0.5, generator=generator)

    def _stored(self, key: str) -> dict[str, torch.Tensor]:
        source = self.model._source
        assert source is not None
        source.fetch([self.index[key]["file"]])
        return {name: tensor.float() for name, tensor in read_tensors(source.folder / self.index[key]["file"]).items()}

    def _check(self, info: SessionInfo, key: str) -> None:
        entry = self.index[key]
        hashes = (info.unit_ids_hash, entry.get("unit_ids_sha256"))
        if entry["neurons"] != info.n_neurons or (None not in hashes and hashes[0] != hashes[1]):
            raise ValueError(
                f"Recording {info.path} has {info.n_neurons} neurons; the core's session {key!r} has "
                f"{entry['neurons']}, or the same number in another order. Train on the recording it was made from, or "
                "leave the recording out of recordings.paths."
            )


def session_spec(info: SessionInfo, tiers: Sequence[str] = ()) -> SessionSpec:
    """The spec of a session in the model, which says what it is trained on."""
    training = {"trained on tiers": ", ".join(tiers)} if tiers else None
    return SessionSpec(info.key, info.n_neurons, info.animal_id, info.unit_ids_hash, training)


def add_sessions(
    model: OmniMouseModel, infos: Iterable[SessionInfo], recipe: PretrainingRecipe, *, fresh: bool
) -> None:
    """Adds sessions at their first vectors, or at zeros where those of a checkpoint will take their place."""
    first, tiers, size = FirstVectors(model, recipe.seed), recipe.recordings.tiers, model.config.identity_size
    assert model.processor is not None
    for info in infos:
        if fresh:
            tensors = first.tensors(info, tiers, model.processor)
        else:
            shapes = ((info.n_neurons, size), (info.n_neurons,), (size,), (size,))
            tensors = dict(zip(TENSORS, map(torch.zeros, shapes), strict=True))
        model.sessions.add_all([(session_spec(info, tiers), tensors)], device="cpu", dtype=torch.float32)


def table_groups(model: OmniMouseModel, keys: Iterable[str], recipe: OptimizerRecipe) -> dict[str, ParameterGroup]:
    """An optimizer for the parameters that each session alone owns, by the names of `TENSORS`."""
    tables = {key: model.sessions.table(key) for key in keys}
    return {key: build_group(recipe, {name: getattr(t, name) for name in TENSORS[:3]}) for key, t in tables.items()}


def animal_groups(
    model: OmniMouseModel, infos: Iterable[SessionInfo], recipe: OptimizerRecipe
) -> dict[str, ParameterGroup]:
    """An optimizer for each animal of some sessions, by its id."""
    parameters = {info.animal_id: model.sessions.animal(info.key) for info in infos}
    return {name: build_group(recipe, {ANIMAL: vector}) for name, vector in sorted(parameters.items())}


def pack_session(table: ParameterGroup, animal: ParameterGroup) -> dict[str, torch.Tensor]:
    """A session's tensors and moments, with its animal's, by stored name."""
    tensors = {**table.parameters, **animal.parameters, **pack_moments(table), **pack_moments(animal)}
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def restore_session(table: ParameterGroup, animal: ParameterGroup, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts back what `pack_session` gave."""
    for group in (table, animal):
        with torch.no_grad():
            for name, parameter in group.parameters.items():
                parameter.copy_(tensors[name])
        restore_moments(group, tensors)
