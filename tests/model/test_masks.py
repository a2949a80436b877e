"""Masks: the release's tables row by row, resolution, tasks, and what is refused."""

import csv
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np
import pytest

from omnimouse import EVALUATION_MASKS, TASKS, TRAINING_MASKS, Mask, OmniMouseConfig
from omnimouse.model.masking.mask_fitting import fit_masks
from omnimouse.model.masking.masks import as_mask, build_tasks

DATA = Path(__file__).parents[1] / "data" / "reference"
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
    usable, reasons = fit_masks(dict(enumerate(TRAINING_MASKS)), min(neurons, CONFIG.max_population), CONFIG)
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


@pytest.mark.parametrize(
    ("start", "frames", "steps"),
    [
        (0, 60, (0, 30)),
        (30, 30, (15, 30)),
        (31, 10, (15, 20)),
        (10, 21, (5, 15)),
        (58, 2, (29, 30)),
        (0, 59, (0, 29)),
        (1, 59, (0, 30)),
    ],
)
def test_video_steps_are_whole_pairs_of_visible_frames(start, frames, steps):
    # `max(0, 2 + floor((frame + p - k) / c))` with kernel 6, padding 2, stride 2.
    resolved = mask(frames_start=start, n_frames=frames).resolve(40, CONFIG)
    assert resolved.video_steps == steps
    assert frames == 60 or steps == tuple(max(0, 2 + (f + 2 - 6) // 2) for f in (start, start + frames))


def test_targets_are_all_that_no_visible_activity_can_give_away():
    """Sample by sample: a neuron is predicted from the guard after its own last visible sample on, and not before."""
    rng = np.random.default_rng(0)
    samples, found = np.arange(60)[:, None], 0
    while found < 1500:
        neurons, visible, targets = rng.integers(1, 7, 3)
        full, rest, start = rng.choice([0, 0, 10, 15]), rng.choice([0, 10, 20]), rng.choice([0, 0, 10, 25])
        prefix = max(10, full + (rest if visible < neurons else 0))
        at, end = np.sort(rng.choice(np.arange(5, 61, 5), 2, replace=False))
        if start + prefix > 60:
            continue
        found += 1
        candidate = mask(
            n_visible_neurons=visible, prefix_start=start, prefix_length=prefix, full_population_prefix_length=full,
            n_target_neurons=targets, target_start=at, target_length=end - at,
        )  # fmt: skip
        neuron = np.arange(neurons)
        stop = start + np.where(neuron < visible, prefix, full)
        shown = (samples >= start) & (samples < stop)
        guarded = (stop > start) & (samples < stop + CONFIG.guard_samples)
        predicted = (samples >= at) & (samples < end) & (neuron >= neurons - targets) & ~guarded
        if not predicted.any():
            with pytest.raises(ValueError, match="Nothing to predict"):
                candidate.resolve(neurons, CONFIG)
            continue
        resolved = candidate.resolve(neurons, CONFIG)
        seen = np.zeros((60, neurons), dtype=int)
        for piece in resolved.segments:
            seen[piece.start : piece.stop, piece.first : piece.last] += 1
        first = max(neurons - targets, 0)
        assert (seen == shown).all() and (resolved.target_mask == predicted[at:end, first:]).all(), candidate


def test_a_task_predicts_nothing_within_the_guard_after_what_it_shows():
    for name, task in TASKS.items():
        resolved = task.resolve(40, CONFIG)
        last = {"forecasting": 25, "population": 60}.get(name.split("+")[0])
        for piece in resolved.targets:
            assert all(piece.first >= shown.last or piece.start >= shown.stop + 5 for shown in resolved.segments)
        assert {piece.stop for piece in resolved.segments} <= {last, 60}
        assert resolved.targets == () or {piece.start for piece in resolved.targets} == {30}


def test_targets_beyond_the_visible_neurons_are_one_piece():
    # Cut where the guard ends, at sample 17, the pieces would be no multiple of 5.
    resolved = mask(prefix_start=2, prefix_length=10, n_target_neurons=32, target_start=15, target_length=45)
    assert [(p.first, p.start, p.stop) for p in resolved.resolve(40, CONFIG).targets] == [(8, 15, 60)]


@pytest.mark.parametrize(
    ("count", "neurons", "expected"),
    [(0.25, 15, 4), (0.25, 9, 2), (0.75, 15, 11), (0.1, 7, 1), (0.99, 40, 40), (0.999, 1, 1), (7, 7, 7), (8, 7, 7)],
)
def test_fractions_of_neurons_are_rounded_to_the_nearest(count, neurons, expected):
    resolved = mask(n_visible_neurons=count, n_target_neurons=count, behavior="decoded").resolve(neurons, CONFIG)
    assert (resolved.n_visible, resolved.n_target) == (expected, expected)


@pytest.mark.parametrize(
    ("start", "length", "steps"),
    [(0, 60, range(6)), (10, 20, (1, 2)), (9, 21, (1, 2)), (11, 20, (2, 3)), (10, 21, (1, 2, 3)), (50, 10, (5,)),
     (51, 9, ()), (10, 0, ()), (0, 1, (0,))],
)  # fmt: skip
def test_latents_take_part_when_they_start_inside_the_context(start, length, steps):
    assert mask(context_start=start, context_length=length).resolve(70, CONFIG).latent_steps == tuple(steps)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_start": 5, "target_length": 55},
        {"prefix_start": 50, "prefix_length": 10},
        {"prefix_length": 10, "full_population_prefix_length": 10},
        {"context_start": 60, "context_length": 0},
        {"frames_start": 58, "n_frames": 2},
        {"prefix_start": 0, "prefix_length": 10},
    ],
)
def test_what_just_fits_a_window_is_accepted(changes):
    assert mask(**changes).resolve(70, CONFIG).targets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix_start": 51, "prefix_length": 10}, "prefix ends at 61"),
        ({"context_start": 1}, "context ends at 61"),
        ({"target_start": 31}, "target ends at 61"),
        ({"frames_start": 1, "n_frames": 60}, "video ends at 61"),
        ({"target_start": 4, "target_length": 55}, "may not begin before 5"),
        ({"prefix_length": 5}, "segment of 5 samples cannot be tokenised"),
        ({"prefix_length": 15, "full_population_prefix_length": 10}, "segment of 5 samples cannot be tokenised"),
    ],
)
def test_what_just_does_not_fit_a_window_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mask(**changes).resolve(70, CONFIG)


def test_a_mask_is_written_as_the_short_call_that_makes_it():
    for each in (*TRAINING_MASKS, *TASKS.values(), mask(n_visible_neurons=0.25)):
        assert eval(repr(each)) == each and str(each) == repr(each) and len(repr(each)) < 300
    assert repr(TASKS["stimulus"]) == (
        "Mask(n_visible_neurons=0, prefix_start=0, prefix_length=0, context_start=0, context_length=0, "
        "n_target_neurons=None, target_start=30, target_length=30, n_frames=60, behavior='decoded')"
    )


def test_all_but_the_first_three_fields_are_named():
    with pytest.raises(TypeError, match="positional"):
        Mask(8, 0, 60, 0, 0, 60, None, 30, 30, 0, 0, "encoded")


def test_a_population_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least one neuron, got 0"):
        mask().resolve(0, CONFIG)


def test_tasks_for_another_window():
    config = OmniMouseConfig(num_response_samples=120, num_frames=120, num_behavior_samples=80)
    tasks = build_tasks(config)
    assert list(tasks) == list(TASKS)
    assert tasks["forecasting"].prefix_length == 55 and tasks["forecasting"].target_start == 60
    for task in tasks.values():
        task.resolve(100, config)
    # Tokens of 8 samples every 5 do not tile a window of 60; the shortest window holds one token, a guard and a token.
    for odd in ({"response_token_window": 8}, {"num_response_samples": 27, "num_frames": 27, "latent_window": 9,
                                               "num_behavior_samples": 18}):  # fmt: skip
        config = OmniMouseConfig(**odd)
        for name, task in build_tasks(config).items():
            resolved = task.resolve(100, config)
            if name.startswith("population"):  # what is shown ends with the window, like what is predicted
                assert resolved.segments[0].stop == resolved.targets[0].stop == config.num_response_samples
                # Latents take part from where the target begins, although what is shown may begin later.
                assert (task.context_start, task.context_length) == (task.target_start, task.target_length)
    for short in ({"num_response_samples": 24, "num_frames": 24, "num_behavior_samples": 16, "latent_window": 8},
                  {"skip_samples": 31}):  # fmt: skip
        with pytest.raises(ValueError, match="too short"):
            build_tasks(OmniMouseConfig(**short))
    with pytest.raises(ValueError, match="too short"):
        build_tasks(OmniMouseConfig(num_response_samples=15, num_frames=15, num_behavior_samples=10, latent_window=5))
