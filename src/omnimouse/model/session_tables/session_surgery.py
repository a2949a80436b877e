"""Sessions in memory: adding and removing them, and what their tensors are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from omnimouse.model.session_tables.session_names import match_keys, same_animal
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.model.session_tables.sessions import SessionTable, SessionVectors, module_name
from omnimouse.support.spreading import listed

TENSORS = ("neuron_embedding", "neuron_bias", "session_embedding", "animal_embedding")

PREFIX = "sessions."
"""What the names of all sessions' and animals' tensors in a model's state dict begin with; no other name does."""

Named = TypeVar("Named", bound=Tensor)

AnimalConflict = Literal["error", "model", "adapter"]


def without_sessions(tensors: Mapping[str, Named]) -> dict[str, Named]:
    """Those of a model's tensors, by name, that no session or animal owns."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, copied if it lies askew in memory as parts of a mapped file do.

    Matrix products round differently on data that is not aligned to cache lines, so without this a loaded model would
    not give the very numbers of the model that was saved.
    """
    askew = tensor.device.type == "cpu" and tensor.data_ptr() % 64 != 0
    return tensor.clone() if askew else tensor


class SessionTables(SessionVectors):
    """All sessions of a model, always in sorted order so that parameter order never depends on history."""

    def __repr__(self) -> str:
        neurons = sum(spec.n_neurons for spec in self.specs.values())
        told = f"sessions: {len(self.specs)}, animals: {len(self.animals)}, neurons: {neurons:,}"
        return f"SessionTables({told}{'; ' * bool(self.specs)}{listed(self.specs)})"

    def full_key(self, key: str) -> str:
        """The key of the one session that a key or short key means; the key itself where there is none or several."""
        matches = match_keys(key, self.specs)
        return matches[0] if len(matches) == 1 else key

    def known_animal(self, animal_id: str) -> str:
        """The id under which the model knows an animal; the id itself when it does not."""
        ids = sorted({spec.animal_id for spec in self.specs.values()})
        return animal_id if animal_id in ids else next((n for n in ids if same_animal(n, animal_id)), animal_id)

    def animal_vector(self, animal_id: str) -> Tensor | None:
        name = module_name(animal_id)
        return self.animals[name].detach() if name in self.animals else None

    def parameter_names(self, key: str) -> dict[str, str]:
        """What a model's state dict calls the four tensors of a session."""
        spec = self.check(key)
        table = f"{PREFIX}tables.{module_name(spec.key)}"
        names = {name: f"{table}.{name}" for name in TENSORS[:3]}
        return names | {TENSORS[3]: f"{PREFIX}animals.{module_name(spec.animal_id)}"}

    def state(self, key: str) -> dict[str, Tensor]:
        """Copies of the four tensors of a session, on the CPU."""
        table = self.table(key)
        tensors = (table.neuron_embedding, table.neuron_bias, table.session_embedding, self.animal(key))
        return {name: tensor.detach().clone().cpu().contiguous() for name, tensor in zip(TENSORS, tensors, strict=True)}

    def add_all(
        self,
        sessions: Iterable[tuple[SessionSpec, Mapping[str, Tensor]]],
        *,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        on_conflict: AnimalConflict = "error",
    ) -> None:
        """Adds sessions one by one; those before one that is refused stay.

        Args:
            sessions: The sessions and their four tensors.
            device: Where they go.
            dtype: Type they are kept in; by default as they come.
            on_conflict: What to do when the model holds another vector for the animal: raise, keep the model's, or
                take this one (which then also serves the animal's other sessions).

        Raises:
            ValueError: The session exists, a tensor is missing or misshapen, or the animal vectors differ.
        """
        try:
            for spec, tensors in sessions:
                self._check_new(spec, tensors)
                self._add_animal(spec, tensors["animal_embedding"], device, dtype, on_conflict)
                kept = (aligned(tensors[name].to(device, dtype)) for name in TENSORS[:3])
                self.tables[module_name(spec.key)] = SessionTable(*kept)
                self.specs[spec.key] = spec
        finally:
            self.specs = dict(sorted(self.specs.items()))
            self.tables = nn.ModuleDict({module_name(key): self.tables[module_name(key)] for key in self.specs})
            self.animals = nn.ParameterDict({name: self.animals[name] for name in sorted(self.animals.keys())})

    def _check_new(self, spec: SessionSpec, tensors: Mapping[str, Tensor]) -> None:
        if spec.key in self.specs:
            raise ValueError(
                f"Session {spec.key!r} is already in the model. Remove it first with model.remove_session."
            )
        size = self.identity_size
        for name, shape in zip(TENSORS, ((spec.n_neurons, size), (spec.n_neurons,), (size,), (size,)), strict=True):
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            if found != shape:
                raise ValueError(
                    f"Session {spec.key!r}: {name} should have shape {shape}, found {found}. The tensors belong to "
                    "another session, or to a core with another identity size."
                )

    def _add_animal(
        self,
        spec: SessionSpec,
        vector: Tensor,
        device: torch.device | str,
        dtype: torch.dtype | None,
        on_conflict: AnimalConflict,
    ) -> None:
        """Adds the session's animal, or makes sure that the model's vector for it is the session's."""
        name, kept = module_name(spec.animal_id), aligned(vector.to(device, dtype))
        if name not in self.animals:
            self.animals[name] = nn.Parameter(kept)
            return
        # Compared in the type in which it was stored: a session stored in bfloat16 belongs to the vector it rounds.
        if torch.equal(self.animals[name].detach().to(vector.dtype), vector.to(device)):
            return
        if on_conflict == "error":
            others = [key for key, other in self.specs.items() if other.animal_id == spec.animal_id]
            raise ValueError(
                f"Session {spec.key!r} brings a vector for animal {spec.animal_id!r} that differs from the one "
                f"already in the model (used by {', '.join(others)}). Pass on_animal_conflict='model' to keep the "
                "model's vector or 'adapter' to take the new one for all of the animal's sessions."
            )
        if on_conflict == "adapter":
            self.animals[name].data = kept

    def note_training(self, key: str, training: Mapping[str, Any]) -> None:
        """Keeps how a session was trained, to be stored with it."""
        spec = self.check(key)
        self.specs[spec.key] = replace(spec, training=dict(training))

    def note_processor(self, key: str, processor: Mapping[str, Any]) -> None:
        """Keeps what a session's windows are cut by, to be stored with it."""
        spec = self.check(key)
        self.specs[spec.key] = replace(spec, processor=dict(processor))

    def is_trained(self, key: str) -> bool:
        """Whether a session was trained: all neurons of one that was merely added are alike. True of single neurons."""
        neurons = self.table(key).neuron_embedding
        return len(neurons) == 1 or not bool((neurons == neurons[0]).all())

    def remove(self, key: str) -> None:
        """Removes a session, and its animal's vector when no other session uses it."""
        spec = self.check(key)
        del self.tables[module_name(spec.key)]
        del self.specs[spec.key]
        if all(other.animal_id != spec.animal_id for other in self.specs.values()):
            del self.animals[module_name(spec.animal_id)]
