"""Tries an attention kernel, outputs and gradients, against the plain formula.

Shape letters: B batch, H query heads, G key heads, Q query rows, K key rows, C head size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from omnimouse.model.kernels.attention_groups import Group, Groups, attend_by_groups

Layer = Callable[[Tensor, Tensor, Tensor, Groups], Tensor]
"""Attention `[B, H, Q, C]` of a query to key and value in which each group sees keys of its own."""

ROWS = (2, 64, 773)
"""Sequence lengths that a kernel is tried on."""


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula, `softmax(q k^T / sqrt(C)) v`, in float32; key heads serve neighbouring query heads."""
    key, value = (x.float().repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scores = query.float() @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores.softmax(-1) @ value).to(value.dtype)


def is_right(
    layer: Layer, title: str, device: torch.device, dtype: torch.dtype, head_size: int, sharing: int, *, quiet: bool
) -> bool:
    """Whether outputs and gradients are finite and those of the plain formula, up to the rounding of the type.

    The caller's mode (autocast, inference, no gradients) and random state play no part. A kernel that is wrong is
    warned about under its title; of one that does not serve the type, size or device, only if it is not to be quiet.
    """
    if not torch.amp.is_autocast_available(device.type):
        return False  # no kernel was written for such a device
    tolerance = max(4 * torch.finfo(dtype).eps, 5e-3)  # 5e-3: products of float32 may be allowed to be those of TF32
    plain, reason = partial(attend_by_groups, plain_attention), None
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # PyTorch's reasons against a kernel that was asked for
        errors = [0.0]
        try:
            for rows in ROWS:
                tried, true = (_on_views(way, rows, device, dtype, head_size, sharing) for way in (layer, plain))
                errors += [float((a - b).norm() / b.norm()) for a, b in zip(tried, true, strict=True)]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, AttributeError) as error:  # the last two: another PyTorch's signature
            if quiet:
                return False
            reason = f"{type(error).__name__}: {str(error)[:200]}"
    worst = max(errors, key=lambda error: float("inf") if error != error else error)
    if reason is None and (worst > tolerance or worst != worst):
        reason = f"relative error {worst:.2g}"
    if reason is not None:
        warnings.warn(
            f"{title} is wrong on {device} for {dtype} and heads of {head_size} ({reason}); it is left out, and others "
            "compute instead, which may be slower.",
            stacklevel=3,
        )
    return reason is None


def _on_views(
    layer: Layer, rows: int, device: torch.device, dtype: torch.dtype, head_size: int, sharing: int
) -> tuple[Tensor, Tensor]:
    """Outputs, and gradients at the projection, of attention between stretches of one projection, as in our layers."""
    key_heads, first, last = 2, rows // 3, rows - 1 - rows // 4
    heads = sharing * key_heads
    random = torch.Generator().manual_seed(rows)
    projection = torch.randn(2, rows, (heads + 2 * key_heads) * head_size, generator=random)
    projection = projection.to(device, dtype).requires_grad_()
    split = projection.unflatten(-1, (-1, head_size)).transpose(1, 2)
    query, key, value = split.split((heads, key_heads, key_heads), dim=1)
    groups = [
        Group(0, first + 1, ((0, rows),)),
        Group(first + 1, last, ((first, last),)),
        Group(last, rows - 1, ((0, first + 1), (last, rows))),
        Group(rows - 1, rows, ()),
    ]
    out = layer(query, key, value, Groups(group for group in groups if group.start < group.stop))
    out = out.transpose(1, 2).flatten(2).float()
    weights = torch.randn(out.shape, generator=random).to(device)
    (gradient,) = torch.autograd.grad((out * weights).sum(), projection)
    return out.detach(), gradient.float()
