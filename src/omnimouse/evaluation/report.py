"""A report of an evaluation as one HTML file that needs nothing else: no network, no fonts, no scripts."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from omnimouse.evaluation import figures
from omnimouse.evaluation.metrics import BEHAVIOR_GROUPS
from omnimouse.evaluation.predict import Predictions
from omnimouse.evaluation.scores import Scores, TaskScore, number
from omnimouse.support.files import atomic_path

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f5f7; color: #1d2733; font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 8px 0 4px; }
h2 { font-size: 1.15rem; margin: 0 0 8px; }
section { background: #fff; border: 1px solid #e1e4e9; border-radius: 10px; padding: 18px 20px; margin-top: 18px; }
p { margin: 0 0 10px; }
.note { margin: 12px 0 0; }
.muted, figcaption { color: #5a6675; font-size: .88rem; }
.scroll { overflow-x: auto; }
.wide img { min-width: 600px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 8px; text-align: right; border-bottom: 1px solid #eceef1; }
th { color: #5a6675; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
td.main { font-weight: 700; color: #b34700; }
tbody tr:last-child td { border-bottom: 0; }
table.settings td { text-align: left; overflow-wrap: anywhere; }
table.settings td:first-child { color: #5a6675; width: 30%; }
figure { margin: 0 0 14px; }
img { display: block; width: 100%; height: auto; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(265px, 1fr)); }
.grid figure { margin: 0; }
.legend { font-size: .85rem; color: #3a4654; }
.legend span { display: inline-block; margin-right: 16px; }
.legend i { display: inline-block; width: 18px; height: 4px; margin-right: 6px; vertical-align: middle; }
.single { max-width: 640px; }
ul { margin: 0; padding-left: 20px; font-size: .92rem; }
@media (max-width: 600px) { section { padding: 14px; } }
"""


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
    """Write a self-contained HTML report: scores with baselines and ceiling, traces, histograms, loss curve.

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
    subtitle = f"Session {scores.session_key}, tier {scores.tier}, {scores.n_neurons} neurons"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{escape(subtitle)}</p>',
        f"<p>{escape(introduction)}</p>" if introduction else "",
        *_response_section(scores),
        *_behavior_section(scores),
        *_trace_section(shown, scores),
        *_histogram_section(scores),
        *_loss_section(history or []),
        *_remark_section(scores),
        *_settings_section({**scores.settings, **(settings or {})}),
    ]
    body = "\n".join(part for part in parts if part)
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, main: Sequence[int] = (1,)) -> str:
    """An HTML table that scrolls sideways where it does not fit; `main` are the columns to stress."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = []
    for row in rows:
        cells = (f"<td{' class=main' if i in main else ''}>{escape(cell)}</td>" for i, cell in enumerate(row))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def _section(title: str, *content: str) -> Iterator[str]:
    yield f"<section>\n<h2>{escape(title)}</h2>"
    yield from content
    yield "</section>"


def _figure(svg: str, alt: str, caption: str = "") -> str:
    data = base64.b64encode(svg.encode()).decode()
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(alt)}">'
    return f"<figure>{image}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def _legend(colors: Mapping[str, str]) -> str:
    """One legend for all figures of a section: label -> colour."""
    entries = (f'<span><i style="background:{color}"></i>{escape(label)}</span>' for label, color in colors.items())
    return f'<p class="legend">{"".join(entries)}</p>'


def _response_tasks(scores: Scores) -> dict[str, TaskScore]:
    return {name: task for name, task in scores.tasks.items() if task.score is not None}


def _response_section(scores: Scores) -> Iterator[str]:
    tasks = _response_tasks(scores)
    if not tasks:
        return
    rows = []
    for name, task in tasks.items():
        held, mean = task.baselines.get("last_visible_value"), task.baselines.get("training_mean")
        fraction = task.fraction_of_ceiling
        rows.append(
            [
                name,
                number(task.score),
                number(mean.score if mean else None),
                number(held.score if held else None),
                number(task.ceiling.score if task.ceiling else None),
                "-" if fraction is None else f"{round(100 * fraction)} %",
                number(task.response_loss),
                number(mean.response_loss if mean else None),
                str(task.n_windows),
            ]
        )
    header = ["task", "model", "training mean", "last visible value", "ceiling", "of ceiling"]
    header += ["model's loss", "training mean's loss", "windows"]
    yield from _section(
        "Predicted responses",
        _table(header, rows),
        '<p class="muted note">Correlation of predicted with recorded single-trial responses, mean over neurons. '
        "Baselines: every neuron's mean over the training trials (a constant has no correlation and counts as 0, so "
        "compare its Poisson loss with the model's; lower is better), and the neuron's last visible value, where the "
        "task shows one. The ceiling is the correlation of the simulation's own expected response with the recorded "
        "one: no model can do better. It is known for simulated recordings only.</p>",
    )


def _behavior_section(scores: Scores) -> Iterator[str]:
    tasks = {name: task for name, task in scores.tasks.items() if task.behavior}
    if not tasks:
        return
    groups = list(dict.fromkeys(group for task in tasks.values() for group in task.behavior_groups))
    channels = list(dict.fromkeys(channel for task in tasks.values() for channel in task.behavior))
    # A group of one channel would repeat that channel's column.
    alone = {BEHAVIOR_GROUPS[group][0] for group in groups if len(BEHAVIOR_GROUPS[group]) == 1}
    channels = [channel for channel in channels if channel not in alone]
    rows = []
    for name, task in tasks.items():
        mean = task.baselines.get("training_mean")
        correlations = [number(task.behavior_groups.get(g)) for g in groups]
        correlations += [number(task.behavior.get(c)) for c in channels]
        losses = [number(task.behavior_loss), number(mean.behavior_loss if mean else None)]
        rows.append([name, *correlations, *losses, str(task.n_behavior_windows)])
    header = ["task", *groups, *(c.replace("_", " ") for c in channels), "model's loss", "mean's loss", "windows"]
    yield from _section(
        "Decoded behaviour",
        _table(header, rows, main=range(1, 1 + len(groups))),
        '<p class="muted note">Correlation of decoded with recorded behaviour over all samples; a group is the mean of '
        "its channels (pupil: size and its derivative; gaze: horizontal and vertical). The loss of the mean is that of "
        "always answering with the recording's average.</p>",
    )


def _trace_section(shown: Sequence[Predictions], scores: Scores) -> Iterator[str]:
    content = []
    for item in shown:
        score = scores.tasks.get(item.task)
        if item.predictions is not None:
            svg, zero = figures.response_traces(item, score)
            caption = f"Task {item.task}. Time 0 is {zero:.2f} s on the recording's clock."
            alt = f"Recorded and predicted responses over time of the best and of median neurons, task {item.task}."
            content.append(f'<div class="scroll wide">{_figure(svg, alt, caption)}</div>')
        if item.behavior_predictions is not None:
            svg, zero = figures.behavior_traces(item, score)
            caption = f"Behaviour decoded by task {item.task}. Time 0 is {zero:.2f} s on the recording's clock."
            alt = f"Recorded and decoded behaviour channels over time, task {item.task}."
            content.append(f'<div class="scroll wide">{_figure(svg, alt, caption)}</div>')
    if content:
        legend = _legend({"recorded": figures.RECORDED, "predicted": figures.PREDICTED})
        note = (
            '<p class="muted note">r is the score, the correlation over all scored windows; by it neurons are best or '
            "median. The correlation of the stretch that is shown stands beside it.</p>"
        )
        yield from _section("Predicted against recorded", legend, *content, note)


def _histogram_section(scores: Scores) -> Iterator[str]:
    tasks = _response_tasks(scores)
    if not tasks:
        return
    images = []
    for name, task in tasks.items():
        numbers = f"mean {number(task.score)}, median {number(task.median)}"
        alt = f"Histogram of per-neuron correlations, task {name}: {numbers}."
        images.append(_figure(figures.correlation_histogram(task), alt))
    colors = {"model": figures.PREDICTED}
    if any(task.ceiling for task in tasks.values()):
        colors["ceiling"] = figures.CEILING
    if any(task.baselines.get("last_visible_value") for task in tasks.values()):
        colors["last visible value"] = figures.HELD
    yield from _section("Correlation of every neuron", _legend(colors), f'<div class="grid">{"".join(images)}</div>')


def _loss_section(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if history:
        steps = f"{history[0]['step']} to {history[-1]['step']}"
        image = _figure(figures.loss_curve(history), f"Training and validation loss over steps {steps}.")
        yield from _section("Loss during training", f'<div class="single">{image}</div>')


def _remark_section(scores: Scores) -> Iterator[str]:
    remarks = scores.remarks()
    if remarks:
        items = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
        yield from _section("Remarks", f"<ul>{items}</ul>")


def _settings_section(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings:
        rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in settings.items())
        yield from _section("Settings", f'<table class="settings"><tbody>{rows}</tbody></table>')
