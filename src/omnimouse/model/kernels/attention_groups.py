"""Which key rows each stretch of query rows sees, and attention group by group.

Shape letters: B batch, H query heads, G key heads, Q query rows, K key rows, C head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of `query [B, H, Q, C]` to `key` and `value [B, G, K, C]`."""


@dataclass(frozen=True)
class Group:
    """Query rows `[start, stop)` and the stretches of key rows that they see."""

    start: int
    stop: int
    keys: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Call:
    """One call of a kernel for sequences of different lengths (`packed_attention`), with the queries of a batch.

    Args:
        batch: items, B.
        queries: stretches of query rows that see keys in this call.
        keys: rows of `[B * K]`, or all in order.
        sources: for every key row in order, the gathered rows that are it, and where in these each key row's begin.
        stretches: of keys that are seen where they lie.
        query_ends: first row of each sequence, and the number of all rows; int32.
        key_ends: the same for keys.
        most_queries: of a sequence.
        most_keys: of a sequence.
    """

    batch: int
    queries: tuple[tuple[int, int], ...]
    keys: Tensor | None
    sources: tuple[Tensor, Tensor] | None
    stretches: tuple[tuple[int, int], ...]
    query_ends: Tensor
    key_ends: Tensor
    most_queries: int
    most_keys: int


class Groups(tuple[Group, ...]):
    """The groups of an attention layer, which cover its query rows in order."""

    @cached_property
    def calls(self) -> dict[tuple[int, int, torch.device], tuple[Call, ...]]:
        """What `packed_attention` worked out, by key rows, batch size and device."""
        return {}

    @cached_property
    def _pieces(self) -> dict[tuple[int, int], Groups]:
        return {}

    def within(self, start: int, stop: int) -> Groups:
        """The groups cut to the query rows `[start, stop)`, counted from there; the same object every time."""
        if start == 0 and self and stop == self[-1].stop:
            return self
        if (start, stop) not in self._pieces:
            cut = ((max(group.start, start), min(group.stop, stop), group) for group in self)
            inside = (replace(group, start=a - start, stop=b - start) for a, b, group in cut if a < b)
            self._pieces[start, stop] = Groups(inside)
        return self._pieces[start, stop]


def select_rows(x: Tensor, stretches: Sequence[tuple[int, int]], dim: int) -> Tensor:
    """The stretches `[start, stop)` of rows, one after the other; a view where there is only one."""
    parts = [x.narrow(dim, start, stop - start) for start, stop in stretches]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def attend_by_groups(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Group]) -> Tensor:
    """Attention `[B, H, Q, C]` in which each group sees its own stretches of key rows; 0 where it sees none."""
    parts = []
    for group in groups:
        rows = query[:, :, group.start : group.stop]
        if group.keys:
            parts.append(kernel(rows, *(select_rows(x, group.keys, dim=2) for x in (key, value))))
        else:
            parts.append(torch.zeros_like(rows, dtype=value.dtype))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
