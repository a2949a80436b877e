"""Draws the learning curve of a pre-training and of its anneal from their histories.

python benchmarks/learning_curve.py tiny-core/run tiny-core/run/anneals/... --output learning.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from machine import replace_file

from omnimouse.evaluation.figures import as_svg, drawing

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def evaluations(folder: Path) -> list[dict]:
    """Evaluations of a run or fork, in order of steps."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return sorted((row for row in rows if row["kind"] == "evaluation"), key=lambda row: row["step"])


def draw(runs: list[list[dict]]) -> str:
    """Scores and losses over steps; the first run as lines, forks dashed from where they left it."""
    tasks = [name for name, score in runs[0][-1]["scores"].items() if score["score"] is not None]
    with drawing(8.0, 3.2) as figure:
        panels = figure.subplots(1, 2, sharex=True)
        for axes, kind, label in zip(
            panels, ("score", "loss"), ("correlation, held-out", "loss, held-out"), strict=True
        ):
            for task, colour in zip(tasks, COLOURS, strict=False):
                for number, rows in enumerate(runs):
                    # A fork begins at the last evaluation of its run.
                    points = rows if number == 0 else [runs[0][-1], *rows]
                    axes.plot(
                        [row["step"] for row in points],
                        [row["scores"][task][kind] for row in points],
                        "-" if number == 0 else "--",
                        color=colour,
                        label=task if number == 0 else None,
                    )
            axes.set_xlabel("steps (dashed: rate falls to zero)")
            axes.set_ylabel(label)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        return as_svg(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folder of the run, then of its anneals")
    parser.add_argument("--output", type=Path, default=Path("learning.svg"), help="the figure")
    arguments = parser.parse_args()
    runs = [evaluations(folder) for folder in arguments.runs]
    if not all(runs):
        parser.error("a folder has no evaluation in its history; pass folders of `omnimouse train` and `anneal`")
    replace_file(arguments.output, draw(runs))


if __name__ == "__main__":
    main()
