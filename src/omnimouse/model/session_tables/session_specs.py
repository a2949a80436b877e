"""What is known of a session besides its tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


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
