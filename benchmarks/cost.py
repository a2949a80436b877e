"""Time and memory against neurons, windows of a batch, frames, and the length of the window. See README.md.

    python benchmarks/cost.py             # about six minutes on two CPU cores
    python benchmarks/cost.py --quick     # a toy size, to see that everything works

Every curve is measured in a process of its own (`cost_case.py`). It is fitted with a power
law, whose exponent says how cost grows: 1 where it is linear.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from floor import Floor, floor
from machine import markdown_table, replace_file
from meters import GIB, Row
from running import Parser, conditions, describe_run, finish_case, report, start_case, write_results

from omnimouse.support.drawing import as_svg, drawing

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass(frozen=True)
class Axis:
    """What is varied, and everything else.

    Args:
        title: of the axis.
        values: of what is varied, and those of `--quick`.
        fixed: what a case has besides.
        expected: largest exponent that counts as linear or better; larger ones are marked.
    """

    title: str
    values: tuple[float, ...]
    quick: tuple[float, ...]
    fixed: dict[str, Any]
    expected: float = 1.1


AXES = {
    "neurons": Axis("neurons", (512, 1024, 2048, 4096, 8192, 16384), (64, 128), {"mask": "forecasting"}),
    "batch": Axis("windows of a batch", (1, 2, 4, 8, 16), (1, 2), {"mask": "forecasting", "neurons": 512}),
    "frames": Axis(
        "frames that are shown", (0, 12, 24, 36, 48, 60), (0, 60), {"mask": "forecasting+stimulus", "neurons": 512}
    ),
    "seconds": Axis("seconds of a window", (1, 2, 4, 8), (1, 2), {"mask": "forecasting", "neurons": 512}),
}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser(__doc__, {"presets": (["tiny", "5m"], ["tiny"], "presets of OmniMouseConfig")})
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), help="default: all")
    parser.add_argument("--passes", nargs="+", choices=("forward", "step"), default=["forward", "step"],
                        help="forward pass, training step (default: both)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=2, help="timed passes after the first; the best counts")
    parser.add_argument("--budget", type=float, default=6.0, help="minutes for all, about (default: 6)")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB beyond which a curve ends (default: 12)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.options(argv)


def curves(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Axis, preset and pass of every curve; what is cheap comes first."""
    for axis in options.axes:
        for preset in options.presets:
            yield from ((axis, preset, which) for which in options.passes)


def measure_curve(options: argparse.Namespace, curve: tuple[str, str, str], limit: float) -> list[Row]:
    """The points of a curve, in order, until one would not fit into time or memory."""
    axis, preset, which = curve
    about = AXES[axis]
    values = about.quick if options.quick else about.values
    process = start_case("cost_case.py", do="measure_curve", axis=axis, values=values, preset=preset, which=which,
                         device=options.device, repeats=options.repeats, limit_s=limit, batch=1,
                         limit_bytes=options.memory * GIB, **about.fixed)  # fmt: skip
    found = finish_case(process, 3 * limit + 60)
    points = found["points"] if found["status"] == "ok" else [{"status": found["status"]} for _ in values]
    rows = [{"axis": axis, "preset": preset, "pass": which, "value": value, **point}
            for value, point in zip(values, points, strict=True)]  # fmt: skip
    for row in rows:
        print(" ".join(cells_of(row, None)), flush=True)
    return rows


def exponent(rows: Sequence[Row], name: str) -> float | None:
    """Of a power law through the larger half of the points, where what is always there weighs least."""
    points = [(row["value"], row[name]) for row in rows if row["status"] == "ok" and row["value"] > 0]
    points = points[len(points) // 2 - 1 :] if len(points) > 3 else points
    if len(points) < 2 or any(y <= 0 for _, y in points):
        return None
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Rows by axis, preset and pass."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["axis"], row["preset"], row["pass"]), []).append(row)
    return found


HEADER = ["axis", "size", "pass", "value", "seconds", "of floor", "GiB above the model"]


def cells_of(row: Row, lowest: Floor | None) -> list[str]:
    """Cells of the table of points."""
    cells = [AXES[row["axis"]].title, row["preset"], row["pass"], f"{row['value']:,}"]
    if row["status"] != "ok":
        return [*cells, row["status"], "", ""]
    share = "" if lowest is None else f"{lowest.share(operations=row['operations'], seconds=row['seconds']):.0%}"
    return [*cells, f"{row['seconds']:.3g}", share, f"{row['above_model_bytes'] / GIB:.2f}"]


def exponents_table(rows: Sequence[Row]) -> list[str]:
    """How cost grows, curve by curve; what grows faster than it should is bold."""
    cells = []
    for (axis, preset, which), points in grouped(rows).items():
        found = [exponent(points, name) for name in ("seconds", "above_model_bytes")]
        limit = AXES[axis].expected
        shown = ["" if x is None else f"**{x:.2f}**" if x > limit else f"{x:.2f}" for x in found]
        cells.append([AXES[axis].title, preset, which, *shown])
    return markdown_table(["axis", "size", "pass", "time grows with power", "memory"], cells, numbers_from=3)


def draw(rows: Sequence[Row]) -> str:
    """Time above, memory below, an axis in each column; exponents in the legends."""
    axes_of_cost = list(dict.fromkeys(row["axis"] for row in rows))
    with drawing(2.9 * len(axes_of_cost), 5.6) as figure:
        panels = figure.subplots(2, len(axes_of_cost), squeeze=False, sharex="col")
        for column, axis in zip(panels.T, axes_of_cost, strict=True):
            chosen = [(key, points) for key, points in grouped(rows).items() if key[0] == axis]
            for panel, name, unit in zip(column, ("seconds", "above_model_bytes"), (1, GIB), strict=True):
                for number, ((_, preset, which), points) in enumerate(chosen):
                    done = [row for row in points if row["status"] == "ok"]
                    power = exponent(points, name)
                    panel.plot(
                        [row["value"] for row in done],
                        [row[name] / unit for row in done],
                        "o-" if which == "forward" else "s--",
                        color=COLOURS[number % len(COLOURS)],
                        markersize=3.5,
                        label=f"{preset}, {which}" + ("" if power is None else f": power {power:.2f}"),
                    )
                if all(row["value"] > 0 for _, points in chosen for row in points):
                    panel.set_xscale("log", base=2)
                panel.set_yscale("log")
                panel.legend(fontsize=6.5)
            values = sorted({row["value"] for _, points in chosen for row in points})
            column[1].set_xticks(values, [f"{value:g}" for value in values])
            column[1].minorticks_off()
            column[1].set_xlabel(AXES[axis].title)
        panels[0, 0].set_ylabel("seconds")
        panels[1, 0].set_ylabel("GiB above the model")
        return as_svg(figure)


def format_report(rows: Sequence[Row], run: Row, name: str) -> str:
    """Exponents, figure and points."""
    lowest = Floor(**run["floor"])
    return report(
        "What neurons, windows, frames and length cost",
        "cost.py",
        exponents_table(rows),
        ["Bold: faster than in proportion (power above 1.1)."],
        [f"![time and memory]({name}.svg)"],
        markdown_table(HEADER, [cells_of(row, lowest) for row in rows], numbers_from=3),
        conditions(run),
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    begun, name = time.monotonic(), f"cost-{options.device}"
    run, rows = describe_run(floor(options.device, quick=options.quick), repeats=options.repeats), list[Row]()
    asked = list(curves(options))
    for number, curve in enumerate(asked):
        left = begun + 60 * options.budget - time.monotonic()
        rows += measure_curve(options, curve, max(0.0, min(left, 2 * left / (len(asked) - number))))
        text = format_report(rows, run, name)
        write_results(options.output, name, text, {"run": run, "rows": rows})
        if options.output is not None:
            replace_file(options.output / f"{name}.svg", draw(rows))
    print("\n" + text)


if __name__ == "__main__":
    main()
