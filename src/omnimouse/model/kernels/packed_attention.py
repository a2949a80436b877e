"""Attention of a whole layer and batch in one call of a kernel for sequences of different lengths.

Group by group, a layer is dozens of small calls, and each stretch of keys costs several passes over all keys in the
backward pass. Packed, the keys that each group sees lie one after the other, gathered by an index that is kept with the
groups, and one call computes all groups of all windows. Only what was there before is kept for the backward pass, which
gathers anew and sums each key's gradients by the reverse index, in order and without atomic additions.

Gathering a key row costs about seven passes over it (twice it is written and read, once its gradient), a call of its
own a dozen kernels. So a group whose keys are one long stretch (`LONG_STRETCH`) sees its keys where they lie, as one of
the sequences into which all keys are cut; the others have no query.

Shape letters: B batch, H query heads, G key heads, Q query rows, K key rows, C head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.backends import cuda

from omnimouse.model.kernels.attention_groups import Group, Groups
from omnimouse.model.kernels.attention_kernels import VARIABLE_LENGTH, layer_passes

LONG_STRETCH = 2048
"""Key rows of a stretch from which on a call of its own costs less than gathering: of 8 windows and 768 features, 2,048
rows are 350 MB of traffic, a tenth of a millisecond."""

MOST_GATHERED = 2 << 30
"""Bytes of gathered keys and values; a larger batch is computed in parts."""


@dataclass(frozen=True)
class Call:
    """One call of the kernel: which rows it takes, and where one sequence ends and the next begins.

    Args:
        batch: items, B.
        queries: rows of `[B * Q]`, or all in order.
        keys: rows of `[B * K]`, or all in order.
        sources: for every key row in order, the gathered rows that are it, and where in these each key row's begin.
        stretches: of keys that are seen where they lie.
        query_ends: first row of each sequence, and the number of all rows; int32.
        key_ends: the same for keys.
        most_queries: of a sequence.
        most_keys: of a sequence.
    """

    batch: int
    queries: Tensor | None
    keys: Tensor | None
    sources: tuple[Tensor, Tensor] | None
    stretches: tuple[tuple[int, int], ...]
    query_ends: Tensor
    key_ends: Tensor
    most_queries: int
    most_keys: int


class VariableLengthKernel(Protocol):
    """Attention between sequences: of `query [rows, H, C]` to `key` and `value [rows, G, C]`."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """Returns the output `[rows, H, C]`, and what the backward pass needs to know about its softmax."""

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, norms: Tensor, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns gradients of query, key and value."""


class FlashKernel:
    """The kernel that `torch.nn.attention.varlen.varlen_attn` calls, whose softmax is of no use to users."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        ends = (call.query_ends, call.key_ends, call.most_queries, call.most_keys)
        out, norms, *_ = torch.ops.aten._flash_attention_forward(query, key, value, *ends, 0.0, False, False)
        return out, norms

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, norms: Tensor, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        ends = (call.query_ends, call.key_ends, call.most_queries, call.most_keys)
        random = query.new_empty(2, dtype=torch.uint64), query.new_empty(0)  # without dropout, nothing is random
        return torch.ops.aten._flash_attention_backward(
            gradient, query, key, value, out, norms, *ends, 0.0, False, *random
        )


FLASH: VariableLengthKernel = FlashKernel()


def packs(query: Tensor, key: Tensor, value: Tensor, groups: Sequence[Group]) -> bool:
    """Whether a layer is computed in packed form: several groups, on a device whose kernel passed its trial."""
    if not isinstance(groups, Groups) or len(groups) < 2 or value.device.type != "cuda":
        return False
    if value.dtype not in (torch.bfloat16, torch.float16) or value.shape[-1] % 8 or value.shape[-1] > 256:
        return False
    return cuda.flash_sdp_enabled() and layer_passes(VARIABLE_LENGTH, _tried, value, query.shape[1] // key.shape[1])


def _tried(query: Tensor, key: Tensor, value: Tensor, groups: Groups) -> Tensor:
    """What a trial computes: at its sizes, keys are gathered and seen where they lie."""
    return packed_attention(query, key, value, groups, long_stretch=LONG_STRETCH // 8)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, groups: Groups, *, long_stretch: int = LONG_STRETCH
) -> Tensor:
    """Attention of a layer, as `attend_by_groups`, in the type of `value`.

    Args:
        query: `[B, H, Q, C]`.
        key: `[B, G, K, C]` with `G` dividing `H`.
        value: `[B, G, K, C]`.
        groups: their query rows and keys.
        long_stretch: key rows from which on a single stretch is not gathered.

    Returns:
        `[B, H, Q, C]`, 0 with zero gradient for queries that see no key.
    """
    batch, rows, n_keys = len(value), query.shape[2], key.shape[2]
    gathered = sum(stop - start for group in groups if not is_long(group, long_stretch) for start, stop in group.keys)
    most = max(1, MOST_GATHERED // max(1, 2 * gathered * key.shape[1] * key.shape[3] * value.element_size()))
    if batch > most:
        parts = zip(*(x.split(most) for x in (query, key, value)), strict=True)
        return torch.cat([packed_attention(q, k, v, groups, long_stretch=long_stretch) for q, k, v in parts])
    place = (n_keys, batch, value.device)
    if place not in groups.calls:
        with torch.inference_mode(False):  # tensors made in inference mode could not serve training later
            groups.calls[place] = plan_calls(groups, *place, long_stretch)
    packed = (as_rows(x, value.dtype) for x in (query, key, value))
    out: Tensor = _Layer.apply(*packed, groups.calls[place], FLASH)
    return out.unflatten(0, (batch, rows)).transpose(1, 2)


def as_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`[B, heads, rows, C]` to `[B * rows, heads, C]` of a type, by one kernel at most."""
    x = x.transpose(1, 2)
    if x.dtype != dtype:
        x = x.to(dtype, memory_format=torch.contiguous_format)
    return x.flatten(0, 1)


def is_long(group: Group, long_stretch: int) -> bool:
    """Whether a group sees its keys where they lie."""
    return len(group.keys) == 1 and group.keys[0][1] - group.keys[0][0] >= long_stretch


def plan_calls(
    groups: Groups, n_keys: int, batch: int, device: torch.device, long_stretch: int = LONG_STRETCH
) -> tuple[Call, ...]:
    """Which calls of the kernel make up a layer: one for all groups whose keys are gathered, and as many as it takes
    for the others, since keys of different groups may overlap."""
    gathered = [group for group in groups if group.keys and not is_long(group, long_stretch)]
    calls = [_gathering(gathered, groups, n_keys, batch, device)] if gathered else []
    rounds: list[list[Group]] = []
    for group in (group for group in groups if is_long(group, long_stretch)):
        free = next((together for together in rounds if together[-1].keys[0][1] <= group.keys[0][0]), None)
        if free is None:
            rounds.append([group])
        else:
            free.append(group)
    return (*calls, *(_in_place(together, groups, n_keys, batch, device) for together in rounds))


def _ranges(stretches: Sequence[tuple[int, int]], n_rows: int, batch: int) -> Tensor:
    """Rows of stretches of every item of a batch whose items have `n_rows`, one item after the other."""
    rows = torch.cat([torch.arange(start, stop) for start, stop in stretches])
    return (n_rows * torch.arange(batch)[:, None] + rows).flatten()


def _ends(lengths: Sequence[int], batch: int, device: torch.device) -> Tensor:
    return F.pad(torch.tensor(lengths).repeat(batch).cumsum(0), (1, 0)).to(device, torch.int32)


def _queries(some: Sequence[Group], groups: Groups, batch: int, device: torch.device) -> Tensor | None:
    if len(some) == len(groups):
        return None
    return _ranges([(group.start, group.stop) for group in some], groups[-1].stop, batch).to(device)


def _gathering(some: Sequence[Group], groups: Groups, n_keys: int, batch: int, device: torch.device) -> Call:
    """The call for groups whose keys are gathered."""
    keys = _ranges([stretch for group in some for stretch in group.keys], n_keys, batch)
    counts = torch.bincount(keys, minlength=batch * n_keys)
    sources = (keys.argsort(stable=True), F.pad(counts.cumsum(0), (1, 0))[:-1])
    n_queries = [group.stop - group.start for group in some]
    seen = [sum(stop - start for start, stop in group.keys) for group in some]
    return Call(
        batch=batch, queries=_queries(some, groups, batch, device), keys=keys.to(device, torch.int32),
        sources=(sources[0].to(device, torch.int32), sources[1].to(device, torch.int32)), stretches=(),
        query_ends=_ends(n_queries, batch, device), key_ends=_ends(seen, batch, device),
        most_queries=max(n_queries), most_keys=max(seen),
    )  # fmt: skip


def _in_place(some: Sequence[Group], groups: Groups, n_keys: int, batch: int, device: torch.device) -> Call:
    """The call for groups that see their keys where they lie; between these, sequences of keys without a query."""
    n_queries, lengths, row = [], [], 0
    for group in some:
        ((start, stop),) = group.keys
        n_queries += [0, group.stop - group.start]
        lengths += [start - row, stop - start]
        row = stop
    return Call(
        batch=batch, queries=_queries(some, groups, batch, device), keys=None, sources=None,
        stretches=tuple(group.keys[0] for group in some),
        query_ends=_ends([*n_queries, 0], batch, device), key_ends=_ends([*lengths, n_keys - row], batch, device),
        most_queries=max(n_queries), most_keys=max(*lengths, n_keys - row),
    )  # fmt: skip


def _take(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.index_select(0, rows)


def _put(total: Tensor, part: Tensor, call: Call) -> Tensor:
    """Puts what a call gave into the rows of its queries."""
    return part if call.queries is None else total.index_copy_(0, call.queries, part)


class _Layer(torch.autograd.Function):
    """A layer as calls of a kernel, in whose backward pass keys are gathered anew rather than kept."""

    @staticmethod
    def forward(
        context: Any, query: Tensor, key: Tensor, value: Tensor, calls: tuple[Call, ...], kernel: VariableLengthKernel
    ) -> Tensor:
        whole = len(calls) == 1 and calls[0].queries is None
        out, norms = query.new_zeros(0 if whole else query.shape), []
        for call in calls:
            found, norm = kernel.forward(
                _take(query, call.queries), _take(key, call.keys), _take(value, call.keys), call
            )
            out = _put(out, found, call)
            norms.append(norm)
        context.save_for_backward(query, key, value, out, *norms)
        context.calls, context.kernel = calls, kernel
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *norms = context.saved_tensors
        whole = len(context.calls) == 1 and context.calls[0].queries is None
        gathers = any(call.sources is not None for call in context.calls)
        to_query = query.new_zeros(0 if whole else query.shape)
        to_key, to_value = (key.new_zeros(0 if gathers else key.shape) for _ in range(2))
        for call, norm in zip(context.calls, norms, strict=True):
            found, for_key, for_value = context.kernel.backward(
                _take(gradient, call.queries).contiguous(), _take(query, call.queries), _take(key, call.keys),
                _take(value, call.keys), _take(out, call.queries), norm, call,
            )  # fmt: skip
            to_query = _put(to_query, found, call)
            to_key, to_value = _add(to_key, for_key, call), _add(to_value, for_value, call)
        return to_query, to_key, to_value, None, None


def _add(total: Tensor, part: Tensor, call: Call) -> Tensor:
    """Adds gradients of a call's keys to those of all key rows; the call that gathers is the first one."""
    if call.sources is not None:
        rows, starts = call.sources
        return F.embedding_bag(rows, part.flatten(1), starts, mode="sum").unflatten(1, part.shape[1:])
    for start, stop in call.stretches:
        total.unflatten(0, (call.batch, -1))[:, start:stop] += part.unflatten(0, (call.batch, -1))[:, start:stop]
    return total
