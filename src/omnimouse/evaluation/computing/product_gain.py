"""How much faster a CPU multiplies matrices in bfloat16 than in float32: measured once, then remembered on disk."""

from __future__ import annotations

import platform
import time
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor

from omnimouse.hub.sources import cache_folder
from omnimouse.model.attention import feed_forward_width
from omnimouse.support.files import read_mapping, write_json

FILE = "bfloat16-gains-1.json"
"""In the cache of this package; may be deleted at any time."""

OPERATIONS = 5e8
"""Multiplications of a product that is timed: a few milliseconds."""

MOST_ROWS, ROUNDS = 4096, 4

_known: dict[str, float] = {}


def bfloat16_gain(hidden_size: int, multiplier: float) -> float:
    """Seconds in float32 over those in bfloat16, of the largest matrix product of a core's blocks on this CPU.

    Measured in a fraction of a second, once for each machine, PyTorch, number of threads and size. Where the cache
    cannot be read it is measured anew; where it cannot be written it is remembered by this process only.
    """
    width = feed_forward_width(hidden_size, multiplier)
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    case = f"{platform.node()} {capability}, torch {torch.__version__}, {threads} threads, {hidden_size}x{width}"
    if case not in _known:
        stored = _stored()
        _known[case] = stored.get(case) or _measure(hidden_size, width)
        if case not in stored:
            with suppress(OSError):
                write_json(cache_folder() / FILE, {**stored, case: _known[case]})
    return _known[case]


def _stored() -> dict[str, float]:
    """What was measured before, of which what makes no sense counts as not measured."""
    try:
        content = read_mapping(cache_folder() / FILE, "gains of bfloat16")
    except (ValueError, OSError):
        return {}
    return {case: gain for case, gain in content.items() if isinstance(gain, float) and 0.01 < gain < 100}


@torch.inference_mode()
def _measure(size: int, width: int) -> float:
    """The gain, by the least times of a few products in turn, each with the conversion of what comes in."""
    rows = min(MOST_ROWS, max(64, int(OPERATIONS / (size * width))))
    with torch.autocast("cpu", enabled=False):
        # Numbers of an ordinary size; the caller's random state is left alone.
        x, weight = (torch.linspace(-1, 1, n * size).sin().view(n, size) for n in (rows, width))
        weights = {torch.float32: weight, torch.bfloat16: weight.bfloat16()}
        least = dict.fromkeys(weights, float("inf"))
        for _ in range(ROUNDS):
            for dtype, matrix in weights.items():
                least[dtype] = min(least[dtype], _seconds(x, matrix))
    return least[torch.float32] / least[torch.bfloat16]


def _seconds(x: Tensor, weight: Tensor) -> float:
    start = time.perf_counter()
    F.linear(x.to(weight.dtype), weight)
    return time.perf_counter() - start
