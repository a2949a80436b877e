"""What results show of themselves: a few lines in a shell, tables in a notebook."""

from __future__ import annotations

import numpy as np

from omnimouse.evaluation import Predictions, Scores, StaticScores, TaskScore
from omnimouse.model.masking.masks import EVALUATION_MASKS
from omnimouse.training import FinetuneResult
from omnimouse.training.finetuning.training_tiers import HELD_OUT, TrainingTiers

NEURONS = 8000


def many_scores():
    names = [f"{suite}/{name}" for suite, masks in EVALUATION_MASKS.items() for name in masks]
    tasks = {name: TaskScore(name, 9, score=0.25, per_neuron=np.full(NEURONS, 0.25)) for name in names}
    return Scores("1-2-3", "oracle", NEURONS, tasks, {f"left/{i}": "why & how. " * 40 for i in range(50)})


def test_scores_of_many_tasks_are_a_few_lines_and_say_what_is_hidden():
    scores = many_scores()
    text = repr(scores)
    assert len(text.splitlines()) <= 20 and len(text) < 3000
    assert text.splitlines()[0] == scores.table().splitlines()[0]
    assert text.splitlines()[-1] == f"({len(scores.tasks) - 12} more tasks and 50 more remarks: see .table())"
    assert str(scores) == scores.table() and all(name in scores.table() for name in scores.tasks)


def test_scores_are_a_table_in_a_notebook():
    page = many_scores()._repr_html_()
    assert page.count("<tr>") == len(many_scores().tasks) + 1 and "<td>0.250</td>" in page
    assert "why &amp; how" in page and "why & how" not in page


def test_scores_of_single_images():
    values = np.linspace(0, 1, NEURONS)
    scores = StaticScores("1-2-3", "test", "stimulus", NEURONS, 9, 3, 3, 0.5, 0.6, 0.7, NEURONS, values, values, values,
                          values, notes=("<odd>",))  # fmt: skip
    assert repr(scores) == scores.table() and len(repr(scores).splitlines()) == 7
    page = scores._repr_html_()
    assert page.count("<tr>") == 4 and "<td>correlation to average</td><td>0.600</td>" in page and "&lt;odd&gt;" in page


def test_predictions_show_shapes():
    found = Predictions("1-2-3", "oracle", "<mine>", np.zeros(4), predictions=np.zeros((4, 30, NEURONS), np.float32))
    assert repr(found).splitlines()[1:] == ["  window_starts [4]", "  predictions [4, 30, 8000]"]
    page = found._repr_html_()
    assert "&lt;mine&gt;" in page and "<td>predictions</td><td>[4, 30, 8000]</td>" in page


def test_a_fine_tune_shows_what_came_of_it():
    history = [{"step": step, "loss": 1.0} for step in range(1, 1001)]
    tiers = TrainingTiers(None, ("train",), HELD_OUT, tuple(range(500)))
    left_out = {f"training/{i}": "Nothing to predict" for i in range(40)}
    result = FinetuneResult("1-2-3", history, 900, 1.25, 1.5, False, None, left_out, None, 61.4, tiers)
    text = repr(result)
    assert len(text.splitlines()) == 8 and len(text) < 400
    for shown in ("1-2-3", "the weights of step 900", "1.5000 before, 1.2500", "(500 trials)", "masks left out: 40"):
        assert shown in text
    assert len(repr(tiers)) < 100
    assert "<td>session</td><td>1-2-3</td>" in result._repr_html_()
