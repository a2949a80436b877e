"""Element-wise chains of the blocks: norms, the rotation by time, the product of a gated feed-forward.

Shape letters: B batch, H heads, C head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from omnimouse.support.compute_devices import autocast_type

AS_EVER = {"cpu"}
"""Kinds of devices on which numbers are rounded and summed in the order that they always were, for the same bits in the
end. It costs memory (see `recomputation.py`), and under autocast the faster rotation of what is trained."""


def product_type(x: Tensor) -> torch.dtype:
    """The type in which a matrix product with `x` is computed: that of autocast where it is on."""
    return autocast_type(x.device.type) or x.dtype


def full_precision(x: Tensor) -> Tensor:
    """The same in float32 if its type has fewer bits."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def rms_normalize(x: Tensor, weight: Tensor | None = None, *, eps: float) -> Tensor:
    """RMS normalisation over the last axis, times a weight if there is one, in the type of `x`."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps).to(x.dtype)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotates adjacent pairs of `x [B, H, rows, C]` by a `rotary_table [2, rows, C / 2]` (or one of a single row)."""
    kind = x.device.type
    rounds = kind in AS_EVER and x.dtype == torch.bfloat16 and torch.is_grad_enabled()  # the gradient of each product
    if rounds or torch.compiler.is_compiling() or kind not in ("cpu", "cuda") or x.stride(-1) != 1:
        cos, sin = table[0], table[1]
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
    # As complex numbers it is one product: the same sums, and on a CPU a sixth of the time.
    turns = torch.view_as_complex(table.movedim(0, -1).contiguous())  # of a `rotary_table` this copies nothing
    return torch.view_as_real(torch.view_as_complex(full_precision(x).unflatten(-1, (-1, 2))) * turns).flatten(-2)


def unit_heads(x: Tensor, *, eps: float) -> Tensor:
    """Heads `[..., C]`, each normalised by itself; on accelerators in full precision, as autocast does there."""
    return rms_normalize(x if x.device.type in AS_EVER else full_precision(x), eps=eps)


def turn_heads(
    x: Tensor, table: Tensor, *, dtype: torch.dtype, select: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Normalised heads `[B, rows, H, C]`, those rows that are selected, rotated: `[B, H, rows, C]`, in a type.

    On CPUs they stay in full precision, in which attention is computed there.
    """
    heads = rotate((x if select is None else select(x)).transpose(1, 2), table)
    return heads if x.device.type in AS_EVER else heads.to(dtype)


def normalize_heads(x: Tensor, table: Tensor, *, eps: float) -> Tensor:
    """Heads `[B, rows, H, C]`, normalised and rotated: `[B, H, rows, C]`."""
    return turn_heads(unit_heads(x, eps=eps), table, dtype=x.dtype)


def gated_product(up: Tensor, gate: Tensor) -> Tensor:
    """`silu(up) * gate`."""
    return F.silu(up) * gate
