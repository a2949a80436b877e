"""Tries an attention kernel, outputs and gradients, against the plain formula.

Shape letters: B batch, H heads, Q query rows, K key rows, C head size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]

ROWS = (2, 64, 773)
"""Sequence lengths that a kernel is tried on."""


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula, `softmax(q k^T / sqrt(C)) v`, in float32."""
    scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores.softmax(-1) @ value.float()).to(value.dtype)


def is_right(kernel: Kernel, title: str, device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether outputs and gradients are finite and those of the plain formula, up to the rounding of the type.

    The caller's mode (autocast, inference, no gradients) and random state play no part. A kernel that is wrong is
    warned about under its title; one that does not serve the type, size or device fails without a word.
    """
    tolerance = max(4 * torch.finfo(dtype).eps, 5e-3)  # 5e-3: products of float32 may be allowed to be those of TF32
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # PyTorch's reasons against a kernel that was asked for
        errors = []
        try:
            for rows in ROWS:
                tried, true = (_on_views(way, rows, device, dtype, head_size) for way in (kernel, plain_attention))
                errors += [float((a - b).norm() / b.norm()) for a, b in zip(tried, true, strict=True)]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return False
    worst = max(errors, key=lambda error: float("inf") if error != error else error)
    if worst > tolerance or worst != worst:
        warnings.warn(
            f"{title} is wrong on {device} for {dtype} and heads of {head_size} (relative error {worst:.2g}); it is "
            "left out, and others compute instead, which may be slower.",
            stacklevel=3,
        )
    return worst <= tolerance


def _on_views(
    kernel: Kernel, rows: int, device: torch.device, dtype: torch.dtype, head_size: int
) -> tuple[Tensor, Tensor]:
    """Outputs, and gradients at the projection, of attention between stretches of one projection, as in our layers."""
    heads, first, last = 2, rows // 3, rows - rows // 4
    random = torch.Generator().manual_seed(rows)
    projection = torch.randn(2, rows, 3 * heads * head_size, generator=random).to(device, dtype).requires_grad_()
    query, key, value = rearrange(projection, "b rows (three h c) -> three b h rows c", three=3, h=heads)
    key_parts, value_parts = (torch.cat((x[:, :, : first + 1], x[:, :, last:]), dim=2) for x in (key, value))
    out = torch.cat(
        (
            kernel(query[:, :, : first + 1], key, value),
            kernel(query[:, :, first + 1 :], key[:, :, first:last], value[:, :, first:last]),
            kernel(query, key_parts, value_parts),
        ),
        dim=2,
    )
    out = rearrange(out, "b h rows c -> b rows (h c)").float()
    weights = torch.randn(out.shape, generator=random).to(device)
    (gradient,) = torch.autograd.grad((out * weights).sum(), projection)
    return out.detach(), gradient.float()
