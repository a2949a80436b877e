"""Recipes of pre-trainings: round trip, unknown and missing fields, types, overrides."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from omnimouse.model.masking.masks import EVALUATION_MASKS, Mask
from omnimouse.support.validation import to_mapping
from omnimouse.training.pretraining.pretraining_recipe import VALIDATION_MASKS, PretrainingRecipe, load_recipe

SMALLEST = {"output": "runs/a", "recordings": {"paths": ["data/*"]}}


def test_the_smallest_recipe_is_that_of_the_release():
    recipe = load_recipe(SMALLEST)
    assert recipe.batch_size == 8 and recipe.schedule.warmup_steps == 20_000 and recipe.schedule.decay_steps == 0
    assert recipe.schedule.initial_learning_rate == 1e-7 and recipe.masks.names is None
    core, session = recipe.optimizer.core, recipe.optimizer.session
    assert (core.learning_rate, core.weight_decay, session.learning_rate, session.weight_decay) == (
        7e-4,
        0.1,
        3e-3,
        1e-3,
    )
    assert core.betas == (0.9, 0.98) and core.eps == 1e-6 and core.max_grad_norm == session.max_grad_norm == 1.0
    assert recipe.evaluation.masks == VALIDATION_MASKS and len(VALIDATION_MASKS) == 8


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"steps": 30, "schedule": {"warmup_steps": 3, "decay_steps": 4}, "mixed_precision": "bf16", "cpu": True},
        {"masks": {"names": ["stimulus", "validation/stimulus_driven"], "weights": [1, 2.5]}},
        {"model": {"preset": "tiny", "overrides": {"hidden_size": 32, "video_depths": [1, 1]}}},
        {"recordings": {"paths": ["a", "b/*"], "weights": {"a-*": 2}}, "evaluation": {"every": None}},
        {"recordings": {"paths": ["a"], "collections": ["scaling_laws_8", "validation_5"], "allow_missing": True}},
        {"outputs": {"trackers": ["tensorboard"], "keep_every": None}},
    ],
)
def test_round_trip(fields, tmp_path):
    recipe = load_recipe({**SMALLEST, **fields})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe == load_recipe(recipe)
    # Every field is written out.
    assert yaml.safe_load(path.read_text()).keys() == {field.name for field in dataclasses.fields(PretrainingRecipe)}


def test_masks_may_be_written_out():
    mask = EVALUATION_MASKS["validation"]["video_behavior"]
    recipe = load_recipe({**SMALLEST, "masks": {"names": ["stimulus", to_mapping(mask)]}})
    assert recipe.masks.names == ("stimulus", mask) and isinstance(recipe.masks.names[1], Mask)
    assert load_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    "values, words",
    [
        ({**SMALLEST, "step": 3}, r"recipe has no field step; it has output, recordings, steps"),
        ({**SMALLEST, "optimizer": {"core": {"lr": 1}}}, r"optimizer\.core has no field lr; it has learning_rate"),
        ({"output": "a"}, "lacks recordings"),
        ({**SMALLEST, "steps": "many"}, r"steps is 'many'; expected a whole number"),
        ({**SMALLEST, "steps": 1.5}, "steps is 1.5"),
        ({**SMALLEST, "cpu": "yes"}, "cpu is 'yes'; expected true or false"),
        ({**SMALLEST, "steps": 0}, "steps is 0; expected a whole number, 1 or more"),
        ({**SMALLEST, "mixed_precision": "fp16"}, "expected one of 'auto', 'float32', 'bfloat16', 'no', 'bf16'"),
        ({**SMALLEST, "model": {"preset": "9b"}}, "preset is '9b'; expected one of tiny"),
        ({**SMALLEST, "recordings": {"paths": "data"}}, "expected a list"),
        ({**SMALLEST, "recordings": {"paths": ["a"], "weights": {"x": 0.5}}}, r"weights\.x"),
        (
            {**SMALLEST, "recordings": {"paths": ["a"], "collections": ["scaling_law_8"]}},
            r"RecordingsRecipe\.collections: There is no collection 'scaling_law_8' .*mean scaling_laws_8\?",
        ),
        ({**SMALLEST, "recordings": 3}, "expected fields of their own, some of paths"),
        ({**SMALLEST, "steps": 10}, "20000 warm-up and 0 decay steps"),
        ({**SMALLEST, "outputs": {"keep_every": 30, "checkpoint_every": 20}}, "no multiple"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        load_recipe(values)


def test_numbers_that_yaml_takes_for_text_are_numbers():
    recipe = load_recipe(SMALLEST, ["optimizer.core.learning_rate=1e-3", "steps=3e4", "mixed_precision=no"])
    assert recipe.optimizer.core.learning_rate == 1e-3 and recipe.steps == 30_000 and recipe.mixed_precision == "no"
    assert isinstance(recipe.steps, int)
    assert load_recipe(SMALLEST, ["mixed_precision=float32"]) == load_recipe(SMALLEST, ["mixed_precision=no"])


def test_a_section_keeps_its_own_defaults():
    recipe = load_recipe({**SMALLEST, "optimizer": {"core": {"eps": 1e-8}}, "schedule": {"decay_steps": 10}})
    assert recipe.optimizer.core.weight_decay == 0.1 and recipe.optimizer.core.eps == 1e-8
    assert recipe.optimizer.session.weight_decay == 1e-3 and recipe.schedule.warmup_steps == 20_000


def test_every_field_can_be_overridden():
    """Each leaf of the resolved recipe, set to the value it has, gives the same recipe."""
    recipe = load_recipe({**SMALLEST, "steps": 30_000})

    def leaves(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict) and value:
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}={yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10))}"

    for assignment in leaves(to_mapping(recipe)):
        assert load_recipe(recipe, [assignment]) == recipe, assignment
    changed = load_recipe(
        recipe, ["recordings.paths=[x, y/*]", "evaluation.every=null", "model.overrides.hidden_size=64"]
    )
    assert changed.recordings.paths == ("x", "y/*") and changed.evaluation.every is None
    assert changed.model.overrides == {"hidden_size": 64}


@pytest.mark.parametrize(
    "assignment, words",
    [
        ("steps", "sets nothing"),
        ("=3", "sets nothing"),
        ("steps.more=3", "has no fields to set"),
        ("optimizer.heart.eps=1", "has no field heart"),
        ("steps=[", "not YAML"),
    ],
)
def test_overrides_that_set_nothing_are_refused(assignment, words):
    with pytest.raises(ValueError, match=words):
        load_recipe({**SMALLEST, "steps": 30_000}, [assignment])


def test_files_that_are_no_recipes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match="should hold fields"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        load_recipe(tmp_path / "bad.yaml")
