"""Experiment trackers: trackio and TensorBoard, both optional and both offline."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "omnimouse"


@dataclass(frozen=True)
class Tracker:
    """Takes numbers, by name, step by step, until it is closed."""

    name: str
    log: Callable[[Mapping[str, float], int], None]
    close: Callable[[], None]


def _start_trackio(folder: Path, run: str, config: Mapping[str, Any]) -> Tracker:
    """Rows in a SQLite file below the run's folder; `trackio show` draws them."""
    # Read when trackio is imported; a place that the user chose goes before.
    os.environ.setdefault("TRACKIO_DIR", str((folder / "trackio").absolute()))
    import trackio

    trackio.init(project=PROJECT, name=run, config=json.loads(json.dumps(config)), resume="allow")
    return Tracker("trackio", lambda values, step: trackio.log(dict(values), step=step), trackio.finish)


def _start_tensorboard(folder: Path, run: str, config: Mapping[str, Any]) -> Tracker:
    """Event files below the run's folder; `tensorboard --logdir` draws them."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))
    # Hyperparameters of TensorBoard may be neither lists nor None, so the recipe goes in as text.
    writer.add_text("recipe", f"```\n{json.dumps(config, indent=2)}\n```")

    def log(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Tracker("tensorboard", log, writer.close)


_STARTS = {"trackio": _start_trackio, "tensorboard": _start_tensorboard}
TRACKERS = tuple(_STARTS)


def choose_trackers(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the trackers of a recipe; "auto" is trackio where it is installed.

    Raises:
        ValueError: an unknown tracker, or one that is not installed; the message holds the command that installs it.
    """
    if wanted == "auto":
        return ("trackio",) if importlib.util.find_spec("trackio") else ()
    for name in wanted:
        if name not in TRACKERS:
            raise ValueError(f"outputs.trackers names {name!r}; expected 'auto' or a list of {', '.join(TRACKERS)}.")
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f'The tracker {name} is not installed. Install it with: pip install "omnimouse[{name}]", or take it '
                "out of outputs.trackers."
            )
    return tuple(wanted)


def start_trackers(names: Sequence[str], folder: Path, *, run: str, config: Mapping[str, Any]) -> list[Tracker]:
    """Starts trackers that `choose_trackers` gave: they write below `folder`, and call the run `run`."""
    if names:
        folder.mkdir(parents=True, exist_ok=True)
    with redirect_stdout(sys.stderr):  # they talk on standard output, which is for results
        return [_STARTS[name](folder, run, config) for name in names]


def flat_numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Returns the numbers in a nested row by names with slashes; what is no number is left out."""
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[prefix + name] = value
    return numbers


def log_to(trackers: Sequence[Tracker], row: Mapping[str, Any]) -> list[Tracker]:
    """Gives a row of the history to trackers and returns those that took it: a full disk of theirs stops no run."""
    prefix = "evaluation/" if row["kind"] == "evaluation" else ""
    numbers = {f"{prefix}{name}": value for name, value in flat_numbers(row).items() if name != "step"}
    working: list[Tracker] = []
    for tracker in trackers:
        try:
            with redirect_stdout(sys.stderr):
                tracker.log(numbers, row["step"])
            working.append(tracker)
        except Exception as error:
            warnings.warn(f"The tracker {tracker.name} failed and is left out from now on: {error}", stacklevel=2)
    return working
