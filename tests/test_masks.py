"""Masks: the release's tables row by row, resolution, tasks, and what is refused."""

import csv
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnimouse import EVALUATION_MASKS, TASKS, TRAINING_MASKS, Mask, OmniMouseConfig
from omnimouse.masks import as_mask, build_tasks, usable_masks

DATA = Path(__file__).parent / "data" / "reference"
NAMES = [field.name for field in fields(Mask)]
CONFIG = OmniMouseConfig()


def table(name):
    with (DATA / name).open() as file:
        return list(csv.DictReader(file))


def values(row):
    return tuple(row[n] if n == "behavior" else None if row[n] == "all" else int(row[n]) for n in NAMES)


def mask(**changes):
    base = dict(zip(NAMES, (8, 0, 60, 0, 0, 60, None, 30, 30, 0, 0, "encoded"), strict=True))
    return Mask(**{**base, **changes})


def test_training_masks_equal_the_table():
    assert [astuple(m) for m in TRAINING_MASKS] == [values(row) for row in table("training_masks.csv")]


def test_evaluation_masks_equal_the_table():
    rows = table("evaluation_masks.csv")
    found = {(suite, name): astuple(m) for suite, masks in EVALUATION_MASKS.items() for name, m in masks.items()}
    assert found == {(row["suite"], row["name"]): values(row) for row in rows}
    assert len(found) == 53


@pytest.mark.parametrize(("neurons", "left_out"), [(8000, 0), (4096, 0), (800, 9), (60, 27)])
def test_small_populations_leave_out_masks_they_cannot_serve(neurons, left_out):
    usable, reasons = usable_masks(TRAINING_MASKS, neurons, CONFIG)
    assert len(reasons) == left_out and len(usable) == 120 - left_out
    assert all("Nothing to predict" in reason for reason in reasons.values())


@pytest.mark.parametrize("neurons", [4, 60, 192, 4096, 9000])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_serves_every_population(task, neurons):
    resolved = TASKS[task].resolve(neurons, CONFIG)
    assert resolved.predicts_responses == (not task.startswith("behavior"))
    assert resolved.decodes_behavior == ("behavior" not in task[1:])
    assert resolved.shows_video == ("stimulus" in task)


def test_tasks_agree_with_the_release():
    test = EVALUATION_MASKS["test"]
    assert TASKS["forecasting"] == test["causal_response_25"]
    assert TASKS["forecasting+stimulus"] == test["causal_response_25_video"]
    assert TASKS["stimulus+behavior"] == test["video_behavior"]
    assert TASKS["stimulus"] == test["video_only"]
    assert TASKS["behavior+stimulus"] == test["all_response_video"]
    ours = TASKS["population+behavior"].resolve(4096, CONFIG)
    theirs = test["population_1024_response_behavior"].resolve(4096, CONFIG)
    assert (ours.segments, ours.targets) == (theirs.segments, theirs.targets)


def test_names_are_looked_up_and_unknown_ones_listed():
    assert as_mask("test/video_only") == EVALUATION_MASKS["test"]["video_only"]
    with pytest.raises(ValueError, match="Known tasks: forecasting, forecasting\\+stimulus"):
        as_mask("forecast")
    with pytest.raises(ValueError, match="It has: video_behavior"):
        as_mask("test/nothing")


def test_counts_accept_all_none_and_fractions():
    assert mask(n_visible_neurons="all") == mask(n_visible_neurons=None)
    assert mask(n_visible_neurons=0.25).resolve(100, CONFIG).n_visible == 25
    assert mask(n_visible_neurons=0.001).resolve(100, CONFIG).n_visible == 1
    assert mask(n_target_neurons=4096).resolve(100, CONFIG).n_target == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_visible_neurons": -1}, "n_visible_neurons must be"),
        ({"n_visible_neurons": 1.5}, "fraction between 0 and 1"),
        ({"n_visible_neurons": "half"}, "or 'all'"),
        ({"n_visible_neurons": 0}, "either both are 0"),
        ({"prefix_length": 0}, "either both are 0"),
        ({"full_population_prefix_length": 61}, "longer than prefix_length"),
        ({"behavior": "hidden"}, "'encoded', 'decoded' or 'absent'"),
        ({"target_start": 2.5}, "whole number"),
        ({"target_length": 0}, "no responses predicted"),
    ],
)
def test_contradictory_masks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mask(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix_start": 10}, "prefix ends at 70 but the window has 60"),
        ({"prefix_length": 12}, "cannot be tokenised \\(allowed: 10, 15, 20, 25"),
        ({"target_start": 30, "target_length": 28}, "no multiple of 5"),
        ({"target_start": 0, "target_length": 60}, "may not begin before 5"),
        ({"frames_start": 58, "n_frames": 1}, "hold no whole step"),
        ({"frames_start": 10, "n_frames": 60}, "video ends at 70"),
        ({"n_visible_neurons": None}, "Nothing to predict.*60 visible.*Show fewer neurons"),
    ],
)
def test_masks_that_fit_no_window_say_what_to_change(changes, message):
    with pytest.raises(ValueError, match=message):
        mask(**changes).resolve(60, CONFIG)


def test_two_piece_targets():
    # Neurons that are visible early are predicted only after the guard; the others over the whole target.
    resolved = mask(prefix_length=35, target_start=20, target_length=40).resolve(40, CONFIG)
    assert [(p.first, p.last, p.start, p.stop) for p in resolved.targets] == [(8, 40, 20, 40), (0, 40, 40, 60)]
    assert resolved.target_mask.shape == (40, 40)
    assert not resolved.target_mask[:20, :8].any() and resolved.target_mask[20:].all()
    assert resolved.target_mask[:, 8:].all()


def test_full_prefix_with_everyone_visible_is_one_segment():
    resolved = mask(n_visible_neurons=64, prefix_length=25, full_population_prefix_length=10).resolve(40, CONFIG)
    assert [(p.first, p.last, p.start, p.stop) for p in resolved.segments] == [(0, 40, 0, 25)]
    assert [(p.first, p.start, p.stop) for p in resolved.targets] == [(0, 30, 60)]


def test_last_visible_sample():
    assert TASKS["forecasting"].resolve(50, CONFIG).last_visible_sample == 24
    assert TASKS["population"].resolve(50, CONFIG).last_visible_sample is None
    inverse = EVALUATION_MASKS["validation"]["inverse_population_causal_response_video_behavior"]
    assert inverse.resolve(4096, CONFIG).last_visible_sample == 24


@pytest.mark.parametrize(
    ("start", "frames", "steps"),
    [(0, 60, (0, 30)), (30, 30, (15, 30)), (31, 10, (15, 20)), (10, 21, (5, 15)), (58, 2, (29, 30))],
)
def test_video_steps_are_whole_pairs_of_visible_frames(start, frames, steps):
    # `max(0, 2 + floor((frame + p - k) / c))` with kernel 6, padding 2, stride 2.
    resolved = mask(frames_start=start, n_frames=frames).resolve(40, CONFIG)
    assert resolved.video_steps == steps
    assert frames == 60 or steps == tuple(max(0, 2 + (f + 2 - 6) // 2) for f in (start, start + frames))


@given(
    st.integers(1, 200), st.integers(1, 200), st.sampled_from([10, 15, 25, 40, 60]), st.sampled_from([0, 10, 15]),
    st.sampled_from([5, 10, 30, 45]),
)  # fmt: skip
def test_no_neuron_is_predicted_where_it_could_be_interpolated(neurons, visible, prefix, full, target):
    candidate = mask(
        n_visible_neurons=visible, prefix_length=prefix, full_population_prefix_length=min(full, prefix),
        target_start=target, target_length=60 - target,
    )  # fmt: skip
    try:
        resolved = candidate.resolve(neurons, CONFIG)
    except ValueError:
        return
    seen = np.zeros((60 + CONFIG.guard_samples, neurons), dtype=bool)
    for piece in resolved.segments:
        seen[piece.start : piece.stop, piece.first : piece.last] = True
    for piece in resolved.targets:
        for sample in range(piece.start, piece.stop):
            window = seen[max(0, sample - CONFIG.guard_samples + 1) : sample + 1, piece.first : piece.last]
            assert not window.any()


def test_tasks_for_another_window():
    config = OmniMouseConfig(num_response_samples=120, num_frames=120, num_behavior_samples=80)
    tasks = build_tasks(config)
    assert list(tasks) == list(TASKS)
    assert tasks["forecasting"].prefix_length == 55 and tasks["forecasting"].target_start == 60
    for task in tasks.values():
        task.resolve(100, config)
    with pytest.raises(ValueError, match="too short"):
        build_tasks(OmniMouseConfig(num_response_samples=15, num_frames=15, num_behavior_samples=10, latent_window=5))
