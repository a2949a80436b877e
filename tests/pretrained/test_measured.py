"""Measured scores: taken from evaluations, stored, joined, and dropped when the weights are others."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.evaluation.scores import Baseline, Ceiling, Scores, TaskScore
from omnimouse.pretrained.measured import (
    RESPONSE_METRIC,
    SCORES_FILE,
    MeasuredScore,
    behavior_metric,
    measured_scores,
    merge_scores,
    read_scores,
    still_true,
    write_scores,
)
from omnimouse.support.tensor_files import hash_tensors

CORE, SESSION = "c" * 64, "5" * 64


def some_scores(**changes) -> Scores:
    per_neuron = np.array([0.5, 0.1])
    tasks = {
        "forecasting": TaskScore(
            "forecasting",
            9,
            score=0.3,
            per_neuron=per_neuron,
            baselines={"training_mean": Baseline(0.0), "last_visible_value": Baseline(0.2, per_neuron)},
            ceilings={"given_everything": Ceiling(0.8, 0.8, per_neuron)},
            ceiling_name="given_everything",
            n_behavior_windows=7,
            behavior_groups={"running": 0.9, "gaze": math.nan},
        ),
        "behavior": TaskScore("behavior", 9, n_behavior_windows=8, behavior_groups={"pupil": 0.4}),
        "mine": TaskScore("mine", 9, score=0.99, per_neuron=per_neuron),
    }
    settings = {"stride": 30, "include_blanks": True, "max_windows": None, "profile": "strict", "own_masks": ["mine"]}
    scores = Scores("1-2-3", "final_test", 2, tasks, {}, settings, core_sha256=CORE, session_sha256=SESSION)
    return replace(scores, **changes)


def one(**changes) -> MeasuredScore:
    return replace(measured_scores(some_scores())[0], **changes)


def test_one_entry_per_defined_number():
    found = measured_scores(some_scores())
    assert [(score.task, score.metric, score.value, score.n_windows) for score in found] == [
        ("forecasting", RESPONSE_METRIC, 0.3, 9),
        ("forecasting", behavior_metric("running"), 0.9, 7),
        ("behavior", behavior_metric("pupil"), 0.4, 8),
    ]
    first = found[0]
    assert (first.last_value, first.ceiling, first.simulated) == (0.2, 0.8, True)
    assert (first.core_sha256, first.session_sha256, first.n_neurons) == (CORE, SESSION, 2)
    assert (first.stride, first.include_blanks, first.max_windows, first.profile) == (30, True, None, "strict")


def test_scores_of_unknown_weights_are_refused():
    with pytest.raises(ValueError, match=r"do not say which weights.*omnimouse\.evaluate"):
        measured_scores(some_scores(core_sha256=None))


def test_whether_a_mouse_is_simulated_is_unknown_where_nothing_tells():
    scores = some_scores()
    alone = replace(scores, tasks={"behavior": scores.tasks["behavior"]})
    assert measured_scores(alone)[0].simulated is None
    real = replace(scores, tasks={"forecasting": replace(scores.tasks["forecasting"], ceilings=None)})
    assert {score.simulated for score in measured_scores(real)} == {False}


def test_newer_scores_replace_older_ones_of_the_same_kind():
    others = [
        one(task="stimulus"),
        one(tier="validation"),
        one(session_key="0-0-0"),
        one(metric=behavior_metric("gaze")),
    ]
    merged = merge_scores([one(), *others], [one(value=0.5)])
    assert sorted(merged, key=repr) == sorted([one(value=0.5), *others], key=repr)
    assert merged == merge_scores([one(value=0.5)], reversed(others))


def test_only_scores_of_these_very_weights_stay():
    scores = [one(), one(core_sha256="d" * 64), one(session_sha256="6" * 64), one(session_key="another")]
    assert still_true(scores, core_sha256=CORE, session_hashes={"1-2-3": SESSION}) == [one()]
    assert still_true(scores, core_sha256=CORE, session_hashes={}) == []


def test_a_step_of_training_makes_scores_untrue():
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny"))
    model.add_session("1-2-3", n_neurons=3, animal_id="1")

    def kept():
        hashes = {"1-2-3": hash_tensors(model.session_state("1-2-3"))}
        return still_true([score], core_sha256=model.core_hash(), session_hashes=hashes)

    score = one(core_sha256=model.core_hash(), session_sha256=hash_tensors(model.session_state("1-2-3")))
    assert kept() == [score]
    bias = dict(model.session_named_parameters("1-2-3"))
    parameter = next(p for name, p in bias.items() if name.endswith("neuron_bias"))
    with torch.no_grad():
        parameter += 1e-3
    assert kept() == []
    with torch.no_grad():
        parameter.copy_(parameter - 1e-3)
        model.core_named_parameters()[0][1].add_(1e-3)
    assert kept() == []


def test_files_round_trip(tmp_path):
    scores = merge_scores((), measured_scores(some_scores()))
    assert read_scores(tmp_path) == []
    write_scores(tmp_path, reversed(scores))
    first = (tmp_path / SCORES_FILE).read_bytes()
    assert read_scores(tmp_path) == scores
    write_scores(tmp_path, scores)
    assert (tmp_path / SCORES_FILE).read_bytes() == first
    write_scores(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_fields_of_later_versions_are_ignored(tmp_path):
    write_scores(tmp_path, [one()])
    content = json.loads((tmp_path / SCORES_FILE).read_text())
    content[0]["new_field"] = 1
    (tmp_path / SCORES_FILE).write_text(json.dumps(content))
    assert read_scores(tmp_path) == [one()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: {"scores": content}, "a list of measured scores, but holds a dict"),
        (lambda content: [1], "entry 0 lacks session_key"),
        (lambda content: [{k: v for k, v in content[0].items() if k != "value"}], "entry 0 lacks value"),
        (lambda content: [{**content[0], "value": "high"}], "value is 'high'; expected float"),
        (lambda content: [{**content[0], "value": math.nan}], "value is nan"),
        (lambda content: [{**content[0], "n_windows": True}], "n_windows is True; expected int"),
        (lambda content: [{**content[0], "profile": 3}], "profile is 3"),
    ],
)
def test_broken_files_say_what_is_wrong(tmp_path, change, message):
    write_scores(tmp_path, [one()])
    path = tmp_path / SCORES_FILE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path)
