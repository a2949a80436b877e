"""Attention over windows of time, rotary time embedding, and the transformer blocks.

Shape letters: B batch, Q query rows, K key rows, H heads, C head size, D hidden size.

Rows that share a time and an interval form a `Run`, and a `Layout` is the sequence of runs. Two rows may attend to each
other in a local layer exactly when their half-open intervals overlap. Since rows are ordered by time, every run of
queries sees a few contiguous stretches of keys: a local layer is a handful of dense attention calls, exact on every
device, and neither a `[Q, K]` mask nor a `[Q, K]` score matrix is ever built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from omnimouse.model.kernels.attention_groups import Group, Groups, attend_by_groups, select_rows
from omnimouse.model.kernels.attention_kernels import attend
from omnimouse.model.kernels.bfloat16_attention import attend_in_bfloat16, attends_in_bfloat16
from omnimouse.model.kernels.chains import gated_product, normalize_heads, turn_heads, unit_heads
from omnimouse.model.kernels.packed_attention import packed_attention, packs
from omnimouse.model.kernels.recomputation import project, project_normed
from omnimouse.model.kernels.row_pieces import in_pieces, inner_pieces, spans_within


@dataclass(frozen=True)
class Run:
    """Contiguous rows with one time stamp (in ticks, for the rotary embedding) and one interval `[start, stop)`."""

    rows: int
    time: int
    start: int
    stop: int

    def overlaps(self, other: Run) -> bool:
        return not (other.stop <= self.start or other.start >= self.stop)


Layout = tuple[Run, ...]


def n_rows(layout: Layout) -> int:
    """Rows of a layout."""
    return sum(run.rows for run in layout)


def plan_attention(queries: Layout, keys: Layout, *, local: bool = True) -> Groups:
    """Plans attention: which stretches of key rows every stretch of query rows sees.

    Args:
        queries: Runs of the query rows.
        keys: Runs of the key rows.
        local: Whether intervals decide; otherwise every query sees every key.

    Returns:
        Groups that cover all query rows in order. Neighbouring runs that see the same keys share a group.
    """
    groups: list[Group] = []
    for query in queries:
        stretches: list[tuple[int, int]] = []
        row = 0
        for key in keys:
            if not local or key.overlaps(query):
                start = stretches.pop()[0] if stretches and stretches[-1][1] == row else row
                stretches.append((start, row + key.rows))
            row += key.rows
        first = groups[-1].stop if groups else 0
        start = groups.pop().start if groups and groups[-1].keys == tuple(stretches) else first
        groups.append(Group(start, first + query.rows, tuple(stretches)))
    return Groups(groups)


def rotary_table(
    layout: Layout, *, ticks_per_second: int, head_dim: int, min_period: float, max_period: float
) -> Tensor:
    """Cosines and sines of the rotary time embedding, computed in float64 and stored as float32, pair by pair.

    The angle of pair `i` at time `t` seconds is `2 pi t / T_i` with `T_i = T_min (T_max / T_min)^(2i / C)`.

    Returns:
        `[2, rows, C / 2]`: cosines, then sines.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    periods = min_period * (max_period / min_period) ** exponents
    times = torch.tensor([run.time for run in layout], dtype=torch.float64) / ticks_per_second
    angles = 2 * torch.pi * times[:, None] / periods
    counts = torch.tensor([run.rows for run in layout], dtype=torch.long)
    return torch.stack((angles.cos(), angles.sin()), dim=-1).float().repeat_interleave(counts, dim=0).movedim(-1, 0)


def dense_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention `[B, H, rows, C]` in the type of `value`, whose heads may each serve several of H.

    On a CPU it is computed in float32: attention kernels there are slower in bfloat16, their backward three times.
    Elsewhere, by kernels that passed a trial (`attention_kernels.py`).
    """
    sharing = query.shape[1] // key.shape[1]
    if value.device.type != "cpu":
        key, value = (x if sharing == 1 else x.repeat_interleave(sharing, dim=1) for x in (key, value))
        return attend(query.to(value.dtype), key.to(value.dtype), value)
    if value.dtype != torch.bfloat16:
        query, key = query.to(value.dtype), key.to(value.dtype)
        return F.scaled_dot_product_attention(query, key, value, enable_gqa=sharing > 1)
    with torch.autocast("cpu", enabled=False):
        return dense_attention(query.float(), key.float(), value.float()).to(value.dtype)


def windowed_attention(query: Tensor, key: Tensor, value: Tensor, plan: Groups) -> Tensor:
    """Attention in which each group of query rows sees its own stretches of key rows.

    Args:
        query: `[B, H, Q, C]`.
        key: `[B, G, K, C]` with `G` dividing `H`; head `j` of the keys serves query heads `j H/G .. (j+1) H/G - 1`.
        value: `[B, G, K, C]`.
        plan: From `plan_attention`.

    Returns:
        `[B, Q, H * C]`. A query that sees no key gets 0, with zero gradient.
    """
    if packs(query, key, value, plan):
        out = packed_attention(query, key, value, plan)
    else:
        kernel = attend_in_bfloat16 if attends_in_bfloat16(value) else dense_attention
        out = attend_by_groups(kernel, query, key, value, plan)
    return rearrange(out, "b heads rows c -> b rows (heads c)")


def feed_forward_width(size: int, multiplier: float) -> int:
    """Width of a gated feed-forward: `multiplier * size`, rounded up to a multiple of 128."""
    return 128 * int((multiplier * size + 127) // 128)


class GatedFeedForward(nn.Module):
    """`down(silu(up(x)) * gate(x))`, without biases; its inner width is `feed_forward_width(size, multiplier)`."""

    def __init__(self, size: int, multiplier: float):
        super().__init__()
        width = feed_forward_width(size, multiplier)
        self.up = nn.Linear(size, width, bias=False)
        self.gate = nn.Linear(size, width, bias=False)
        self.down = nn.Linear(width, size, bias=False)

    def forward(self, x: Tensor, norm: nn.RMSNorm | None = None) -> Tensor:
        """Of `x [B, rows, D]`, or of what a norm makes of it."""
        if (n := inner_pieces(x, self.up.out_features)) > 1:
            return torch.cat([self.forward(part, norm) for part in x.chunk(n, dim=1)], dim=1)
        maps = (self.up, self.gate)
        up, gate = (linear(x) for linear in maps) if norm is None else project_normed(norm, maps, x)
        return project(gated_product, (self.down,), up, gate)[0]


class SelfAttentionBlock(GradientCheckpointingLayer):
    """Pre-norm block of the fusion stack: windowed or global self-attention with grouped heads, then feed-forward."""

    def __init__(self, size: int, heads: int, key_value_heads: int, multiplier: float, eps: float):
        super().__init__()
        self.heads, self.key_value_heads, self.eps = heads, key_value_heads, eps
        self.attention_norm = nn.RMSNorm(size, eps=eps)
        self.query_key_value = nn.Linear(size, size + 2 * key_value_heads * (size // heads), bias=False)
        self.output = nn.Linear(size, size, bias=False)
        self.feed_forward_norm = nn.RMSNorm(size, eps=eps)
        self.feed_forward = GatedFeedForward(size, multiplier)

    def forward(self, x: Tensor, rotary: Tensor, plan: Groups) -> Tensor:
        """`x [B, rows, D]` with its `rotary_table` and plan, to `[B, rows, D]`."""
        x = x.to(self.attention_norm.weight.dtype)  # under autocast the residual stream stays in full precision
        (rows,) = project_normed(self.attention_norm, (self.query_key_value,), x)
        turned, kept = self.heads + self.key_value_heads, self.key_value_heads
        heads, value = rows.unflatten(-1, (turned + kept, -1)).split((turned, kept), dim=2)
        (heads,) = project(partial(normalize_heads, table=rotary, eps=self.eps), (), heads)
        query, key = heads.split((self.heads, kept), dim=1)
        x = x + self.output(windowed_attention(query, key, value.transpose(1, 2), plan))
        return x + self.feed_forward(x, self.feed_forward_norm)


class CrossAttentionBlock(GradientCheckpointingLayer):
    """Pre-norm block in which queries attend to a context, then feed-forward.

    Rows of the queries may repeat: `spans` says which rows of `x` appear when, so that a neuron's query is normalised
    and projected once however many time steps ask for it.
    """

    def __init__(self, size: int, heads: int, multiplier: float, eps: float):
        super().__init__()
        self.heads, self.eps = heads, eps
        self.attention_norm = nn.RMSNorm(size, eps=eps)
        self.context_norm = nn.RMSNorm(size, eps=eps)
        self.query = nn.Linear(size, size, bias=False)
        self.key_value = nn.Linear(size, 2 * size, bias=False)
        self.output = nn.Linear(size, size, bias=False)
        self.feed_forward_norm = nn.RMSNorm(size, eps=eps)
        self.feed_forward = GatedFeedForward(size, multiplier)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        query_rotary: Tensor,
        context_rotary: Tensor,
        plan: Groups,
        spans: Sequence[tuple[int, int]] | None = None,
    ) -> Tensor:
        """Lets queries attend to a context.

        Args:
            x: `[B, rows, D]`.
            context: `[B, K, D]`.
            query_rotary: `rotary_table` of the query rows after repetition.
            context_rotary: `rotary_table` of the context rows.
            plan: Attention plan between both.
            spans: Stretches `[start, stop)` of `x` that make up the query rows, in order; all of `x` once by default.

        Returns:
            `[B, Q, D]`, one row per query row.
        """
        dtype = self.attention_norm.weight.dtype  # under autocast the residual stream stays in full precision
        x, context = x.to(dtype), context.to(dtype)
        (query,) = project_normed(self.attention_norm, (self.query,), x)
        (query,) = project(partial(unit_heads, eps=self.eps), (), query.unflatten(-1, (self.heads, -1)))
        spans = [(0, x.shape[1])] if spans is None else spans

        def keys_and_values(start: int, stop: int) -> tuple[Tensor, Tensor]:
            (part,) = project_normed(self.context_norm, (self.key_value,), context[:, start:stop])
            key, value = part.unflatten(-1, (2 * self.heads, -1)).chunk(2, dim=2)
            turn = partial(normalize_heads, table=context_rotary[:, start:stop], eps=self.eps)
            return *project(turn, (), key), value.transpose(1, 2)

        def answers(start: int, stop: int) -> tuple[Tensor]:
            select = partial(select_rows, stretches=spans_within(spans, start, stop), dim=1)
            turn = partial(turn_heads, table=query_rotary[:, start:stop], dtype=value.dtype, select=select)
            rows, (asked,) = select(x), project(turn, (), query)
            rows = rows + self.output(windowed_attention(asked, key, value, plan.within(start, stop)))
            return (rows + self.feed_forward(rows, self.feed_forward_norm),)

        row_bytes = 4 * len(x) * (6 * x.shape[-1] + 3 * self.feed_forward.up.out_features)
        key, value = in_pieces(keys_and_values, context.shape[1], row_bytes, 2, x.device)
        return in_pieces(answers, sum(last - first for first, last in spans), row_bytes, 1, x.device)[0]
