"""Optimizers over parameters by name, and their state as tensors by name.

The order of parameters depends on the order sessions are built in: moments kept by position would load without an error
onto the wrong session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from omnimouse.training.shared.recipe import OptimizerRecipe


@dataclass(frozen=True)
class ParameterGroup:
    """One optimizer with the names of what it trains, in the optimizer's order.

    Attributes:
        recipe: rates and clip.
        parameters: parameter name -> parameter.
        optimizer: AdamW over exactly these parameters.
    """

    recipe: OptimizerRecipe
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate


def build_group(recipe: OptimizerRecipe, parameters: Mapping[str, nn.Parameter]) -> ParameterGroup:
    """Builds AdamW over some parameters.

    A parameter that a step gives no gradient (the neuron biases under a mask that only decodes behavior) is skipped by
    that step altogether: neither its moments nor its weight decay act.

    Args:
        recipe: rates and clip.
        parameters: parameter name -> parameter, at least one.

    Raises:
        ValueError: when a parameter is not float32. In half precision most of AdamW's updates are smaller than the
            spacing of the numbers and would be lost.
    """
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"Parameter {name} is {parameter.dtype}; training needs torch.float32. Load the model "
                "with dtype=torch.float32 (mixed_precision='bf16' still computes in bfloat16)."
            )
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
    )
    return ParameterGroup(recipe, dict(parameters), optimizer)


def pack_moments(group: ParameterGroup) -> dict[str, torch.Tensor]:
    """Returns the Adam moments of a group, each under the name it is stored by; none for what never had a gradient."""
    return {
        f"optimizer/{moment}/{name}": value
        for name, parameter in group.parameters.items()
        for moment, value in group.optimizer.state.get(parameter, {}).items()
    }


def restore_moments(group: ParameterGroup, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts back the moments of `pack_moments` into a freshly built group."""
    for name, parameter in group.parameters.items():
        moments = {}
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            stored = tensors.get(f"optimizer/{moment}/{name}")
            if stored is not None:
                # The step counter stays on the CPU, where AdamW makes it.
                moments[moment] = stored.clone().to("cpu" if moment == "step" else parameter.device)
        if moments:
            group.optimizer.state[parameter] = moments
