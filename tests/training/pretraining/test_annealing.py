"""Anneals: the formulas, and forks of a run."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from omnimouse import OmniMouseModel
from omnimouse.training import AnnealSchedule, anneal, train
from omnimouse.training.runs.run_folder import RunFolder


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_formulas(steps):
    for t in range(steps):
        x = (t + 1) / (steps + 1)
        assert AnnealSchedule(steps).factor(t) == pytest.approx(1 - math.sqrt(x))
        assert AnnealSchedule(steps, "power", 1.5).factor(t) == pytest.approx((1 - x) ** 1.5)
        expected = ((1 + 99 * x) ** -0.5 - 0.1) / 0.9
        assert AnnealSchedule(steps, "inverse-sqrt").factor(t) == pytest.approx(expected)


@pytest.mark.parametrize("shape", ["1-sqrt", "inverse-sqrt", "power"])
def test_every_shape_falls_from_near_one_to_near_zero(shape):
    factors = [AnnealSchedule(1000, shape, 2.0).factor(t) for t in range(1000)]
    assert all(one > two > 0 for one, two in itertools.pairwise(factors))
    assert factors[0] > 0.94 and factors[-1] < 1e-3


def test_what_cannot_be_meant_is_refused():
    for fields in ({"steps": 0}, {"shape": "cosine"}, {"power": 0.0}):
        with pytest.raises(ValueError, match=next(iter(fields))):
            AnnealSchedule(**fields)


@pytest.fixture(scope="module")
def trunk(small_recipe, tmp_path_factory):
    """A run of 6 steps with checkpoints at 2 (kept for good), 4 and 6."""
    outputs = {"checkpoint_every": 2, "keep_newest": 3, "keep_every": None, "log_every": 2, "trackers": []}
    folder = tmp_path_factory.mktemp("trunk") / "run"
    train(small_recipe(folder, outputs=outputs), progress=False)
    return folder


def test_forks_decay_and_leave_the_run_as_it_is(trunk):
    before = {path: path.read_bytes() for path in trunk.rglob("*") if path.is_file()}
    first, second = anneal(trunk, [2, 4], steps=3, shape="power", power=2.0, progress=False)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (first.steps, second.steps, first.resumed_from) == (5, 7, 2)
    assert second.output == trunk / "anneals" / "step-00000004-power-2-3"
    rates = [row["learning_rate"]["core"] for row in second.history]
    # Rows at steps 6 and 7, the second and third of three.
    assert rates == pytest.approx([7e-4 * (1 - 2 / 4) ** 2, 7e-4 * (1 - 3 / 4) ** 2])
    models = [
        OmniMouseModel.from_pretrained(path, sessions="all") for path in (trunk / "model", first.model, second.model)
    ]
    assert len({model.core_hash() for model in models}) == 3 and all(len(model.session_keys) == 5 for model in models)
    assert RunFolder(trunk).anneal_sources() == [2, 4]


def test_a_fork_is_continued_not_repeated(trunk):
    (one,) = anneal(trunk, 4, steps=2, progress=False)
    (two,) = anneal(trunk, 4, steps=2, progress=False)
    assert two.resumed_from == 6 and two.history == one.history
    states = [OmniMouseModel.from_pretrained(result.model, sessions="all").state_dict() for result in (one, two)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_fork_begins_in_the_warm_up_at_the_rate_it_has_there(trunk):
    (fork,) = anneal(trunk, 2, steps=2, shape="1-sqrt", progress=False)
    assert fork.history[-1]["learning_rate"]["session"] == pytest.approx(3e-3 * (1 - math.sqrt(2 / 3)))


def test_sources_stay_when_the_run_goes_on(trunk, small_recipe):
    anneal(trunk, 2, steps=1, progress=False)
    outputs = {"checkpoint_every": 1, "keep_newest": 1, "keep_every": None, "log_every": 2, "trackers": []}
    train(small_recipe(trunk, steps=8, outputs=outputs), progress=False)
    assert {2, 8} <= set(RunFolder(trunk).checkpoint_steps()) and 6 not in RunFolder(trunk).checkpoint_steps()


def test_steps_without_a_checkpoint_are_refused(trunk, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at step 3; it has 2"):
        anneal(trunk, [2, 3], steps=2)
    with pytest.raises(ValueError, match="cannot be read"):
        anneal(tmp_path, 2, steps=2)
    with pytest.raises(ValueError, match="at least one step"):
        anneal(trunk, [], steps=2)


def test_a_fork_is_no_output_for_a_run(trunk, small_recipe):
    (fork,) = anneal(trunk, 2, steps=1, progress=False)
    with pytest.raises(ValueError, match="is a fork of another run"):
        train(small_recipe(fork.output), progress=False)
