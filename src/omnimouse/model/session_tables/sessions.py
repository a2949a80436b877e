"""Sessions: the vectors that tie a core to one recorded population.

A session owns one vector and one bias per neuron and one vector for itself; sessions of one animal share its vector.
Shape letters: n neurons of the session, E identity size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from omnimouse.model.session_tables.session_names import match_keys, same_animal
from omnimouse.support.spreading import listed

TENSORS = ("neuron_embedding", "neuron_bias", "session_embedding", "animal_embedding")

PREFIX = "sessions."
"""What the names of all sessions' and animals' tensors in a model's state dict begin with; no other name does."""

Named = TypeVar("Named", bound=Tensor)


def without_sessions(tensors: Mapping[str, Named]) -> dict[str, Named]:
    """Those of a model's tensors, by name, that no session or animal owns."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}


AnimalConflict = Literal["error", "model", "adapter"]


@dataclass(frozen=True)
class SessionSpec:
    """What is known of a session besides its tensors.

    Args:
        key: The session's key, e.g. `"29515-10-12"`.
        n_neurons: Neurons of its population.
        animal_id: The animal; sessions of one animal share its vector.
        unit_ids_hash: SHA-256 of the recording's unit ids, to notice neurons in another order; `None` if unknown.
        training: How its vectors were trained: names with words and numbers, for its card; `None` if unknown.
        processor: Fields of the processor that its windows were cut by in training; `None` for the model's.
    """

    key: str
    n_neurons: int
    animal_id: str
    unit_ids_hash: str | None = field(default=None, repr=False)
    training: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    processor: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key or any(c in self.key for c in "/\\\0") or self.key[0] == ".":
            raise ValueError(
                f"A session key must be a non-empty string that can name a file (no slash, no leading dot), "
                f"got {self.key!r}."
            )
        if not isinstance(self.n_neurons, int) or self.n_neurons < 1:
            raise ValueError(f"Session {self.key}: n_neurons must be a positive integer, got {self.n_neurons!r}.")
        if not isinstance(self.animal_id, str) or not self.animal_id:
            raise ValueError(f"Session {self.key}: animal_id must be a non-empty string, got {self.animal_id!r}.")


def hash_unit_ids(unit_ids: np.ndarray | Sequence[int] | None) -> str | None:
    """SHA-256 of unit ids as int64, or `None` without ids."""
    if unit_ids is None:
        return None
    return hashlib.sha256(np.ascontiguousarray(unit_ids, dtype="<i8").tobytes()).hexdigest()


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, copied if it lies askew in memory as parts of a mapped file do.

    Matrix products round differently on data that is not aligned to cache lines, so without this a loaded model would
    not give the very numbers of the model that was saved.
    """
    askew = tensor.device.type == "cpu" and tensor.data_ptr() % 64 != 0
    return tensor.clone() if askew else tensor


def _module_name(key: str) -> str:
    """A name that `ModuleDict` accepts, reversibly: no dots, and never a reserved name."""
    return "s_" + key.replace("_", "__").replace(".", "_d")


class SessionTable(nn.Module):
    """Trainable tensors of one session: vectors `[n, E]` and biases of the readout `[n]` of neurons, its own `[E]`."""

    def __init__(self, neuron_embedding: Tensor, neuron_bias: Tensor, session_embedding: Tensor):
        super().__init__()
        self.neuron_embedding = nn.Parameter(neuron_embedding)
        self.neuron_bias = nn.Parameter(neuron_bias)
        self.session_embedding = nn.Parameter(session_embedding)


class SessionTables(nn.Module):
    """All sessions of a model, always in sorted order so that parameter order never depends on history."""

    def __init__(self, identity_size: int):
        super().__init__()
        self.identity_size = identity_size
        self.tables = nn.ModuleDict()
        self.animals = nn.ParameterDict()
        self.specs: dict[str, SessionSpec] = {}

    def __repr__(self) -> str:
        neurons = sum(spec.n_neurons for spec in self.specs.values())
        told = f"sessions: {len(self.specs)}, animals: {len(self.animals)}, neurons: {neurons:,}"
        return f"SessionTables({told}{'; ' * bool(self.specs)}{listed(self.specs)})"

    def keys(self) -> list[str]:
        return list(self.specs)

    def full_key(self, key: str) -> str:
        """The key of the one session that a key or short key means; the key itself where there is none or several."""
        matches = match_keys(key, self.specs)
        return matches[0] if len(matches) == 1 else key

    def check(self, key: str) -> SessionSpec:
        """Returns the spec of a session, or raises `ValueError` naming the sessions there are.

        Args:
            key: Its key, or its short key (`"29515-10-12"`) where only one session has it.
        """
        if key in self.specs:
            return self.specs[key]
        matches = match_keys(key, self.specs)
        if len(matches) == 1:
            return self.specs[matches[0]]
        if matches:
            raise ValueError(f"The model has several sessions {key!r}: {', '.join(matches)}. Name one in full.")
        raise ValueError(
            f"The model has no session {key!r}. "
            + (f"It has: {listed(self.specs)}. " if self.specs else "It has no sessions yet. ")
            + "Add one with model.add_session(recording), or load one with model.load_session(folder)."
        )

    def table(self, key: str) -> SessionTable:
        module = self.tables[_module_name(self.check(key).key)]
        assert isinstance(module, SessionTable)
        return module

    def animal(self, key: str) -> nn.Parameter:
        """The animal vector of a session."""
        return self.animals[_module_name(self.check(key).animal_id)]

    def known_animal(self, animal_id: str) -> str:
        """The id under which the model knows an animal; the id itself when it does not."""
        ids = sorted({spec.animal_id for spec in self.specs.values()})
        return animal_id if animal_id in ids else next((n for n in ids if same_animal(n, animal_id)), animal_id)

    def animal_vector(self, animal_id: str) -> Tensor | None:
        name = _module_name(animal_id)
        return self.animals[name].detach() if name in self.animals else None

    def parameter_names(self, key: str) -> dict[str, str]:
        """What a model's state dict calls the four tensors of a session."""
        spec = self.check(key)
        table = f"{PREFIX}tables.{_module_name(spec.key)}"
        names = {name: f"{table}.{name}" for name in TENSORS[:3]}
        return names | {TENSORS[3]: f"{PREFIX}animals.{_module_name(spec.animal_id)}"}

    def state(self, key: str) -> dict[str, Tensor]:
        """Copies of the four tensors of a session, on the CPU."""
        table = self.table(key)
        tensors = (table.neuron_embedding, table.neuron_bias, table.session_embedding, self.animal(key))
        return {name: tensor.detach().clone().cpu().contiguous() for name, tensor in zip(TENSORS, tensors, strict=True)}

    def add(
        self,
        spec: SessionSpec,
        tensors: Mapping[str, Tensor],
        *,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        on_conflict: AnimalConflict = "error",
    ) -> None:
        """Adds one session, as `add_all` does."""
        self.add_all([(spec, tensors)], device=device, dtype=dtype, on_conflict=on_conflict)

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
        names = {_module_name(key): key for key in self.specs}
        try:
            for spec, tensors in sessions:
                self._check_new(spec, tensors, names)
                self._add_animal(spec, tensors["animal_embedding"], device, dtype, on_conflict)
                kept = (aligned(tensors[name].to(device, dtype)) for name in TENSORS[:3])
                self.tables[_module_name(spec.key)] = SessionTable(*kept)
                self.specs[spec.key] = spec
                names[_module_name(spec.key)] = spec.key
        finally:
            self.specs = dict(sorted(self.specs.items()))
            self.tables = nn.ModuleDict({_module_name(key): self.tables[_module_name(key)] for key in self.specs})
            self.animals = nn.ParameterDict({name: self.animals[name] for name in sorted(self.animals.keys())})

    def _check_new(self, spec: SessionSpec, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        if spec.key in self.specs:
            raise ValueError(
                f"Session {spec.key!r} is already in the model. Remove it first with model.remove_session."
            )
        if _module_name(spec.key) in names:
            raise ValueError(f"Session key {spec.key!r} clashes with session {names[_module_name(spec.key)]!r}.")
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
        name, kept = _module_name(spec.animal_id), aligned(vector.to(device, dtype))
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
        del self.tables[_module_name(spec.key)]
        del self.specs[spec.key]
        if all(other.animal_id != spec.animal_id for other in self.specs.values()):
            del self.animals[_module_name(spec.animal_id)]
