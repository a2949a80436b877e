"""What a forward pass is trained on: pure functions of predictions and targets.

Another loss is another function here and its line in `window_losses`; its numbers are fields of `OmniMouseConfig`. What
goes with the Poisson loss elsewhere: the readout's softplus (`OmniMouseNetwork._read_out`), its inverse where biases
start (`initial_vectors`), and the same loss summed over windows (`poisson_loss_sum` of `evaluation/metrics.py`).
Shape letters: B batch, L target samples, Q target neurons.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omnimouse.model.configuration_omnimouse import OmniMouseConfig


def poisson_elements(predictions: Tensor, targets: Tensor, *, epsilon: float, clamp: float) -> Tensor:
    """`p - y ln(p + epsilon)` of each sample, clamped to plus or minus `clamp`."""
    return (predictions - targets * torch.log(predictions + epsilon)).clamp(-clamp, clamp)


def clamped_squared_error(predictions: Tensor, targets: Tensor, *, clamp: float) -> Tensor:
    """Mean of `(p - y)^2`, each element clamped to `clamp`."""
    return (predictions - targets).square().clamp(max=clamp).mean()


def window_losses(
    responses: tuple[Tensor, Tensor, Tensor | None] | None,
    behavior: tuple[Tensor, Tensor, Tensor | None] | None,
    config: OmniMouseConfig,
) -> dict[str, Tensor]:
    """Losses of what was predicted and is known, and their weighted sum.

    Args:
        responses: Predictions and targets `[B, L, Q]`, and which of the flat `[L Q]` count, int64, or None for all; or
            nothing to compare.
        behavior: Predictions and targets `[B, channels, samples]`, and which channels count, int64, or None for all; or
            nothing to compare.
        config: Clamps and weights.

    Returns:
        `response_loss`, `behavior_loss` and their sum `loss`, as far as there is something to compare.
    """
    losses: dict[str, Tensor] = {}
    terms = []
    if responses is not None:
        predictions, targets, counts = responses[0].flatten(1), responses[1].flatten(1), responses[2]
        if counts is not None:
            predictions, targets = predictions.index_select(1, counts), targets.index_select(1, counts)
        numbers = {"epsilon": config.response_loss_epsilon, "clamp": config.response_loss_clamp}
        losses["response_loss"] = poisson_elements(predictions, targets, **numbers).mean()
        terms.append(losses["response_loss"])
    if behavior is not None:
        predictions, targets, channels = behavior
        if channels is not None:
            predictions, targets = predictions.index_select(1, channels), targets.index_select(1, channels)
        losses["behavior_loss"] = clamped_squared_error(predictions, targets.float(), clamp=config.behavior_loss_clamp)
        terms.append(config.behavior_loss_weight * losses["behavior_loss"])
    return losses | ({"loss": sum(terms[1:], terms[0])} if terms else {})
