"""Sessions: the vectors that tie a core to one recorded population.

A session owns one vector and one bias per neuron and one vector for itself; sessions of one animal share its vector.
Shape letters: n neurons of the session, E identity size.
"""

from __future__ import annotations

from torch import Tensor, nn

from omnimouse.model.session_tables.session_names import match_keys
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.support.spreading import listed


def module_name(key: str) -> str:
    """A name that `ModuleDict` accepts, reversibly: no dots, and never a reserved name."""
    return "s_" + key.replace("_", "__").replace(".", "_d")


class SessionTable(nn.Module):
    """Trainable tensors of one session: vectors `[n, E]` and biases of the readout `[n]` of neurons, its own `[E]`."""

    def __init__(self, neuron_embedding: Tensor, neuron_bias: Tensor, session_embedding: Tensor):
        super().__init__()
        self.neuron_embedding = nn.Parameter(neuron_embedding)
        self.neuron_bias = nn.Parameter(neuron_bias)
        self.session_embedding = nn.Parameter(session_embedding)


class SessionVectors(nn.Module):
    """The vectors of all sessions, by key: what a forward pass reads. `SessionTables` adds, stores and removes them."""

    def __init__(self, identity_size: int):
        super().__init__()
        self.identity_size = identity_size
        self.tables = nn.ModuleDict()
        self.animals = nn.ParameterDict()
        self.specs: dict[str, SessionSpec] = {}

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
        module = self.tables[module_name(self.check(key).key)]
        assert isinstance(module, SessionTable)
        return module

    def animal(self, key: str) -> nn.Parameter:
        """The animal vector of a session."""
        return self.animals[module_name(self.check(key).animal_id)]
