"""The precision of forward passes: float32, bfloat16, or what is faster without costing a digit that is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

import torch

from omnimouse.evaluation.computing.product_gain import bfloat16_gain
from omnimouse.support.compute_devices import autocast_type, computes_in_bfloat16

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork

Precision = Literal["auto", "float32", "bfloat16"]

SMALLEST_CORE = 256
"""Hidden size from which "auto" may choose bfloat16: that of every published core. Smaller ones take milliseconds."""

CLEAR_GAIN = 1.5
"""How many times faster a CPU must multiply matrices in bfloat16 for "auto" to choose it."""

NOTE = (
    "computed in bfloat16: the last digit of a score may differ from float32, which --precision float32 "
    "(precision='float32') computes in"
)


def check_precision(precision: str) -> None:
    """Raises ValueError unless it is one of `Precision`."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; expected 'auto', 'float32' or 'bfloat16'")


def choose_precision(precision: Precision, model: OmniMouseNetwork) -> str:
    """The precision in which a model computes where it is now: "float32", "bfloat16", or the type of its weights.

    "auto" is what holds already, where the weights are not in float32 or the caller has `torch.autocast` on. Otherwise
    it is bfloat16 for cores of `SMALLEST_CORE` and more, on GPUs that have instructions for it, and on CPUs that have
    them and multiply `CLEAR_GAIN` times faster with them.

    Raises:
        ValueError: no such precision, or float32 of weights that were loaded in another type.
    """
    check_precision(precision)
    device, weights = model.device, str(model.dtype).removeprefix("torch.")
    if weights != "float32":
        if precision not in ("auto", weights):
            raise ValueError(
                f"precision is {precision!r}, but the weights are in {weights}: load them with dtype=torch.float32, or "
                "leave precision at 'auto'"
            )
        return weights
    if precision != "auto":
        return precision
    if (callers := autocast_type(device.type)) is not None:
        return str(callers).removeprefix("torch.")
    config = model.config
    if config.hidden_size < SMALLEST_CORE or not computes_in_bfloat16(device):
        return "float32"
    if device.type != "cpu":
        return "bfloat16"
    return "bfloat16" if bfloat16_gain(config.hidden_size, config.ffn_multiplier) >= CLEAR_GAIN else "float32"


@contextmanager
def computing_in(model: OmniMouseNetwork, precision: Precision) -> Iterator[str]:
    """Has forward passes of a model computed in a precision within the block, and gives the one that was chosen."""
    chosen = choose_precision(precision, model)
    kind = model.device.type
    is_callers = precision == "auto" and (autocast_type(kind) is not None or not torch.amp.is_autocast_available(kind))
    if is_callers or model.dtype != torch.float32:
        yield chosen
        return
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=chosen == "bfloat16"):
        yield chosen
