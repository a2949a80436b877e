"""Optimizers over parameters by name, and their state as tensors by name.

The order of parameters depends on the order sessions are built in: moments kept by position would load without an error
onto the wrong session.
"""

from __future__ import annotations

import functools
import warnings
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
        fused=fuses(next((parameter.device for parameter in parameters.values()), torch.device("cpu"))) or None,
    )
    return ParameterGroup(recipe, dict(parameters), optimizer)


@functools.lru_cache
def fuses(device: torch.device) -> bool:
    """Whether AdamW updates all parameters on a device by one kernel: on CUDA, where that was tried and is right.

    On CPUs it would round otherwise than the plain loop, with which runs of earlier versions go on.
    """
    if device.type != "cuda":
        return False
    try:
        kept = [_tried_update(device, fused=fused) for fused in (True, False)]
        torch.testing.assert_close(*kept, rtol=1e-5, atol=1e-7)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"The fused AdamW of {device} is not used: {reason}. Steps take a little longer.", stacklevel=2)
        return False
    return True


def _tried_update(device: torch.device, *, fused: bool) -> torch.Tensor:
    """A few numbers after three steps of AdamW."""
    parameter = nn.Parameter(torch.linspace(-1, 1, 37, device=device))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.1, fused=fused)
    for power in (1, 2, 3):
        parameter.grad = parameter.detach() ** power
        optimizer.step()
    return parameter.detach().cpu()


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
                # The step counter is where AdamW makes it.
                on_cpu = moment == "step" and not group.optimizer.defaults["fused"]
                moments[moment] = stored.clone().to("cpu" if on_cpu else parameter.device)
        if moments:
            group.optimizer.state[parameter] = moments
