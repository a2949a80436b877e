"""The largest of four neighbours, by comparing them pair by pair: a reduction over axes apart is many times slower."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def largest_of_four(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """What `einops.reduce(x, pattern, "max", p=2, q=2)` gives, for a pattern that pools the axes p and q."""
    tokens, pooled = pattern.split("->")
    four = rearrange(x, f"{tokens}-> p q {pooled}", p=2, q=2, **sizes)
    upper, lower = (torch.maximum(*row.unbind()) for row in four.unbind())
    return torch.maximum(upper, lower)
