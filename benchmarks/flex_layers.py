"""Flex attention in place of windowed attention: swapped in from outside, the package knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from omnimouse.model import attention, tokens
from omnimouse.model.attention import Layout, n_rows, plan_attention
from omnimouse.model.kernels.attention_groups import Group, Groups


def use_flex_attention(*, compiled: bool) -> None:
    """Has every layer outside the video encoder computed by flex attention, in this process."""
    tokens.plan_attention = plan_and_remember  # type: ignore[attr-defined]  # where `plan_window` looks it up
    attention.windowed_attention = FlexAttention(compiled=compiled)


class RememberedPlan(Groups):
    """The groups of a plan with the layouts that they came from, which flex attention needs for its mask."""

    queries: Layout
    keys: Layout
    local: bool
    block_mask: BlockMask | None
    pieces: dict[tuple[int, int], RememberedPlan]

    def within(self, start: int, stop: int) -> RememberedPlan:
        """See `Groups.within`; a piece has a block mask of its own."""
        if (start, stop) == (0, n_rows(self.queries)):
            return self
        if (start, stop) not in self.pieces:
            ends = list(accumulate((run.rows for run in self.queries), initial=0))
            rows = (min(stop, b) - max(start, a) for a, b in pairwise(ends))
            cut = tuple(replace(run, rows=n) for run, n in zip(self.queries, rows, strict=True) if n > 0)
            self.pieces[start, stop] = plan_and_remember(cut, self.keys, local=self.local)
        return self.pieces[start, stop]


def plan_and_remember(queries: Layout, keys: Layout, *, local: bool = True) -> RememberedPlan:
    """Stands in for `plan_attention`: the same groups, which remember their layouts."""
    plan = RememberedPlan(plan_attention(queries, keys, local=local))
    plan.queries, plan.keys, plan.local, plan.block_mask, plan.pieces = queries, keys, local, None, {}
    return plan


def interval_bounds(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """First ticks of the rows' intervals `[rows]`, and first ticks after them."""
    counts = torch.tensor([run.rows for run in layout])
    bounds = (torch.tensor([getattr(run, end) for run in layout], dtype=torch.int32) for end in ("start", "stop"))
    start, stop = (values.repeat_interleave(counts).to(device) for values in bounds)
    return start, stop


class FlexAttention:
    """Stands in for `windowed_attention`: one flex attention call per layer.

    Block masks are made at a plan's first use and kept, as the package keeps its plans. A global layer needs none.

    Args:
        compiled: Whether flex attention and the making of block masks are compiled, for the shapes at hand.
    """

    def __init__(self, *, compiled: bool):
        self.attend: Callable[..., Any] = flex_attention
        self.make_mask: Callable[..., BlockMask] = create_block_mask
        if compiled:
            self.attend = torch.compile(flex_attention, dynamic=False)
            self.make_mask = torch.compile(create_block_mask, dynamic=True)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, plan: Sequence[Group]) -> Tensor:
        assert isinstance(plan, RememberedPlan)
        if plan.local and plan.block_mask is None:
            plan.block_mask = self._block_mask(plan, query.device)
        out = self.attend(
            query.to(value.dtype),
            key.to(value.dtype),
            value,
            block_mask=plan.block_mask,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return out.transpose(1, 2).flatten(2)

    def _block_mask(self, plan: RememberedPlan, device: torch.device) -> BlockMask:
        query_start, query_stop = interval_bounds(plan.queries, device)
        key_start, key_stop = interval_bounds(plan.keys, device)

        def overlap(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query_start[query] < key_stop[key]) & (key_start[key] < query_stop[query])

        return self.make_mask(overlap, None, None, n_rows(plan.queries), n_rows(plan.keys), str(device))
