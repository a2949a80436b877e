"""How training changes weights: optimizers, schedules and the recipe of a fine-tune, as data.

The numbers of the released OmniMouse models (ICLR 2026) are `PUBLISHED_SESSION_OPTIMIZER` and
`PUBLISHED_CORE_OPTIMIZER`. Session tables and the core always have an optimizer and a gradient clip of their own: their
gradients differ by orders of magnitude, and with one common clip the norm of one session's tables would decide how far
the core, which every session shares, may move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from omnimouse.support.validation import is_count, is_number, require

MixedPrecision = Literal["no", "bf16"]


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW and its gradient clip for one set of parameters.

    Attributes:
        learning_rate: peak learning rate, reached after warm-up.
        weight_decay: decoupled weight decay.
        betas: decay rates of the two Adam moments.
        eps: added to the denominator of the Adam update.
        max_grad_norm: the norm this set's gradients are clipped to.

    Raises:
        ValueError: when a number is outside its range.
    """

    learning_rate: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in ("learning_rate", "eps", "max_grad_norm"):
            value = getattr(self, name)
            require(is_number(value) and value > 0, owner, name, value, "a finite number above 0")
        require(
            is_number(self.weight_decay) and self.weight_decay >= 0,
            owner,
            "weight_decay",
            self.weight_decay,
            "a finite number of at least 0",
        )
        valid = len(self.betas) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in self.betas)
        require(valid, owner, "betas", self.betas, "two numbers in [0, 1)")


PUBLISHED_SESSION_OPTIMIZER = OptimizerRecipe(learning_rate=3e-3, weight_decay=1e-3)
PUBLISHED_CORE_OPTIMIZER = OptimizerRecipe(learning_rate=7e-4, weight_decay=0.1)

FINETUNE_CORE_LEARNING_RATE = 1e-4
"""Peak learning rate of the core when a fine-tune opens it: a seventh of the pre-training rate.

7e-4 is the rate for a core that starts from noise and averages over hundreds of mice. A core that has converged and now
sees one mouse would be driven away from what the others taught it before the new mouse's tables have settled.
"""


@dataclass(frozen=True)
class ScheduleRecipe:
    """Learning rate over steps: linear warm-up, constant, and an optional decay to near zero at the end.

    Attributes:
        warmup_steps: steps from `initial_learning_rate` up to the peak; 0 starts at the peak.
        decay_steps: the last steps, over which the rate falls as `peak * (1 - sqrt((t + 1) / (decay_steps + 1)))`,
            t = 0 .. decay_steps - 1; 0 keeps it constant. The last step still moves the weights a little.
        initial_learning_rate: rate of the first warm-up step.
    """

    warmup_steps: int = 0
    decay_steps: int = 0
    initial_learning_rate: float = 1e-7

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in ("warmup_steps", "decay_steps"):
            require(is_count(getattr(self, name), 0), owner, name, getattr(self, name), "a whole number, 0 or more")
        rate = self.initial_learning_rate
        require(is_number(rate) and rate >= 0, owner, "initial_learning_rate", rate, "a finite number of at least 0")

    def learning_rate(self, peak: float, step: int, total_steps: int) -> float:
        """Returns the learning rate of one step.

        Args:
            peak: learning rate of the constant phase.
            step: 0 for the first step of the run.
            total_steps: steps of the whole run; the decay ends with its last one.
        """
        if step < self.warmup_steps:
            start = min(self.initial_learning_rate, peak)
            return start + (peak - start) * step / self.warmup_steps
        into_decay = step - (total_steps - self.decay_steps)
        if into_decay >= 0 and self.decay_steps > 0:
            return peak * (1.0 - math.sqrt(min(into_decay + 1, self.decay_steps) / (self.decay_steps + 1)))
        return peak


@dataclass(frozen=True)
class FinetuneRecipe:
    """How one session is trained; everything but the data and the masks.

    Attributes:
        steps: optimizer steps.
        batch_size: windows per step.
        seed: decides windows, masks, neuron shuffles and stochastic depth, each together with the step.
        session: optimizer of the session tables.
        core: optimizer of the core, or None to keep the core frozen.
        schedule: learning rate over steps, for both optimizers.
        train_animal: whether the animal vector is trained along with the session's own tables.
        validate_every: steps between two validations.
        patience: validations in a row without improvement after which training stops; None never stops early.
        mixed_precision: "bf16" for bfloat16 autocast, "no" for float32 throughout.
    """

    steps: int
    batch_size: int = 8
    seed: int = 0
    session: OptimizerRecipe = PUBLISHED_SESSION_OPTIMIZER
    core: OptimizerRecipe | None = None
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    train_animal: bool = True
    validate_every: int = 100
    patience: int | None = None
    mixed_precision: MixedPrecision = "no"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in ("steps", "batch_size", "validate_every"):
            require(is_count(getattr(self, name), 1), owner, name, getattr(self, name), "a whole number, 1 or more")
        require(is_count(self.seed, 0), owner, "seed", self.seed, "a whole number, 0 or more")
        require(
            self.patience is None or is_count(self.patience, 1),
            owner,
            "patience",
            self.patience,
            "None or a whole number, 1 or more",
        )
        require(
            self.mixed_precision in ("no", "bf16"), owner, "mixed_precision", self.mixed_precision, "'no' or 'bf16'"
        )
        busy = self.schedule.warmup_steps + self.schedule.decay_steps
        if busy > self.steps:
            raise ValueError(
                f"The schedule has {self.schedule.warmup_steps} warm-up and {self.schedule.decay_steps} decay steps, "
                f"together more than the {self.steps} steps of the run; take fewer of them or more steps."
            )


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


def open_core_parameters(model: Any) -> dict[str, nn.Parameter]:
    """Returns what an open core trains: everything that belongs to no session and requires gradients, by name.

    That is the whole core, unless parts of it were frozen before: after `peft.get_peft_model`, only the layers that
    peft added to it are left.

    Raises:
        ValueError: when nothing is left.
    """
    tables = {id(parameter) for _, parameter in model.session_named_parameters()}
    found = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in tables}
    if not found:
        raise ValueError(
            "The core is to be trained, but none of its parameters requires gradients. Call model.requires_grad_(True) "
            "to open all of it, or train the session alone with train_core=False."
        )
    return found


def trained_parameters(model: Any, recipe: FinetuneRecipe, session: str) -> dict[str, dict[str, nn.Parameter]]:
    """Returns what a fine-tune of `session` trains: {"session": {name: parameter}, "core": {name: parameter}}.

    "core" is there only when the recipe has a core optimizer; the animal vector is among the session's parameters only
    when the recipe says so.
    """
    tables = dict(model.session_named_parameters(session))
    if not recipe.train_animal:
        tables = {name: tensor for name, tensor in tables.items() if "animals" not in name.split(".")}
    groups = {"session": tables}
    if recipe.core is not None:
        groups["core"] = open_core_parameters(model)
    return groups


def build_optimizers(model: Any, recipe: FinetuneRecipe, session: str) -> dict[str, ParameterGroup]:
    """Builds the optimizers of a fine-tune: one for the session's tables and, when the core is open, one for the core.

    A parameter that a step gives no gradient (the neuron biases under a mask that only decodes behavior) is skipped by
    that step altogether: neither its moments nor its weight decay act.

    Args:
        model: an `OmniMouseModel` holding `session`.
        recipe: rates of both sets.
        session: key of the session to train.

    Returns:
        {"session": group} or {"session": group, "core": group}.

    Raises:
        ValueError: when a parameter to be trained is not float32. In half precision most of AdamW's updates are smaller
            than the spacing of the numbers and would be lost. Also when the core is to be trained, but all of it
            is frozen.
    """
    recipes: Mapping[str, OptimizerRecipe | None] = {"session": recipe.session, "core": recipe.core}
    groups = {}
    for name, parameters in trained_parameters(model, recipe, session).items():
        optimizer_recipe = recipes[name]
        assert optimizer_recipe is not None and parameters
        groups[name] = build_group(optimizer_recipe, parameters)
    return groups


def build_group(recipe: OptimizerRecipe, parameters: Mapping[str, nn.Parameter]) -> ParameterGroup:
    """Builds AdamW over some parameters.

    Args:
        recipe: rates and clip.
        parameters: parameter name -> parameter, at least one.

    Raises:
        ValueError: when a parameter is not float32.
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
