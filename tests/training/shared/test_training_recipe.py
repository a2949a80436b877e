"""Recipes: schedules, optimizers, refusals."""

from __future__ import annotations

import math

import pytest
import torch

from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe, whole_recipe
from omnimouse.training.finetuning.parameters import build_optimizers
from omnimouse.training.shared.recipe import (
    PUBLISHED_CORE_OPTIMIZER,
    PUBLISHED_SESSION_OPTIMIZER,
    OptimizerRecipe,
    ScheduleRecipe,
)


def test_warm_up_is_linear_then_constant():
    schedule = ScheduleRecipe(warmup_steps=4)
    rates = [schedule.learning_rate(1e-3, step, 10) for step in range(10)]
    assert rates[0] == 1e-7
    assert rates[:5] == pytest.approx([1e-7 + (1e-3 - 1e-7) * step / 4 for step in range(5)])
    assert rates[4:] == [1e-3] * 6


def test_decay_falls_to_near_zero_over_the_last_steps():
    schedule = ScheduleRecipe(decay_steps=5)
    rates = [schedule.learning_rate(2.0, step, 12) for step in range(12)]
    assert rates[:7] == [2.0] * 7
    assert rates[7:] == pytest.approx([2 * (1 - math.sqrt(t / 6)) for t in range(1, 6)])
    assert 0 < rates[-1] < 0.1 * 2.0


def test_warm_up_never_starts_above_the_peak():
    assert ScheduleRecipe(warmup_steps=2).learning_rate(1e-9, 0, 5) == 1e-9


@pytest.fixture
def trained(model):
    model.add_session("a", n_neurons=3, animal_id="mouse")
    model.add_session("b", n_neurons=4, animal_id="other")
    return model


def test_each_set_has_its_own_optimizer(trained):
    groups = build_optimizers(trained, FinetuneRecipe(steps=1, train_core=True, core_learning_rate=7e-4), "a")
    assert set(groups) == {"session", "core"}
    session, core = groups["session"], groups["core"]
    assert sorted(parameter.numel() for parameter in session.parameters.values()) == [3, 8, 8, 24]
    assert dict(core.parameters) == dict(trained.core_named_parameters())
    for group, recipe in ((session, PUBLISHED_SESSION_OPTIMIZER), (core, PUBLISHED_CORE_OPTIMIZER)):
        (settings,) = group.optimizer.param_groups
        assert [id(p) for p in settings["params"]] == [id(p) for p in group.parameters.values()]
        assert (settings["lr"], settings["weight_decay"]) == (recipe.learning_rate, recipe.weight_decay)
        assert (settings["betas"], settings["eps"]) == ((0.9, 0.98), 1e-6)


def test_a_frozen_core_and_animal_are_in_no_optimizer(trained):
    groups = build_optimizers(trained, FinetuneRecipe(steps=1, train_animal=False), "b")
    assert set(groups) == {"session"}
    assert sorted(parameter.numel() for parameter in groups["session"].parameters.values()) == [4, 8, 32]


def test_half_precision_parameters_are_refused(trained):
    trained.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"is torch\.bfloat16; training needs torch\.float32.*dtype=torch\.float32"):
        build_optimizers(trained, FinetuneRecipe(steps=1), "a")


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: OptimizerRecipe(0.0, 0.1), "learning_rate is 0.0"),
        (lambda: OptimizerRecipe(math.nan, 0.1), "learning_rate is nan"),
        (lambda: OptimizerRecipe(1e-3, -0.1), "weight_decay is -0.1"),
        (lambda: OptimizerRecipe(1e-3, 0.1, betas=(0.9, 1.0)), "betas"),
        (lambda: OptimizerRecipe(1e-3, 0.1, max_grad_norm=0), "max_grad_norm is 0"),
        (lambda: ScheduleRecipe(warmup_steps=-1), "warmup_steps is -1"),
        (lambda: ScheduleRecipe(decay_steps=1.5), "decay_steps is 1.5"),
        (lambda: FinetuneRecipe(steps=True), "steps is True"),
        (lambda: FinetuneRecipe(steps=1, seed=-1), "seed is -1"),
        (lambda: FinetuneRecipe(train_core="yes"), "train_core is 'yes'; expected True or False"),
        (lambda: FinetuneRecipe(include_blanks=None), "include_blanks is None"),
        (lambda: FinetuneRecipe(steps=1, mixed_precision="fp16"), "mixed_precision is 'fp16'"),
        (lambda: FinetuneRecipe(steps=3, warmup_steps=2, decay_steps=2), "2 warm-up and 2 decay steps"),
    ],
)
def test_refusals(build, words):
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        build()


@pytest.mark.parametrize(("asked", "kept"), [("float32", "no"), ("bfloat16", "bf16"), ("auto", "auto"), ("no", "no")])
def test_precision_goes_by_either_name_and_runs_by_one(asked, kept):
    recipe = FinetuneRecipe(mixed_precision=asked)
    assert recipe.mixed_precision == kept and recipe.identity()["recipe.mixed_precision"] == kept


def test_what_is_no_recipe_is_refused_by_its_name():
    assert FinetuneRecipe(train_core=1).train_core is True
    for recipe in (3, {"steps": 3}, "recipe.yaml"):
        with pytest.raises(TypeError, match=r"expected a FinetuneRecipe\. Give single numbers by name"):
            whole_recipe(recipe, {})
