"""Which neurons a task over a part of the population shows in which window, so that every neuron is scored.

A mask counts neurons in the order of the population: the first are visible, the last are targets. Masks of the release
count them in numbers, and take file order. A task whose counts are fractions of the population (`population` and its
kin) rotates instead: neurons lie on a circle, and every window begins at another place of it.

Shape letters: B windows, L target samples, P neurons of the population, Q target neurons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from omnimouse.model.masking.masks import Mask


@dataclass(frozen=True)
class Rotation:
    """The order of the neurons in every window of a session, a pure function of session key and window start.

    Attributes:
        key: key of the session.
        circle: int64 [P], the neurons by the hash of session key and unit id, so that file order plays no part (where
            a recording has no unit ids, positions in the file stand for them).
    """

    key: str
    circle: np.ndarray

    @classmethod
    def of(cls, mask: Mask, key: str, n_neurons: int, unit_ids: np.ndarray | None) -> Rotation | None:
        """The rotation of a task over the first `n_neurons` of a session; None where the mask keeps file order."""
        if not any(isinstance(count, float) for count in (mask.n_visible_neurons, mask.n_target_neurons)):
            return None
        ids = np.arange(n_neurons) if unit_ids is None else np.asarray(unit_ids)[:n_neurons]
        digests = [hashlib.sha256(f"{key} {unit}".encode()).digest() for unit in ids.tolist()]
        return cls(key, np.array(sorted(range(n_neurons), key=lambda neuron: digests[neuron]), dtype=np.int64))

    def neuron_ids(self, starts: Sequence[float] | np.ndarray) -> Tensor:
        """The neurons of windows that start at `starts` [B] seconds, as the mask counts them: int64 [B, P]."""
        places = [
            int.from_bytes(hashlib.sha256(f"{self.key} {round(float(start) * 1000)}".encode()).digest()[:8], "big")
            for start in starts
        ]
        return torch.from_numpy(np.stack([np.roll(self.circle, -(place % len(self.circle))) for place in places]))


def in_order(values: Tensor, neuron_ids: Tensor) -> Tensor:
    """Takes each window's neurons: `[B, L, N]` and `[B, P]` to `[B, L, P]`."""
    ids = neuron_ids.to(values.device)
    return values.gather(2, ids[:, None].expand(-1, values.shape[1], -1))


def in_file_order(values: Tensor, target_ids: Tensor, n_neurons: int, *, fill: float = torch.nan) -> Tensor:
    """Puts each window's targets at the places of their neurons: `[B, L, Q]` and `[B, Q]` to `[B, L, n_neurons]`."""
    ids = target_ids.to(values.device)[:, None].expand(-1, values.shape[1], -1)
    placed = values.new_full((*values.shape[:2], n_neurons), fill)
    return placed.scatter_(2, ids, values)
