"""Figures of the report as SVG text: small, sharp on any screen, with letters drawn as outlines (no fonts needed).

Shape letters: W windows, L target samples, Q target neurons, T samples on a time axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from omnimouse.evaluation.metrics import moments, pearson
from omnimouse.support.drawing import as_svg, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from omnimouse.evaluation.predicting.predictions import Predictions
    from omnimouse.evaluation.scores import TaskScore

RECORDED, PREDICTED, CEILING, HELD = "#3a4654", "#d55e00", "#0072b2", "#8a8f98"
"""Colours that stay apart for colour-blind readers (Okabe and Ito), on white."""

SECONDS_SHOWN = 20.0
"""Longest stretch of time in a trace figure."""


def correlation_histogram(task: TaskScore) -> str:
    """Histogram of per-neuron correlations of one task, with the ceiling's and the last visible value's as outlines."""
    assert task.per_neuron is not None
    held = task.baselines.get("last_visible_value")
    outlines = [(CEILING, task.ceiling.per_neuron if task.ceiling else None), (HELD, held.per_neuron if held else None)]
    shown = [task.per_neuron, *(values for _, values in outlines if values is not None)]
    everything = np.concatenate([values[~np.isnan(values)] for values in shown])
    low = min(-0.2, float(np.floor(everything.min() * 10) / 10)) if everything.size else -0.2
    bins = np.linspace(low, 1.0, 41)
    with drawing(3.4, 2.3) as figure:
        axes = figure.add_subplot()
        axes.hist(task.per_neuron[~np.isnan(task.per_neuron)], bins, color=PREDICTED, alpha=0.8)
        for color, values in outlines:
            if values is not None:
                axes.hist(values[~np.isnan(values)], bins, histtype="step", color=color, linewidth=1.3)
        axes.set(title=task.task, xlabel="correlation", ylabel="neurons", xlim=(low, 1.0))
        return as_svg(figure)


def loss_curve(history: Sequence[Mapping[str, Any]]) -> str:
    """Training and validation loss over steps; `history` as in `FinetuneResult.history`."""
    steps = np.array([entry["step"] for entry in history], dtype=float)
    train = np.array([_value(entry, "loss") for entry in history])
    validation = np.array([_value(entry, "validation_loss") for entry in history])
    with drawing(6.4, 2.8) as figure:
        axes = figure.add_subplot()
        seen = ~np.isnan(train)
        axes.plot(steps[seen], train[seen], color=RECORDED, alpha=0.25, linewidth=0.8)
        axes.plot(steps[seen], _running_mean(train[seen]), color=RECORDED, linewidth=1.5, label="training (smoothed)")
        seen = ~np.isnan(validation)
        if seen.any():
            axes.plot(steps[seen], validation[seen], "o-", color=PREDICTED, markersize=3.5, label="validation")
        axes.set(xlabel="step", ylabel="loss")
        axes.legend(loc="upper right")
        return as_svg(figure)


def _value(entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(name)
    return float("nan") if value is None else float(value)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centered running mean whose window shrinks at the ends, a twentieth of the curve wide."""
    half = max(len(values) // 40, 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


@dataclass(frozen=True)
class Row:
    """One signal of a trace figure: a label, recorded and predicted values [T]."""

    label: str
    recorded: np.ndarray
    predicted: np.ndarray


def traces(times: np.ndarray, rows: Sequence[Row], *, unit: str) -> str:
    """Recorded and predicted signals below each other on one time axis in seconds [T]."""
    with drawing(7.2, 0.45 + 1.05 * len(rows)) as figure:
        axes: Sequence[Axes] = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for axis, row in zip(axes, rows, strict=True):
            axis.plot(times, row.recorded, color=RECORDED, linewidth=1.0)
            axis.plot(times, row.predicted, color=PREDICTED, linewidth=1.4)
            axis.set_title(row.label, fontsize=8.5)
            axis.margins(x=0)
        axes[-1].set_xlabel("time (s)")
        figure.supylabel(unit, fontsize=9, color="#3a4654")
        return as_svg(figure)


def longest_run(predictions: Predictions, step: float) -> np.ndarray:
    """Indices of the longest run of windows that follow each other every `step` seconds, up to `SECONDS_SHOWN`."""
    starts = predictions.window_starts
    # Window starts lie on a 30 Hz grid that need not divide the step: anything below one sample still follows.
    tolerance = 0.02
    best: list[int] = []
    run: list[int] = []
    for i, start in enumerate(starts):
        gap = start - starts[run[-1]] if run else step
        if abs(gap - step) <= tolerance:
            run.append(i)
        elif gap > step:
            run = [i]
        if len(run) > len(best):
            best = list(run)
    return np.array(best[: max(int(SECONDS_SHOWN / step), 1)])


def response_traces(predictions: Predictions, score: TaskScore | None = None) -> tuple[str, float]:
    """Traces of the two best and the two median neurons over the longest run of windows.

    Args:
        predictions: of a task that predicts responses.
        score: what `evaluate` says of the same task: which neurons are best, and the r beside their traces. Without it,
            both are taken from `predictions`, and the label says so.

    Returns:
        (SVG, absolute time in seconds at which the time axis has its zero).
    """
    assert predictions.predictions is not None and predictions.targets is not None
    assert predictions.times is not None and predictions.neuron_ids is not None
    scored = None if score is None else _scored_correlations(predictions, score)
    r = _correlations(predictions.predictions, predictions.targets) if scored is None else scored
    order = np.argsort(np.nan_to_num(r, nan=-2.0), kind="stable")[::-1]
    middle = int((~np.isnan(r)).sum()) // 2
    picks = {int(order[i]): "best" for i in range(min(2, len(order)))}
    for i in range(middle, min(middle + 2, len(order))):
        picks.setdefault(int(order[i]), "median")
    length = predictions.times.shape[1]
    spacing = float(np.median(np.diff(predictions.times[0]))) if length > 1 else 1.0
    run = longest_run(predictions, length * spacing)
    times = predictions.times[run].ravel()
    rows = []
    for q, kind in picks.items():
        recorded, predicted = predictions.targets[run, :, q].ravel(), predictions.predictions[run, :, q].ravel()
        whole = f"r = {r[q]:.2f}" if scored is not None else f"r = {r[q]:.2f} over these predictions, not scored"
        shown = _correlations(predicted[:, None], recorded[:, None])[0]
        label = f"{kind} neuron: unit {predictions.neuron_ids[q]}, {whole} (in the stretch shown {shown:.2f})"
        rows.append(Row(label, recorded, predicted))
    return traces(times - times[0], rows, unit="response (normalised)"), float(times[0])


def _scored_correlations(predictions: Predictions, score: TaskScore) -> np.ndarray | None:
    """The score of every predicted neuron [Q], NaN for one that was not scored; None if none was."""
    if score.per_neuron is None or score.neuron_index is None or predictions.neuron_index is None:
        return None
    by_position = dict(zip(score.neuron_index.tolist(), score.per_neuron.tolist(), strict=True))
    scored = np.array([by_position.get(position, math.nan) for position in predictions.neuron_index.tolist()])
    return None if np.isnan(scored).all() else scored


def _correlations(predicted: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Correlation of every last-axis entry [Q] over all other axes, where `predicted` is finite."""
    x, y = torch.from_numpy(np.ascontiguousarray(predicted)), torch.from_numpy(np.ascontiguousarray(recorded))
    return pearson(moments(x, y, torch.isfinite(x)))


def behavior_traces(predictions: Predictions, score: TaskScore | None = None) -> tuple[str, float]:
    """Traces of all decoded behaviour channels over the longest run of windows.

    Windows overlap when their stride is shorter than they are; then the last part of each window is shown.

    Args:
        predictions: of a task that decodes behaviour.
        score: what `evaluate` says of the same task, for the r beside each trace; without it there is none.

    Returns:
        (SVG, absolute time in seconds at which the time axis has its zero).
    """
    assert predictions.behavior_predictions is not None and predictions.behavior_targets is not None
    assert predictions.behavior_times is not None
    spacing = float(np.median(np.diff(predictions.behavior_times[0])))
    window = predictions.behavior_times.shape[1]
    gaps = np.diff(predictions.window_starts)
    # The usual gap: where one run of windows ends and another begins, gaps may be as short as a sample.
    step = min(float(np.median(gaps)), window * spacing) if gaps.size else window * spacing
    keep = max(round(step / spacing), 1)
    run = longest_run(predictions, step)
    times = predictions.behavior_times[run, -keep:].ravel()
    rows = []
    for c, name in enumerate(predictions.behavior_channels):
        recorded = predictions.behavior_targets[run, c, -keep:].ravel()
        r = score.behavior.get(name) if score is not None else None
        label = name.replace("_", " ") + ("" if r is None else f": r = {r:.2f}")
        rows.append(Row(label, recorded, predictions.behavior_predictions[run, c, -keep:].ravel()))
    return traces(times - times[0], rows, unit="behaviour (z-scored)"), float(times[0])
