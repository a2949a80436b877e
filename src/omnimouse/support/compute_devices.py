"""Where a model computes: devices by name, and a model on another one for a while.

(A *device* of a recording is something else: what recorded it.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

ACCELERATORS = ("cuda", "mps", "xpu")
"""Kinds of devices that are looked for, in the order in which one is chosen."""

Device = str | torch.device | None


def available_devices() -> list[str]:
    """Names of the devices of this machine that a model can compute on: `["cuda:0", "cuda:1", "cpu"]`."""
    names = []
    for kind in ACCELERATORS:
        count = getattr(torch, kind).device_count() if hasattr(torch, kind) else 0
        names += [kind] if kind == "mps" and count else [f"{kind}:{index}" for index in range(count)]
    return [*names, "cpu"]


def resolve_device(device: Device, *, cpu: bool = False) -> torch.device | None:
    """Turns what a user asked for into a device of this machine.

    Args:
        device: "cpu", "cuda" (the current one), "cuda:1", "mps", a `torch.device`, or None for no wish.
        cpu: the older way to say "cpu".

    Returns:
        The device, with its number where there may be several, or None.

    Raises:
        ValueError: no device of this name here (the message lists those there are), or `cpu` and another device.
    """
    if device is None:
        return torch.device("cpu") if cpu else None
    there = available_devices()
    expected = f"The devices of this machine are {', '.join(there)}."
    try:
        if not isinstance(device, str | torch.device):
            raise ValueError("it is neither a name nor a torch.device")
        found = torch.device(device)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {device!r}, which names no device ({reason}). {expected}") from None
    name = str(found)
    if found.type in ("cpu", "mps") and found.index in (None, 0):
        name = found.type
    elif found.type in ACCELERATORS and found.index is None and f"{found.type}:0" in there:
        name = f"{found.type}:{getattr(torch, found.type).current_device()}"
    if name not in there:
        raise ValueError(f"device is {str(device)!r}, which this machine (or this PyTorch) lacks. {expected}")
    if cpu and name != "cpu":
        raise ValueError(f"cpu and device {str(device)!r} contradict each other; leave one of them out.")
    return torch.device(name)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16 products: most recent GPUs, and CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # older PyTorch does not tell
        return False
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def autocast_type(kind: str) -> torch.dtype | None:
    """The type that the caller's autocast computes in on a kind of device; None where it is off, or unknown there."""
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_on else None


@contextmanager
def computing_on(model: nn.Module, device: torch.device | None) -> Iterator[None]:
    """Has a model compute on a device (None: where it is) within the block, without gradients; it comes back unchanged.

    Its own tensors are set aside and put back, so that nothing is copied twice and files that are mapped stay mapped.
    """
    if device is None:
        yield
        return
    kept: list[tuple[Any, str, Tensor]] = [
        (table, name, tensor)
        for module in model.modules()
        for table in (module._parameters, module._buffers)
        for name, tensor in table.items()
        if tensor is not None
    ]
    moved: dict[int, Tensor] = {}  # a tensor that two modules share stays shared
    try:
        for table, name, tensor in kept:
            if tensor.device != device:
                if id(tensor) not in moved:
                    copy = tensor.detach().to(device)
                    moved[id(tensor)] = nn.Parameter(copy, False) if isinstance(tensor, nn.Parameter) else copy
                table[name] = moved[id(tensor)]
        yield
    finally:
        for table, name, tensor in kept:
            table[name] = tensor
