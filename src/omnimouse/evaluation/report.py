"""A report of an evaluation as one HTML file that needs nothing else: no network, no fonts, no scripts."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from omnimouse.evaluation import figures
from omnimouse.evaluation.metrics import BEHAVIOR_GROUPS
from omnimouse.evaluation.predicting.predictions import Predictions
from omnimouse.evaluation.scores import Scores, number
from omnimouse.support.files import write_text

Drawn = tuple[str, str, str]
"""A figure of the page: SVG in base64, what it shows for those who cannot see it, and a caption."""


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    scores: Scores,
    introduction: str | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
    predictions: Predictions | Sequence[Predictions] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a self-contained HTML report: scores with baselines and ceiling, traces, histograms, loss curve.

    Args:
        path: the file to write, replaced atomically.
        title: heading; like every text passed in, shown as it is, never read as HTML.
        scores: from `evaluate`.
        introduction: a paragraph below the heading.
        history: the history of a `finetune` run, for the loss curve.
        predictions: from `predict`, one or several tasks on the tier of the scores, for traces of predicted against
            recorded signals. Which neurons are shown, and the r beside them, is what `scores` says of the task.
        settings: anything worth recording beside the scores (model, recipe, versions), shown as a table.

    Returns:
        The path.

    Raises:
        ValueError: predictions of another session or tier than the scores.
        ImportError: matplotlib is missing; the message holds the command that installs it.
    """
    shown = [predictions] if isinstance(predictions, Predictions) else list(predictions or [])
    for item in shown:
        if (item.session_key, item.tier) != (scores.session_key, scores.tier):
            raise ValueError(
                f"the predictions of task {item.task!r} are of session {item.session_key}, tier {item.tier}, the "
                f"scores of session {scores.session_key}, tier {scores.tier}; pass predictions of what was scored"
            )
    text = _page().render(
        title=title,
        introduction=introduction,
        scores=scores,
        responses={name: task for name, task in scores.tasks.items() if task.score is not None},
        **_decoded(scores),
        traces=[trace for item in shown for trace in _traces(item, scores)],
        **_histograms(scores),
        loss=_loss(history or []),
        remarks=scores.remarks(),
        settings={**scores.settings, **(settings or {})},
    )
    write_text(Path(path), text)
    return Path(path)


@cache
def _page() -> jinja2.Template:
    """The page; whatever is filled in is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html")


def _decoded(scores: Scores) -> dict[str, Any]:
    """Tasks that decode behaviour, with the groups and channels that are columns of their table."""
    tasks = {name: task for name, task in scores.tasks.items() if task.behavior}
    groups = list(dict.fromkeys(group for task in tasks.values() for group in task.behavior_groups))
    # A group of one channel would repeat that channel's column.
    alone = {BEHAVIOR_GROUPS[group][0] for group in groups if len(BEHAVIOR_GROUPS[group]) == 1}
    channels = list(dict.fromkeys(channel for task in tasks.values() for channel in task.behavior))
    channels = [channel for channel in channels if channel not in alone]
    names = [channel.replace("_", " ") for channel in channels]
    return {"decoded": tasks, "groups": groups, "channels": channels, "channel_names": names}


def _traces(item: Predictions, scores: Scores) -> list[Drawn]:
    """Recorded and predicted signals of one task."""
    drawn, score = [], scores.tasks.get(item.task)
    if item.predictions is not None:
        svg, zero = figures.response_traces(item, score)
        alt = f"Recorded and predicted responses over time of the best and of median neurons, task {item.task}."
        drawn.append((_encoded(svg), alt, f"Task {item.task}. Time 0 is {zero:.2f} s on the recording's clock."))
    if item.behavior_predictions is not None:
        svg, zero = figures.behavior_traces(item, score)
        caption = f"Behaviour decoded by task {item.task}. Time 0 is {zero:.2f} s on the recording's clock."
        alt = f"Recorded and decoded behaviour channels over time, task {item.task}."
        drawn.append((_encoded(svg), alt, caption))
    return drawn


def _histograms(scores: Scores) -> dict[str, Any]:
    """Correlations of every neuron by task, and the colours of all figures by what they stand for."""
    tasks = {name: task for name, task in scores.tasks.items() if task.score is not None}
    drawn = []
    for name, task in tasks.items():
        numbers = f"mean {number(task.score)}, median {number(task.median)}"
        alt = f"Histogram of per-neuron correlations, task {name}: {numbers}."
        drawn.append((_encoded(figures.correlation_histogram(task)), alt, ""))
    colors = [("model", figures.PREDICTED)]
    if any(task.ceiling for task in tasks.values()):
        colors.append(("ceiling", figures.CEILING))
    if any(task.baselines.get("last_visible_value") for task in tasks.values()):
        colors.append(("last visible value", figures.HELD))
    traces = [("recorded", figures.RECORDED), ("predicted", figures.PREDICTED)]
    return {"histograms": drawn, "colors": {"histograms": colors, "traces": traces}}


def _loss(history: Sequence[Mapping[str, Any]]) -> Drawn | None:
    if not history:
        return None
    alt = f"Training and validation loss over steps {history[0]['step']} to {history[-1]['step']}."
    return _encoded(figures.loss_curve(history)), alt, ""


def _encoded(svg: str) -> str:
    return base64.b64encode(svg.encode()).decode()
