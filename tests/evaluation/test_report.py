"""The HTML report: complete, self-contained, escaped."""

from __future__ import annotations

import base64
import builtins
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from omnimouse.evaluation import Baseline, Ceiling, Predictions, Scores, TaskScore, figures, write_report

CHANNELS = ("pupil_size", "pupil_size_derivative", "gaze_x", "gaze_y", "running_speed")


def some_scores() -> Scores:
    rng = np.random.default_rng(0)
    r = rng.uniform(-0.1, 0.6, 30)
    r[3] = math.nan
    ceiling = Ceiling(0.8, 0.81, rng.uniform(0.6, 0.95, 30))
    held = Baseline(0.11, rng.uniform(-0.3, 0.3, 30), 2.5)
    behavior = dict(zip(CHANNELS, (0.5, 0.3, 0.2, 0.1, 0.9), strict=True))
    groups = {"pupil": 0.4, "gaze": 0.15, "running": 0.9}
    return Scores(
        "1-2-3",
        "final_test",
        30,
        {
            "forecasting": TaskScore(
                "forecasting",
                9,
                score=0.321,
                per_neuron=r,
                neuron_index=np.arange(30),
                response_loss=0.777,
                baselines={"training_mean": Baseline(0.0, response_loss=0.888), "last_visible_value": held},
                ceilings={"given_everything": ceiling},
                ceiling_name="given_everything",
            ),
            "behavior+stimulus": TaskScore(
                "behavior+stimulus",
                9,
                n_behavior_windows=8,
                behavior=behavior,
                behavior_groups=groups,
                behavior_loss=0.456,
                baselines={"training_mean": Baseline(behavior_loss=1.0), "last_visible_value": None},
                notes=("behaviour scored in 8 of 9 windows: NaN in the others",),
            ),
        },
        {"population": "only <30> neurons"},
        {"stride": 30},
    )


def some_predictions(starts: np.ndarray) -> Predictions:
    rng = np.random.default_rng(1)
    n = len(starts)
    targets = rng.random((n, 30, 6)).astype(np.float32)
    behavior = rng.random((n, 5, 40)).astype(np.float32)
    return Predictions(
        "1-2-3",
        "final_test",
        "stimulus",
        starts,
        starts[:, None] + np.arange(30, 60) / 30,
        np.arange(6),
        np.arange(6) + 100,
        targets * np.linspace(0.1, 1, 6, dtype=np.float32) + rng.random((n, 30, 6)).astype(np.float32),
        targets,
        np.ones(6),
        starts[:, None] + np.arange(40) / 20,
        CHANNELS,
        behavior + 0.1,
        behavior,
    )


HISTORY = [
    {"step": s, "loss": 1 / (s + 1), "validation_loss": 0.9 / (s + 1) if s % 10 == 0 else None} for s in range(50)
]


class Page(HTMLParser):
    """Collects what the tests ask about: tags with their attributes, and balance."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    starts = 1.5e9 + np.array([0.0, 1, 2, 10, 11, 12, 13, 40])
    written = write_report(
        path,
        title="<script>alert(1)</script>",
        introduction="Tom & Jerry",
        scores=some_scores(),
        history=HISTORY,
        predictions=some_predictions(starts),
        settings={"core": "tiny <&>"},
    )
    assert written == path
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_report_needs_nothing_from_outside(page_text):
    page = Page(page_text)
    assert not page.open
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object"}
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4, "responses, behavior, one histogram, loss"
    for image in images:
        assert image["alt"]
        kind, data = image["src"].split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
    assert not re.search(r"(src|href)=\"?https?:|url\(|@import", page_text)


def test_report_shows_all_numbers(page_text):
    for shown in ("0.321", "0.110", "0.800", "40 %", "0.777", "0.888", "0.456", "0.150", "0.900"):
        assert f">{shown}</td>" in page_text
    for heading in ("Predicted responses", "Decoded behaviour", "Predicted against recorded", "Loss during training"):
        assert heading in page_text
    assert "behaviour scored in 8 of 9 windows" in page_text


def test_texts_are_escaped(page_text):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page_text
    for raw in ("<script>", "Tom & Jerry", "tiny <&>", "<30>"):
        assert raw not in page_text


def test_traces_begin_at_the_longest_run(page_text):
    assert "Time 0 is 1500000011.00 s" in page_text, "10 s run, first predicted sample one second into the window"


def test_report_of_scores_alone(tmp_path):
    scores = some_scores()
    text = write_report(tmp_path / "r.html", title="t", scores=scores).read_text()
    assert "Loss during training" not in text and "Predicted against recorded" not in text
    assert text == write_report(tmp_path / "r2.html", title="t", scores=scores).read_text(), "same data, same file"


def test_missing_matplotlib_names_the_command(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "omnimouse\[viz\]"'):
        write_report(tmp_path / "r.html", title="t", scores=some_scores())
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([0.0, 1.0, 2.0], [0, 1, 2]),
        ([0.0, 1.0, 5.0, 6.001, 7.0], [2, 3, 4]),
        ([0.0, 0.5, 1.0, 1.5, 2.0], [0, 2, 4]),
        ([3.0], [0]),
        (list(np.arange(50.0)), list(range(20))),
    ],
)
def test_longest_run(starts, expected):
    predictions = Predictions("k", "t", "n", np.array(starts))
    assert figures.longest_run(predictions, 1.0).tolist() == expected


def test_undefined_neurons_are_no_obstacle():
    predictions = some_predictions(np.arange(3.0))
    predictions.predictions[..., :5] = 0.5
    svg, zero = figures.response_traces(predictions)
    assert svg.startswith("<?xml") and zero == 1.0
    score = some_scores()["forecasting"]
    score.per_neuron[:] = math.nan
    assert figures.correlation_histogram(score).startswith("<?xml")


def drawn_rows(monkeypatch, draw, *args):
    """The rows that a trace figure is drawn from."""
    rows = []
    monkeypatch.setattr(figures, "traces", lambda times, drawn, unit: rows.extend(drawn) or "")
    draw(*args)
    return rows


def test_neurons_are_chosen_and_labelled_by_their_scores(monkeypatch):
    """Over the windows shown another one correlates best."""
    predictions = some_predictions(np.arange(3.0))
    score = TaskScore(
        "stimulus", 50, score=0.3, per_neuron=np.array([0.1, 0.607, math.nan, 0.5, 0.2, 0.4]),
        neuron_index=np.array([1, 2, 0, 3, 4, 5]), behavior={"running_speed": 0.64},
    )  # fmt: skip
    rows = drawn_rows(monkeypatch, figures.response_traces, predictions, score)
    labels = [row.label.partition(" (in the stretch shown ")[0] for row in rows]
    assert labels == [
        "best neuron: unit 102, r = 0.61",
        "best neuron: unit 103, r = 0.50",
        "median neuron: unit 105, r = 0.40",
        "median neuron: unit 104, r = 0.20",
    ]
    for row in rows:
        shown = float(row.label.rpartition(" ")[2].rstrip(")"))
        assert shown == pytest.approx(np.corrcoef(row.recorded, row.predicted)[0, 1], abs=0.006)
    rows = drawn_rows(monkeypatch, figures.behavior_traces, predictions, score)
    assert [row.label for row in rows][-2:] == ["gaze y", "running speed: r = 0.64"]


def test_an_r_that_no_score_stands_behind_says_so(monkeypatch):
    predictions = some_predictions(np.arange(3.0))
    for score in (None, TaskScore("stimulus", 3)):
        rows = drawn_rows(monkeypatch, figures.response_traces, predictions, score)
        assert all("over these predictions, not scored" in row.label for row in rows)


def test_predictions_of_something_else_than_the_scores_are_refused(tmp_path):
    predictions = replace(some_predictions(np.arange(3.0)), tier="validation")
    with pytest.raises(ValueError, match="tier validation, the scores of session 1-2-3, tier final_test"):
        write_report(tmp_path / "r.html", title="t", scores=some_scores(), predictions=predictions)


def test_behaviour_is_drawn_at_the_usual_stride_of_the_windows(monkeypatch):
    """Runs of windows may begin a sample after the last window of the run before."""
    starts = np.array([0.0, 1, 2, 3, 3 + 1 / 30, 4 + 1 / 30, 5 + 1 / 30])
    drawn = {}
    monkeypatch.setattr(figures, "traces", lambda times, rows, unit: drawn.update(times=times, rows=rows) or "")
    predictions = some_predictions(starts)
    _, zero = figures.behavior_traces(predictions)
    assert zero == pytest.approx(1.0), "windows overlap by half, so the second half of each is drawn"
    np.testing.assert_allclose(drawn["times"], np.arange(80) / 20, atol=1e-9)
    expected = predictions.behavior_targets[:4, 2, 20:].ravel()
    np.testing.assert_array_equal(drawn["rows"][2].recorded, expected)
