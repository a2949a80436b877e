"""What a fine-tune trains, and its optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe
from omnimouse.training.shared.optimizers import ParameterGroup, build_group

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork


def open_core_parameters(model: OmniMouseNetwork) -> dict[str, nn.Parameter]:
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


def build_optimizers(model: OmniMouseNetwork, recipe: FinetuneRecipe, session: str) -> dict[str, ParameterGroup]:
    """Builds one optimizer for the session's tables and, when the core is open, one for the core.

    The animal vector is among the session's parameters unless the recipe says otherwise.

    Returns:
        {"session": group} or {"session": group, "core": group}.

    Raises:
        ValueError: see `build_group`; or the core is to be trained, but all of it is frozen.
    """
    tables = dict(model.session_named_parameters(session))
    if recipe.train_animal is False:
        tables = {name: tensor for name, tensor in tables.items() if "animals" not in name.split(".")}
    groups = {"session": build_group(recipe.session, tables)}
    if recipe.core is not None:
        groups["core"] = build_group(recipe.core, open_core_parameters(model))
    return groups
