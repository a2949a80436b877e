"""How forecasts grow worse with their horizon: the demonstration's mouse, rolled out over several seconds.

    python benchmarks/rollout.py                          # ten minutes on two cores, most of them the demonstration
    python benchmarks/rollout.py --demo omnimouse-demo    # with what an earlier `omnimouse demo` left: two minutes

Windows of 2 s begin every `--stride` samples of a trial of the tier final_test, and are rolled out
(`predict(rollout=K)`); those count that were recorded to the end.
At every horizon, predictions are correlated with the recorded responses, neuron by neuron over windows, and averaged
over neurons. Beside them: the neuron's last visible value, held; and the simulator's own expectation given stimulus,
behaviour and hidden state, the ceiling. The loss of the neuron's mean over training stands beside the losses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from machine import HERE, describe_machine, markdown_table, replace_file

from omnimouse import OmniMouseModel, Windows, open_recording, predict
from omnimouse.cli.demo import DemoSettings, run_demo
from omnimouse.evaluation import Predictions
from omnimouse.model.processing_omnimouse import session_processor
from omnimouse.recordings import mean_responses
from omnimouse.recordings.simulation.simulated import load_truth
from omnimouse.support.drawing import as_svg, drawing

TASKS = {
    "forecasting": "#0072b2",
    "forecasting+stimulus": "#009e73",
    "forecasting+stimulus+behavior": "#d55e00",
}
TIER, LAST_VISIBLE, RATE = "final_test", 24, 30


def correlations(predicted: np.ndarray, recorded: np.ndarray) -> float:
    """Mean over neurons of the correlation over windows and samples, `[W, L, Q]` both; 0 for what does not vary."""
    x, y = (values.reshape(-1, values.shape[-1]).astype(np.float64) for values in (predicted, recorded))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return float(np.mean(np.divide((x * y).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 0)))


def loss(predicted: np.ndarray, recorded: np.ndarray) -> float:
    """Mean Poisson loss."""
    return float(np.mean(predicted - recorded * np.log(predicted + 1e-5)))


def by_horizon(result: Predictions, rivals: dict[str, np.ndarray], bin_samples: int = 10) -> list[dict[str, Any]]:
    """Scores of a rollout and of its rivals `[W, L, Q]` in bins of the horizon, over windows recorded to the end."""
    assert result.predictions is not None and result.targets is not None
    whole = np.isfinite(result.targets).all(axis=(1, 2)) & np.isfinite(result.predictions).all(axis=(1, 2))
    rows = []
    for first in range(0, result.predictions.shape[1], bin_samples):
        samples = slice(first, first + bin_samples)
        recorded = result.targets[whole, samples]
        horizon = (30 + first + (bin_samples - 1) / 2 - LAST_VISIBLE) / RATE
        row: dict[str, Any] = {"horizon": horizon, "windows": int(whole.sum())}
        for name, values in {"model": result.predictions, **rivals}.items():
            part = np.broadcast_to(values, result.predictions.shape)[whole, samples]
            row[name] = {"correlation": correlations(part, recorded), "loss": loss(part, recorded)}
        rows.append(row)
    return rows


def measure(demo: Path, steps: int, stride: int, max_windows: int | None) -> dict[str, list[dict[str, Any]]]:
    """Task -> scores by horizon."""
    recording = open_recording(demo / "recording")
    model = OmniMouseModel.from_pretrained(str(demo / "adapter"))
    key, processor = recording.session_key, session_processor(model.sessions, recording.session_key, model.processor)
    windows = Windows(recording, TIER, stride=1, processor=processor)
    truth, found = load_truth(recording), {}
    means = mean_responses(recording, processor)
    for task in TASKS:
        asked = {"tier": TIER, "stride": stride, "precision": "float32", "max_windows": max_windows, "session": key}
        result = predict(model, recording, task, rollout=steps, **asked)
        assert result.predictions is not None and result.targets is not None and result.times is not None
        index = [int(np.argmin(np.abs(windows.starts - start))) for start in result.window_starts]
        last = np.stack([windows[i]["responses"][LAST_VISIBLE].numpy() for i in index])[:, None]
        rivals = {"last visible value": last, "training mean": means[None, None]}
        if truth is not None:
            rows = np.stack([windows.response_indices(i)[:1] for i in index]) + 30 + np.arange(result.times.shape[1])
            rows = np.minimum(rows, len(truth.given_everything) - 1)  # beyond the recording, targets are NaN
            rivals["ceiling"] = np.asarray(truth.given_everything[rows]) / result.response_scale
        found[task] = by_horizon(result, rivals)
    return found


RIVALS = {
    "last visible value": ("#3a4654", "--", "correlation"),
    "training mean": ("#8a8f98", ":", "loss"),
    "ceiling": ("#8a8f98", "-.", "correlation"),
}
"""Colour, line, and the panel of what has no model: a constant has no correlation, a held value an endless loss."""


def draw(found: dict[str, list[dict[str, Any]]]) -> str:
    """Correlation and loss over the horizon."""
    seconds, handles = [row["horizon"] for row in found["forecasting"]], {}
    with drawing(8.0, 3.2) as figure:
        for axes, kind in zip(figure.subplots(1, 2), ("correlation", "loss"), strict=True):
            for task, colour in TASKS.items():
                axes.plot(seconds, [row["model"][kind] for row in found[task]], color=colour, label=task)
            for rival, (colour, style, panel) in RIVALS.items():
                if panel == kind and rival in found["forecasting"][0]:
                    values = [row[rival][kind] for row in found["forecasting"]]
                    axes.plot(seconds, values, style, color=colour, label=rival)
            axes.set_xlabel("seconds after the last visible sample")
            axes.set_ylabel(kind)
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
        return as_svg(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="folder of a demonstration, made if need be (default: temporary)")
    parser.add_argument("--seconds", type=int, help="how far forecasts go (default: 5; quick: 2)")
    parser.add_argument("--stride", type=int, default=60, help="samples from window to window (default: 60)")
    parser.add_argument("--quick", action="store_true", help="a toy demonstration; writes only with --output")
    parser.add_argument("--output", type=Path, help="the figure; numbers go beside it (default: docs/rollout.svg)")
    options = parser.parse_args()
    seconds = options.seconds or (2 if options.quick else 5)
    output = options.output or (None if options.quick else HERE.parent / "docs" / "rollout.svg")
    with TemporaryDirectory() as temporary:
        demo = options.demo or Path(temporary) / "demo"
        if not (demo / "adapter").is_dir():
            quick = {"minutes": 3.0, "n_neurons": 16, "steps": 2} if options.quick else {}
            run_demo(demo, settings=DemoSettings(**quick))
        found = measure(demo, seconds, options.stride, 4 if options.quick else None)
    names = [name for name in found["forecasting"][0] if name not in ("horizon", "windows")]
    table = markdown_table(
        ["seconds", *(f"{task}" for task in TASKS), *names[1:]],
        [
            [f"{row['horizon']:.2f}", *(f"{found[task][i]['model']['correlation']:.3f}" for task in TASKS)]
            + [f"{row[name]['correlation']:.3f}" for name in names[1:]]
            for i, row in enumerate(found["forecasting"])
        ],
    )
    print("\n".join(table))
    if output is not None:
        replace_file(output, draw(found))
        content = {"machine": describe_machine(), "horizons": found}
        numbers = output.with_suffix(".json") if options.output else HERE / "results" / "rollout.json"
        replace_file(numbers, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
