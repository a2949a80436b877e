"""Rows of attention and feed-forwards in pieces: the same numbers, in memory that budgets bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnimouse.model.kernels import chains

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.masking.mask_rules import ResolvedMask

WORKING_BYTES = {"cpu": 256 << 20}
"""Bytes that intermediate results of rows may take at a time, by kind of device."""

WORKING_BYTES_ELSEWHERE = 2 << 30
"""The same for accelerators, which need more rows at a time to be busy."""

WHOLE_BYTES = {"cpu": 1 << 30}
"""Bytes that what is there for all rows may take at a time: tokens, their keys and values, decoded queries."""

WHOLE_BYTES_ELSEWHERE = 16 << 30
"""The same for accelerators."""

INNER_NUMBERS = 1 << 21
"""Numbers at a time of the inner width of a feed-forward on CPUs, whose caches should hold them."""

INNER_NUMBERS_ELSEWHERE = 1 << 27
"""The same for accelerators, also in training: gradients of a decoder's many rows live in one piece at a time."""


def in_pieces(
    compute: Callable[[int, int], tuple[Tensor, ...]], rows: int, row_bytes: int, dim: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Joins what is computed of the rows `[start, stop)`, as many at a time as the budget allows.

    Args:
        compute: of a first row and the one after the last, gives tensors that hold these rows along `dim`.
        rows: how many there are.
        row_bytes: of intermediate results of one.
        dim: the dimension of the rows in the results.
        device: where they are computed.

    Returns:
        The tensors that `compute(0, rows)` gives, up to rounding; those themselves where a gradient is wanted.
    """
    step = max(1, WORKING_BYTES.get(device.type, WORKING_BYTES_ELSEWHERE) // max(1, row_bytes))
    if torch.is_grad_enabled() or rows <= step:
        return compute(0, rows)
    whole: tuple[Tensor, ...] = ()
    for start in range(0, rows, step):
        parts = compute(start, min(start + step, rows))
        if not whole:
            whole = tuple(part.new_empty((*part.shape[:dim], rows, *part.shape[dim + 1 :])) for part in parts)
        for out, part in zip(whole, parts, strict=True):
            out.narrow(dim, start, part.shape[dim]).copy_(part)
    return whole


def inner_pieces(x: Tensor, width: int) -> int:
    """In how many pieces of rows a feed-forward of an inner width serves `x [B, rows, D]`.

    On CPUs in one where gradients are wanted: those of weights would be summed in another order.
    """
    as_ever = x.device.type in chains.AS_EVER
    if as_ever and torch.is_grad_enabled():
        return 1
    most = INNER_NUMBERS if as_ever else INNER_NUMBERS_ELSEWHERE
    return min(x.shape[1], -(-x.shape[:-1].numel() * width // most))


def spans_within(spans: Sequence[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """The stretches of rows that make up the rows `[start, stop)` of what `spans` make up."""
    found, row = [], 0
    for first, last in spans:
        a, b = max(start, row), min(stop, row + last - first)
        if a < b:
            found.append((first + a - row, first + b - row))
        row += last - first
    return found


def row_counts(mask: ResolvedMask, config: OmniMouseConfig) -> tuple[int, int, int, int]:
    """Response tokens, response queries, latents with registers, and video tokens of a window."""
    w, s = config.response_token_window, config.response_token_stride
    shown = sum((piece.last - piece.first) * ((piece.stop - piece.start - w) // s + 1) for piece in mask.segments)
    asked = sum((piece.last - piece.first) * ((piece.stop - piece.start) // s) for piece in mask.targets)
    latents = config.num_latents * len(mask.latent_steps) + config.num_registers
    return shown, asked, latents, (mask.video_steps[1] - mask.video_steps[0]) * config.video_tokens_per_step


def windows_at_once(mask: ResolvedMask, config: OmniMouseConfig, device: torch.device) -> int:
    """How many windows a forward pass without gradients takes within `WHOLE_BYTES`, at least one."""
    shown, asked, latents, video = row_counts(mask, config)
    # Tokens stand beside what they are added up from, then beside their keys and values; queries beside predictions.
    floats = config.hidden_size * (4 * shown + 2 * asked + 12 * (latents + video))
    # Before they are pooled, video tokens are four times as many and half as wide.
    floats += 2 * config.video_hidden_size * 12 * 2 * video
    return max(1, WHOLE_BYTES.get(device.type, WHOLE_BYTES_ELSEWHERE) // (4 * floats))
