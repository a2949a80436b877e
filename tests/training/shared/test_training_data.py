"""The data order: a pure function of seed and step, and what may go into a batch."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from omnimouse.model.masking.masks import TASKS, TRAINING_MASKS
from omnimouse.training.finetuning.preparation import validation_masks
from omnimouse.training.shared.data import (
    BatchPlan,
    batch_plan,
    choose_masks,
    cut_batch,
    needed_arrays,
    planned_batches,
    torch_seed,
    validation_neuron_ids,
)

NEEDS = [("responses",)] * 3
ARGUMENTS = {"n_windows": 10, "batch_size": 4, "mask_weights": [1.0, 2.0, 1.0], "n_neurons": 7, "max_population": 5}

PINNED = {"windows": [6, 4, 4, 7], "mask": 2, "neurons": [3, 6, 0, 5, 2], "torch": 1110416390233615422}


class Windows:
    """Windows whose responses hold their index; notes which thread cuts them."""

    missing_channels = ()

    def __init__(self, n_windows=10):
        self.starts = 100.0 + np.arange(n_windows) / 30
        self.data = {
            "responses": torch.arange(n_windows, dtype=torch.float32)[:, None, None].expand(-1, 60, 7).clone(),
            "video": torch.zeros(n_windows, 1, 60, 36, 64),
            "behavior": torch.zeros(n_windows, 5, 40),
        }
        self.threads = set()

    def __len__(self):
        return len(self.starts)

    def batch(self, indices, names=None):
        self.threads.add(threading.current_thread())
        return {name: self.data[name][indices] for name in names or self.data}


def equal(first, second):
    return (
        first.step == second.step
        and first.mask_index == second.mask_index
        and np.array_equal(first.window_indices, second.window_indices)
        and np.array_equal(first.neuron_ids, second.neuron_ids)
    )


def test_a_plan_depends_on_seed_and_step_alone():
    forwards = [batch_plan(3, step, **ARGUMENTS) for step in range(8)]
    backwards = [batch_plan(3, step, **ARGUMENTS) for step in reversed(range(8))][::-1]
    assert all(equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not equal(forwards[0], batch_plan(4, 0, **ARGUMENTS))


def test_the_stream_is_what_it_always_was():
    """A resumed run must see the data of the version that began it."""
    plan = batch_plan(0, 2, **ARGUMENTS)
    assert plan.window_indices.tolist() == PINNED["windows"]
    assert plan.mask_index == PINNED["mask"]
    assert plan.neuron_ids[0].tolist() == PINNED["neurons"]
    assert torch_seed(0, 2) == PINNED["torch"]


def test_every_epoch_visits_every_window_once():
    drawn = np.concatenate([batch_plan(0, step, **ARGUMENTS).window_indices for step in range(10)]).reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in drawn.tolist())
    assert len({tuple(epoch) for epoch in drawn.tolist()}) == 4


def test_a_batch_larger_than_the_epoch():
    plan = batch_plan(0, 0, **{**ARGUMENTS, "n_windows": 2, "batch_size": 5})
    assert np.bincount(plan.window_indices).min() >= 2


def test_masks_are_drawn_by_weight():
    drawn = [batch_plan(1, step, **ARGUMENTS).mask_index for step in range(2000)]
    shares = np.bincount(drawn, minlength=3) / 2000
    assert np.abs(shares - [0.25, 0.5, 0.25]).max() < 0.04
    never = [batch_plan(1, s, **{**ARGUMENTS, "mask_weights": [0.0, 1.0, 0.0]}).mask_index for s in range(50)]
    assert set(never) == {1}


def test_neurons_are_shuffled_per_window_and_cut():
    ids = batch_plan(0, 0, **ARGUMENTS).neuron_ids
    assert ids.shape == (4, 5) and ids.dtype == np.int64
    assert all(len(set(row)) == 5 and set(row) <= set(range(7)) for row in ids.tolist())
    assert len({tuple(row) for row in ids.tolist()}) == 4


def test_validation_neurons_do_not_depend_on_how_many_windows_follow():
    few, many = (validation_neuron_ids(0, count, n_neurons=7, max_population=5) for count in (2, 6))
    assert np.array_equal(few, many[:2])
    assert many.shape == (6, 5) and len({tuple(row) for row in many.tolist()}) == 6


def test_seeds_of_torch_are_valid_and_differ():
    seeds = {torch_seed(seed, step) for seed in range(5) for step in range(50)}
    assert len(seeds) == 250 and all(0 <= seed < 2**63 for seed in seeds)


def test_training_masks_by_default(model):
    choice = choose_masks(None, None, n_neurons=60, config=model.config)
    assert len(choice.masks) + len(choice.left_out) == len(TRAINING_MASKS) == 120
    assert len(choice.left_out) == 27
    assert choice.names[0] not in choice.left_out and set(choice.weights) == {1.0}
    assert choice.needs == ("responses", "video", "behavior")


def test_one_name_is_a_list_of_one(model):
    choice = choose_masks("forecasting", None, n_neurons=12, config=model.config)
    assert choice.names == ("forecasting",)
    assert validation_masks("stimulus", None, choice, model.config) == ({"stimulus": TASKS["stimulus"]}, True)


def test_chosen_masks_keep_names_and_weights(model):
    choice = choose_masks(["stimulus", TASKS["behavior"], "forecasting"], [1, 0, 3], n_neurons=60, config=model.config)
    assert choice.names == ("stimulus", "forecasting")
    assert choice.weights == (1.0, 3.0)
    assert not choice.left_out


@pytest.mark.parametrize(
    "task, needs",
    [
        ("forecasting+behavior", ("responses", "behavior")),
        ("stimulus+behavior", ("responses", "video", "behavior")),
        ("behavior", ("responses", "behavior")),
    ],
)
def test_needed_arrays(model, task, needs):
    assert needed_arrays([TASKS[task]], 60, model.config) == needs


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_come_in_order_with_their_windows(num_workers):
    windows = Windows()
    plans = [batch_plan(0, step, **ARGUMENTS) for step in range(6)]
    found = list(planned_batches(windows, iter(plans), needs=NEEDS, num_workers=num_workers))
    assert [plan for plan, _ in found] == plans
    for plan, batch in found:
        assert set(batch) == {"responses"}
        assert batch["responses"][:, 0, 0].tolist() == plan.window_indices.tolist()
    assert (threading.main_thread() in windows.threads) == (num_workers == 0)


def test_no_plans_no_batches():
    assert list(planned_batches(Windows(), [], needs=NEEDS, num_workers=1)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_without_a_loss_are_refused(value):
    windows = Windows()
    windows.data["behavior"][7, 2, 3] = value
    with pytest.raises(ValueError) as error:
        cut_batch(windows, [1, 7, 2], needs=("responses", "behavior"))
    for words in ("behavior of the window(s) starting at 100.233 s (indices [7])", "omnimouse check", "strict"):
        assert words in str(error.value)
    assert set(cut_batch(windows, [1, 7, 2], needs=("responses",))) == {"responses"}


def test_finite_values_whose_sum_is_not_finite_pass():
    windows = Windows()
    windows.data["responses"][3:5] = 3e38
    batch = cut_batch(windows, [3, 4], needs=("responses",))
    assert not torch.isfinite(batch["responses"].sum())


def test_an_error_in_the_worker_reaches_the_loop():
    windows = Windows()
    windows.data["video"][4] = np.nan
    plans = [BatchPlan(step, np.array([index]), 0, np.zeros((1, 1))) for step, index in enumerate([1, 4, 2])]
    stream = planned_batches(windows, plans, needs=[("video",)], num_workers=1)
    assert next(stream)[0].step == 0
    with pytest.raises(ValueError, match="video of the window"):
        next(stream)
