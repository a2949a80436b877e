"""Scaled dot-product attention on accelerators, by kernels that were tried on views like ours.

What PyTorch chooses by itself cannot be trusted: on an H200, cuDNN's attention gave NaN gradients, or read memory that
was not its own, where queries, keys and values are stretches of one projection, while it was right on contiguous
tensors. So cuDNN's is never used, and every other kernel is tried once per device, type and head size, outputs and
gradients, against the plain formula; what fails is left out. PyTorch's switches are set around single calls, and are
afterwards what they were.

Shape letters: B batch, H heads, Q query rows, K key rows, C head size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from threading import RLock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]

FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
"""Kernels of CUDA that may be used beside the plain one, if they pass."""

MOST_ITEMS = 32768
"""Items of a batch per call: CUDA's grids end at 65,535."""

ROWS = (2, 64, 773)
"""Sequence lengths that a kernel is tried on."""

_passed: dict[tuple[SDPBackend | None, torch.device, torch.dtype, int], bool] = {}
_switches = RLock()  # PyTorch's switches are those of the process: two threads could put back what the other had set


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of `query [B, H, Q, C]` to `key` and `value [B, H, K, C]`, all of one type and on one accelerator."""
    if len(value) > MOST_ITEMS:
        parts = zip(*(x.split(MOST_ITEMS) for x in (query, key, value)), strict=True)
        return torch.cat([attend(*part) for part in parts])
    if value.device.type == "cuda":
        return attend_by_switches(query, key, value)
    kernel = F.scaled_dot_product_attention if passes(None, F.scaled_dot_product_attention, value) else plain_attention
    return kernel(query, key, value)


def attend_by_switches(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by kernels that pass and that the user has not switched off; by the plain one if none is left.

    The backward pass is bound to the kernel of the forward pass, whatever the switches are by then.
    """
    flash, efficient, plain = _switched_on()
    kernels = [SDPBackend.MATH] if plain or not (flash or efficient) else []
    for kernel, is_on in zip(FUSED, (flash, efficient), strict=True):
        if is_on and passes(kernel, partial(_only, kernel), value):
            kernels.append(kernel)
    return _with_switches(kernels or [SDPBackend.MATH], query, key, value)


@torch.compiler.assume_constant_result
def _switched_on() -> tuple[bool, bool, bool]:
    """Which of the fused kernels and the plain one the user has left on."""
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The formula, `softmax(q k^T / sqrt(C)) v`, in float32."""
    scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores.softmax(-1) @ value.float()).to(value.dtype)


def passes(name: SDPBackend | None, kernel: Kernel, value: Tensor) -> bool:
    """Whether a kernel is right on the device, type and head size of `value`; tried at first use, then remembered.

    Tensors without numbers (those of a compiler, say) cannot be tried with: there it passes unless it failed before.
    """
    case = (name, value.device, value.dtype, value.shape[-1])
    if case in _passed:
        return _passed[case]
    if torch.compiler.is_compiling() or type(value) not in (Tensor, nn.Parameter):
        return True
    _passed[case] = _try(kernel, *case)
    return _passed[case]


def _only(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return _with_switches([backend], query, key, value)


def _with_switches(backends: list[SDPBackend], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with nullcontext() if torch.compiler.is_compiling() else _switches, sdpa_kernel(backends):
        return F.scaled_dot_product_attention(query, key, value)


def _try(kernel: Kernel, name: SDPBackend | None, device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether outputs and gradients are finite and those of the plain formula, up to the rounding of the type.

    The caller's mode (autocast, inference, no gradients) and random state play no part.
    """
    tolerance = max(4 * torch.finfo(dtype).eps, 5e-3)  # 5e-3: products of float32 may be allowed to be those of TF32
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # PyTorch's reasons against a kernel that was asked for
        try:
            errors = [
                _relative(found, expected)
                for rows in ROWS
                for found, expected in zip(
                    *(_through_views(choice, rows, device, dtype, head_size) for choice in (kernel, plain_attention)),
                    strict=True,
                )
            ]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # it does not serve this type, size or device
            return False
    worst = max(errors, key=lambda error: float("inf") if error != error else error)
    if worst <= tolerance:
        return True
    what = "The attention of this device" if name is None else f"The attention kernel {name.name}"
    warnings.warn(
        f"{what} is wrong on {device} for {dtype} and heads of {head_size} (relative error {worst:.2g}); it is left "
        "out, and others compute instead, which may be slower.",
        stacklevel=2,
    )
    return False


def _through_views(
    kernel: Kernel, rows: int, device: torch.device, dtype: torch.dtype, head_size: int
) -> tuple[Tensor, Tensor]:
    """Outputs, and gradients at the projection, of attention between stretches of one projection, as in our layers."""
    heads, first, last = 2, rows // 3, rows - rows // 4
    size = heads * head_size
    random = torch.Generator().manual_seed(rows)
    projection = torch.randn(2, rows, 3 * size, generator=random).to(device, dtype).requires_grad_()
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in projection.split(size, dim=-1))
    key_parts, value_parts = (torch.cat((x[:, :, : first + 1], x[:, :, last:]), dim=2) for x in (key, value))
    out = torch.cat(
        (
            kernel(query[:, :, : first + 1], key, value),
            kernel(query[:, :, first + 1 :], key[:, :, first:last], value[:, :, first:last]),
            kernel(query, key_parts, value_parts),
        ),
        dim=2,
    )
    out = out.transpose(1, 2).flatten(2).float()
    weights = torch.randn(out.shape, generator=random).to(device)
    (gradient,) = torch.autograd.grad((out * weights).sum(), projection)
    return out.detach(), gradient.float()


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
