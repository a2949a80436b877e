"""Who owns which session, and what is drawn at which step: pure functions, balanced."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnimouse.training.pretraining.corpus_order import assign_sessions, corpus_plan, mask_at, session_at, step_seed
from omnimouse.training.shared.data import ahead

POPULATIONS = st.dictionaries(st.text("abcdef-123", min_size=1, max_size=6), st.integers(1, 10_000), max_size=40)


@given(POPULATIONS, st.integers(1, 12))
def test_sessions_are_shared_out_evenly(n_neurons, n_processes):
    owned = assign_sessions(n_neurons, n_processes)
    assert sorted(key for keys in owned for key in keys) == sorted(n_neurons)
    counts = [len(keys) for keys in owned]
    assert len(owned) == n_processes and max(counts) - min(counts) <= 1
    loads = [sum(n_neurons[key] for key in keys) for keys in owned]
    assert max(loads) - min(loads) <= max(n_neurons.values(), default=0)
    assert owned == assign_sessions(dict(reversed(n_neurons.items())), n_processes)


def test_no_process_is_refused():
    with pytest.raises(ValueError, match="n_processes is 0"):
        assign_sessions({"a": 3}, 0)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3), min_size=1), st.integers(0, 5), st.integers(0, 3))
def test_every_round_visits_every_session_as_often_as_its_weight_says(visits, seed, process):
    length = sum(visits.values())
    drawn = [session_at(seed, step, process, visits) for step in range(3 * length)]
    for turn in range(3):
        assert Counter(key for key, _ in drawn[turn * length : (turn + 1) * length]) == Counter(visits)
    for key in visits:
        assert [visit for name, visit in drawn if name == key] == list(range(3 * visits[key]))


def test_rounds_differ_and_processes_do_not_go_in_step():
    visits = dict.fromkeys("abcdefgh", 1)
    orders = {tuple(session_at(0, 8 * turn + i, p, visits)[0] for i in range(8)) for turn in range(3) for p in range(3)}
    assert len(orders) == 9


def plan(seed=0, step=0, process=0, session="a", visit=0, **changes):
    options = {
        "n_windows": 10, "batch_size": 4, "mask_weights": [1.0, 2.0, 1.0], "usable_masks": {0, 2}, "n_neurons": 20,
        "max_population": 12, **changes,
    }  # fmt: skip
    return corpus_plan(seed, step, process, session=session, visit=visit, **options)


def test_a_plan_is_a_pure_function():
    one, two = plan(seed=4, step=7, process=2), plan(seed=4, step=7, process=2)
    assert (one.window_indices == two.window_indices).all() and (one.neuron_ids == two.neuron_ids).all()
    assert one.mask_index == two.mask_index
    assert one.neuron_ids.shape == (4, 12) and all(len(set(row)) == 12 for row in one.neuron_ids.tolist())
    others = [plan(seed=5, step=7, process=2), plan(seed=4, step=8, process=2), plan(seed=4, step=7, process=1)]
    assert all((one.neuron_ids != other.neuron_ids).any() for other in others)
    assert len({step_seed(*key) for key in ((4, 7, 2), (5, 7, 2), (4, 8, 2), (4, 7, 1))}) == 4


def test_windows_belong_to_the_visit_and_not_to_the_process():
    one, two = plan(step=7, process=2, visit=3), plan(step=9, process=0, visit=3)
    assert (one.window_indices == two.window_indices).all()
    assert (plan(session="b", visit=3).window_indices != one.window_indices).any()
    epoch = np.concatenate([plan(visit=visit).window_indices for visit in range(5)])
    assert Counter(epoch.tolist()) == dict.fromkeys(range(10), 2)


def test_masks_are_equal_for_all_sessions_that_can_serve_them():
    weights = [1.0] * 20
    everything, some = set(range(20)), set(range(0, 20, 3))
    for step in range(200):
        index = mask_at(1, step, weights, everything)
        assert mask_at(1, step, weights, some) in some
        if index in some:
            assert mask_at(1, step, weights, some) == index


def test_masks_are_drawn_by_weight_among_those_that_can_be_served():
    weights = [0.0, 3.0, 50.0, 1.0]
    drawn = Counter(mask_at(0, step, weights, {0, 1, 3}) for step in range(4000))
    assert set(drawn) == {1, 3} and drawn[1] / 4000 == pytest.approx(0.75, abs=0.03)
    # Far too rare to come up by itself.
    assert mask_at(0, 0, [1e9, 1.0], {1}) == 1


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_reading_ahead_keeps_the_order_and_is_bounded(workers):
    taken = []

    def items():
        for item in range(50):
            taken.append(item)
            yield item

    stream = ahead(lambda item: item * item, items(), workers=workers)
    assert next(stream) == 0 and len(taken) <= workers + 1
    assert list(stream) == [item * item for item in range(1, 50)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_goes_wrong_ahead_is_raised_in_its_place(workers):
    def work(item):
        if item == 2:
            raise ValueError("two")
        return item

    stream = ahead(work, iter(range(5)), workers=workers)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(stream)
