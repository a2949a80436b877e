"""What the cases of `gpu.py` share: where and how large, and ways of computing that can be switched off."""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from meters import Row, timed

from omnimouse import OmniMouseConfig

TOY = {"hidden_size": 32, "identity_size": 8, "num_attention_heads": 2, "num_fusion_layers": 2, "video_hidden_size": 16}

SWITCHES = {"packed": ("packs", "packed_attention"), "recomputed": ("_can_recompute", "recomputation")}
"""Function that says whether a way of computing is taken, and the module of `omnimouse.model.kernels` that has it."""


@dataclass(frozen=True)
class Case:
    """What is run, and how many seconds it may take."""

    name: str
    seconds: float
    run: Callable[[], Row]


@dataclass(frozen=True)
class Bench:
    """Where and how large.

    Args:
        device: where to compute.
        folder: for recordings and runs, common to all processes of a benchmark.
        quick: toy sizes.
    """

    device: torch.device
    folder: Path
    quick: bool

    def config(self, preset: str) -> OmniMouseConfig:
        return OmniMouseConfig.from_preset(preset, **(TOY if self.quick else {}))

    def timed(self, function: Callable[[], Any], repeats: int) -> tuple[float, float]:
        """Median seconds of a call, and seconds of the first, which compiles and chooses."""
        first, *others = timed(function, repeats + 1, self.device)
        return statistics.median(others), first

    def compiling(self, on: bool = True) -> AbstractContextManager[None]:
        """Compiles what `compile_model` does, within the block; a toy's graphs are traced, which needs no compiler."""
        if not on:
            return nullcontext()
        module = sys.modules["omnimouse.model.kernels.compiled_chains"]
        if self.quick:
            module.BACKEND = "aot_eager"
        return module.compiling_chains(True)


def has(switch: str) -> bool:
    """Whether this version of the package has a way of computing: one of the `SWITCHES`, or "compiled"."""
    home = "compiled_chains" if switch == "compiled" else SWITCHES[switch][1]
    return f"omnimouse.model.kernels.{home}" in sys.modules


@contextmanager
def without(*switches: str) -> Iterator[None]:
    """Computes without some of the `SWITCHES`, for what they are compared with."""
    with ExitStack() as stack:
        for switch in switches:
            name, home = SWITCHES[switch]
            source = sys.modules.get(f"omnimouse.model.kernels.{home}")
            original = getattr(source, name, None)
            for module in list(sys.modules.values()) if original is not None else ():
                if getattr(module, "__name__", "").startswith("omnimouse.") and vars(module).get(name) is original:
                    stack.enter_context(mock.patch.object(module, name, lambda *_, **__: False))
        yield


@contextmanager
def synchronisations(device: torch.device) -> Iterator[list[Any]]:
    """Collects a warning for each time that the host waits for the device; none on a CPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found: list[Any] = []
        try:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            yield found
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            found += [entry for entry in caught if "synchronizing CUDA operation" in str(entry.message)]
