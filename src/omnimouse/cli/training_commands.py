"""The commands of the shell about pre-training: `train`, `anneal` and `scaling`, with their options.

The first two run in every process that `accelerate launch` starts; the main one alone says what came of it.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from omnimouse.cli.options import add_json, print_json

TRAIN_EXAMPLES = """\
examples:
  omnimouse train recipe.yaml                                                        one process
  omnimouse train recipe.yaml --set steps=2000 --set optimizer.core.learning_rate=1e-3
  accelerate launch --multi_gpu --num_processes 4 -m omnimouse train recipe.yaml     four, on CPUs too
  omnimouse info runs/first                                                          where it stands

The smallest recipe:

  output: runs/first
  recordings: {paths: [data/*]}

A run that was interrupted goes on where it stopped when the same command is given again, on as many processes as you
like. docs/pretraining.md lists all fields of a recipe."""

ANNEAL_EXAMPLES = """\
examples:
  omnimouse anneal runs/first --at 200000 400000 --steps 10000
  omnimouse anneal runs/first --at 200000 --steps 10000 --shape power --power 2
  accelerate launch --multi_gpu --num_processes 4 -m omnimouse anneal runs/first --at 200000

With x = (t + 1) / (T + 1) at step t of T, the rate of the constant phase is multiplied by
  1-sqrt        1 - sqrt(x)
  inverse-sqrt  (1 / sqrt(1 + 99 x) - 0.1) / 0.9
  power         (1 - x) ** power
Each fork ends as a model, in anneals/step-<at>-<shape>-<steps>/model of the run."""


SCALING_EXAMPLES = """\
examples:
  omnimouse scaling runs/*                              tables and a verdict
  omnimouse scaling runs/* --output scaling/            figures too
  omnimouse anneal runs/small --at 200000 --set 'evaluation.sessions=["29515-10-12"]'

Cores are compared after an anneal, on the same masks and held-out sessions; each anneal is scored at its end when the
recipe evaluates at all. docs/pretraining.md says how curves are fitted."""


def add_train(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `omnimouse train`."""
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="YAML file that says everything about the run")
    _add_overrides(parser)
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True,
        help="go on from the newest checkpoint in the recipe's output, if there is one",
    )  # fmt: skip
    add_json(parser)


def add_anneal(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `omnimouse anneal`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run of omnimouse train")
    parser.add_argument("--at", type=int, nargs="+", required=True, metavar="STEP", help="checkpoints to fork")
    parser.add_argument("--steps", type=int, metavar="N", default=10_000, help="steps of the decay")
    parser.add_argument(
        "--shape", choices=("inverse-sqrt", "1-sqrt", "power"), default="1-sqrt", help="how the learning rate falls"
    )
    parser.add_argument("--power", type=float, metavar="P", default=1.0, help="exponent of the shape power")
    _add_overrides(parser)
    add_json(parser)


def add_scaling(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `omnimouse scaling`."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="folder of a run with finished anneals, or of one anneal"
    )
    parser.add_argument(
        "--data-axis", choices=("sessions", "neurons"), default="sessions", help="how data is counted in the curves"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write tables, JSON and figures there")
    add_json(parser)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE",
        help="replace a field of the recipe, e.g. optimizer.core.learning_rate=1e-3 (may be given several times)",
    )  # fmt: skip


def train(args: argparse.Namespace) -> int:
    """Pre-train on many recordings."""
    from omnimouse import training

    result = training.train(args.recipe, overrides=args.overrides, resume=args.resume)
    _report([result], as_json=args.json)
    return 0


def anneal(args: argparse.Namespace) -> int:
    """Fork checkpoints of a run and decay them."""
    from omnimouse import training

    results = training.anneal(
        args.run, args.at, steps=args.steps, shape=args.shape, power=args.power, overrides=args.overrides
    )
    _report(results, as_json=args.json)
    return 0


def scaling(args: argparse.Namespace) -> int:
    """Draw scaling curves from many pre-trainings."""
    from omnimouse.scaling import scaling as collect

    report = collect(args.runs, data_axis=args.data_axis)
    written = [] if args.output is None else report.save(args.output)
    if args.json:
        print_json(report.to_json())
    else:
        print(report.to_markdown(), end="")
        for path in written:
            print(f"Wrote {path}")
    return 0


def _report(results: list[Any], *, as_json: bool) -> None:
    """Says where the models are, in the main process, and ends the processes' connection."""
    from accelerate.state import PartialState

    state = PartialState()
    if state.is_main_process:
        summaries = [
            {
                "output": str(result.output),
                "model": str(result.model),
                "steps": result.steps,
                "resumed_from": result.resumed_from,
                "processes": result.n_processes,
                "last": result.history[-1] if result.history else None,
            }
            for result in results
        ]
        if as_json:
            print_json(summaries[0] if len(summaries) == 1 else summaries)
        else:
            for summary in summaries:
                print(
                    f"Wrote {summary['model']} after {summary['steps']:,} steps; use it with "
                    f"{shlex.join(['--core', summary['model']])}"
                )
    if state.num_processes > 1:
        state.destroy_process_group()
