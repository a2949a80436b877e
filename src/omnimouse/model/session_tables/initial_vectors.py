"""Where new sessions start: vectors at the means of known ones, biases where the readout gives the mean response.

Shape letter: E identity size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.model.session_tables.session_surgery import TENSORS


def inverse_softplus(x: Tensor, beta: float) -> Tensor:
    """Solves `softplus(y, beta) = x` for `y`, in float64; `x` below 1e-3 counts as 1e-3 so that `y` stays finite."""
    scaled = beta * x.double().clamp_min(1e-3)
    return (scaled + torch.log(-torch.expm1(-scaled))) / beta


class InitialVectors:
    """Means over sessions of neuron, session and animal vectors, from which new sessions start.

    Sessions may come in any order and one at a time; the result does not depend on the order.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, tuple[int, Tensor, Tensor]] = {}
        self._animals: dict[str, Tensor] = {}

    def add(self, spec: SessionSpec, tensors: Mapping[str, Tensor]) -> None:
        """Counts one session in."""
        neurons, _, session, animal = (tensors[name].detach().cpu() for name in TENSORS)
        # NumPy adds in float64 without a copy of all vectors in float64, as PyTorch makes one.
        total = torch.from_numpy(np.add.reduce(neurons.float().numpy(), axis=0, dtype=np.float64))
        self._sessions[spec.key] = (spec.n_neurons, total, session.double())
        self._animals[spec.animal_id] = animal.double()

    @torch.no_grad()
    def put_into(self, initial: Tensor) -> None:
        """Writes the means into `initial [3, E]`, rows neuron, session, animal; leaves it without sessions."""
        if not self._sessions:
            return
        sessions = [self._sessions[key] for key in sorted(self._sessions)]
        animals = [self._animals[name] for name in sorted(self._animals)]
        neuron = torch.stack([total for _, total, _ in sessions]).sum(0) / sum(n for n, _, _ in sessions)
        session = torch.stack([vector for _, _, vector in sessions]).mean(0)
        initial.copy_(torch.stack((neuron, session, torch.stack(animals).mean(0))))
