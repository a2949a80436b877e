"""Scaled dot-product attention on accelerators, by kernels that were tried on views like ours.

What PyTorch chooses by itself cannot be trusted: on an H200, cuDNN's attention gave NaN gradients, or read memory that
was not its own, where queries, keys and values are stretches of one projection, while it was right on contiguous
tensors. So cuDNN's is never used, and every other kernel is tried once per device, type and head size
(`kernel_trials.py`); what fails is left out. PyTorch's switches are set around single calls, and are afterwards what
they were.

Shape letters: B batch, H heads, Q query rows, K key rows, C head size.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from threading import RLock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel

from omnimouse.model.kernels.attention_groups import Kernel, attend_by_groups
from omnimouse.model.kernels.kernel_trials import Layer, is_right, plain_attention

FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
"""Kernels of CUDA that may be used beside the plain one, if they pass."""

VARIABLE_LENGTH = "for sequences of different lengths"
"""Name of the kernel of `packed_attention`."""

MOST_ITEMS = 32768
"""Items of a batch per call: CUDA's grids end at 65,535."""

Name = SDPBackend | str | None
_passed: dict[tuple[Name, torch.device, torch.dtype, int, int], bool] = {}
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
    *fused, plain = _switched_on()
    kernels = [SDPBackend.MATH] if plain or not any(fused) else []
    for kernel, is_on in zip(FUSED, fused, strict=True):
        if is_on and passes(kernel, partial(_with_switches, [kernel]), value):
            kernels.append(kernel)
    return _with_switches(kernels or [SDPBackend.MATH], query, key, value)


@torch.compiler.assume_constant_result
def _switched_on() -> tuple[bool, bool, bool]:
    """Which of the fused kernels and the plain one the user has left on."""
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()


def _with_switches(backends: list[SDPBackend], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with nullcontext() if torch.compiler.is_compiling() else _switches, sdpa_kernel(backends):
        return F.scaled_dot_product_attention(query, key, value)


def passes(name: Name, kernel: Kernel, value: Tensor) -> bool:
    """Whether a kernel is right on the device, type and head size of `value`, see `layer_passes`."""
    return layer_passes(name, partial(attend_by_groups, kernel), value)


def layer_passes(name: Name, layer: Layer, value: Tensor, sharing: int = 1) -> bool:
    """Whether a layer is right on the device, type and head size of `value`; tried at first use, then remembered.

    Tensors without numbers (those of a compiler, say) cannot be tried with: there it passes unless it failed before.

    Args:
        name: of its kernel; None for what the device offers.
        layer: attention by this kernel.
        value: any values `[B, G, K, C]` that it is to serve.
        sharing: query heads that share a key head.
    """
    case = (name, value.device, value.dtype, value.shape[-1], sharing)
    if case not in _passed:
        if torch.compiler.is_compiling() or type(value) not in (Tensor, nn.Parameter):
            return True
        title = "The attention of this device"
        if name is not None:
            title = f"The attention kernel {name.name if isinstance(name, SDPBackend) else name}"
        _passed[case] = is_right(layer, title, *case[1:], quiet=name != VARIABLE_LENGTH)
    return _passed[case]
