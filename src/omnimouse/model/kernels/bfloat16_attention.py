"""Attention in bfloat16 on CPUs that multiply in it, for inference: PyTorch's own kernel is no faster in it there.

Shape letters: B batch, H query heads, G key heads, Q query rows, K key rows, C head size.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from omnimouse.support.compute_devices import computes_in_bfloat16

BLOCK = 1 << 20
"""Scores that are there at a time: so many stay in the processor's cache."""

FEWEST_ROWS = 64


def attends_in_bfloat16(value: Tensor) -> bool:
    """Whether it is for attention to these values: in inference mode only, so that training has one attention."""
    return (
        value.dtype == torch.bfloat16
        and value.device.type == "cpu"
        and torch.is_inference_mode_enabled()
        and _has_instructions()
    )


@cache
def _has_instructions() -> bool:
    return computes_in_bfloat16(torch.device("cpu"))


def attend_in_bfloat16(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of `query [B, H, Q, C]` to `key` and `value [B, G, K, C]`, `G` dividing `H`, in bfloat16.

    Queries and keys are RMS-normalised: no score is above the root of C, so exponentials need no maximum taken off.
    """
    batch, heads, rows, size = query.shape
    groups = key.shape[1]
    shared = query.to(value.dtype).reshape(batch * groups, heads // groups * rows, size)
    keys, values = (x.to(value.dtype).flatten(0, 1) for x in (key, value))
    transposed, out = keys.transpose(1, 2), torch.empty_like(shared)
    step = max(FEWEST_ROWS, BLOCK // (len(shared) * keys.shape[1]))
    scale = math.log2(math.e) * size**-0.5
    with torch.autocast("cpu", enabled=False):
        for start in range(0, shared.shape[1], step):
            part = shared[:, start : start + step]
            weights = part.new_empty(len(part), part.shape[1], keys.shape[1])
            torch.baddbmm(weights, part, transposed, beta=0, alpha=scale, out=weights).exp2_()
            total = weights.sum(-1, keepdim=True, dtype=torch.float32)
            torch.div(torch.bmm(weights, values), total, out=out[:, start : start + step])
    return out.view(batch, heads, rows, size)
