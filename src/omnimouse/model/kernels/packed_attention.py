"""Attention of a whole layer and batch in one call of a kernel for sequences of different lengths.

Group by group, a layer is dozens of small calls, and each stretch of keys costs several passes over all keys in the
backward pass. Packed, the keys that each group sees lie one after the other, gathered by an index that is kept with the
groups, and one call computes all groups of all windows. Only what was there before is kept for the backward pass, which
gathers anew and sums each key's gradients by the reverse index, in order and without atomic additions.

Gathering a key row costs about seven passes over it (twice it is written and read, once its gradient), a call of its
own some kernels. So a group whose keys are one long stretch (`LONG_STRETCH`) sees its keys where they lie, in another
call for all rows. Rows that play no part in a call are sequences of queries without keys, or of keys without queries;
what a kernel says of these is not read.

Shape letters: B batch, H query heads, G key heads, Q query rows, K key rows, C head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.backends import cuda

from omnimouse.model.kernels.attention_groups import Call, Group, Groups
from omnimouse.model.kernels.attention_kernels import VARIABLE_LENGTH, layer_passes

LONG_STRETCH = 2048
"""Key rows of a stretch from which on a call of its own costs less than gathering: of 8 windows and 768 features, 2,048
rows are 350 MB of traffic, a tenth of a millisecond."""

MOST_GATHERED = 2 << 30
"""Bytes of gathered keys and values; a larger batch is computed in parts."""


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
    out: Tensor = _Layer.apply(*packed, groups.calls[place], groups)
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
    rounds: list[list[Group]] = []
    for group in (group for group in groups if is_long(group, long_stretch)):
        free = next((together for together in rounds if together[-1].keys[0][1] <= group.keys[0][0]), None)
        if free is None:
            rounds.append([group])
        else:
            free.append(group)
    shown = [_call(gathered, groups, n_keys, batch, device, gathers=True)] if gathered else []
    return (*shown, *(_call(together, groups, n_keys, batch, device, gathers=False) for together in rounds))


def _call(
    some: Sequence[Group], groups: Groups, n_keys: int, batch: int, device: torch.device, *, gathers: bool
) -> Call:
    """The call for some of the groups, whose keys are gathered, or seen where they lie."""
    sequences: list[tuple[int, int]] = []  # numbers of queries and of keys
    query, key = 0, 0
    for group in some:
        start = key if gathers else group.keys[0][0]
        sequences += [(group.start - query, 0), (0, start - key)]
        sequences.append((group.stop - group.start, sum(last - first for first, last in group.keys)))
        query, key = group.stop, start + sequences[-1][1]
    sequences += [(groups[-1].stop - query, 0), (0, 0 if gathers else n_keys - key)]
    lengths = torch.tensor([lengths for lengths in sequences if any(lengths)], dtype=torch.int32)
    ends = F.pad(lengths.repeat(batch, 1).cumsum(0, dtype=torch.int32), (0, 0, 1, 0)).to(device)
    rows = sources = None
    if gathers:
        one = torch.cat([torch.arange(*stretch) for group in some for stretch in group.keys])
        rows = (n_keys * torch.arange(batch)[:, None] + one).flatten()
        counts = torch.bincount(rows, minlength=batch * n_keys)
        starts = F.pad(counts.cumsum(0), (1, 0))[:-1]
        sources = rows.argsort(stable=True).to(device, torch.int32), starts.to(device, torch.int32)
        rows = rows.to(device, torch.int32)
    most_queries, most_keys = lengths.amax(0).tolist()
    return Call(
        batch=batch, queries=tuple((group.start, group.stop) for group in some), keys=rows, sources=sources,
        stretches=() if gathers else tuple(group.keys[0] for group in some), query_ends=ends[:, 0].contiguous(),
        key_ends=ends[:, 1].contiguous(), most_queries=most_queries, most_keys=most_keys,
    )  # fmt: skip


def _join(parts: Sequence[Tensor], calls: Sequence[Call], blind: Sequence[tuple[int, int]]) -> Tensor:
    """Results for query rows from the calls that the rows see keys in; 0 for the stretches of rows that see none."""
    whole, *others = (part.unflatten(0, (calls[0].batch, -1)) for part in parts)
    for part, call in zip(others, calls[1:], strict=True):
        for start, stop in call.queries:
            whole[:, start:stop] = part[:, start:stop]
    for start, stop in blind:
        whole[:, start:stop] = 0
    return whole.flatten(0, 1)


def _add(total: Tensor, part: Tensor, call: Call) -> Tensor:
    """Adds gradients of a call's keys to those of all key rows; the call that gathers is the first one."""
    if call.sources is not None:
        rows, starts = call.sources
        return F.embedding_bag(rows, part.flatten(1), starts, mode="sum").unflatten(1, part.shape[1:])
    for start, stop in call.stretches:
        total.unflatten(0, (call.batch, -1))[:, start:stop] += part.unflatten(0, (call.batch, -1))[:, start:stop]
    return total


def _take(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.index_select(0, rows)


class _Layer(torch.autograd.Function):
    """A layer as calls of a kernel, in whose backward pass keys are gathered anew rather than kept."""

    @staticmethod
    def forward(
        context: Any, query: Tensor, key: Tensor, value: Tensor, calls: Sequence[Call], groups: Groups
    ) -> Tensor:
        found = [FLASH.forward(query, _take(key, call.keys), _take(value, call.keys), call) for call in calls]
        context.calls, context.blind = calls, [(group.start, group.stop) for group in groups if not group.keys]
        out = _join([part for part, _ in found], calls, context.blind)
        context.save_for_backward(query, key, value, out, *(norms for _, norms in found))
        return out

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *norms = context.saved_tensors
        calls: Sequence[Call] = context.calls
        gathers, gradient = calls[0].keys is not None, gradient.contiguous()
        to_query, to_key, to_value = [], *(key.new_zeros(0 if gathers else key.shape) for _ in range(2))
        for call, norm in zip(calls, norms, strict=True):
            keys, values = _take(key, call.keys), _take(value, call.keys)
            for_query, for_key, for_value = FLASH.backward(gradient, query, keys, values, out, norm, call)
            to_query.append(for_query)
            to_key, to_value = _add(to_key, for_key, call), _add(to_value, for_value, call)
        return _join(to_query, calls, context.blind), to_key, to_value, None, None
