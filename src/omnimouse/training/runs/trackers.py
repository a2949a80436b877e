"""Experiment trackers: trackio and TensorBoard, both optional and both offline."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

TRACKERS = ("trackio", "tensorboard")
PROJECT = "omnimouse"


class Tracker(Protocol):
    """Takes numbers step by step."""

    name: str

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TrackioTracker:
    """Rows in a SQLite file below the run's folder; `trackio show` draws them."""

    name = "trackio"

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]) -> None:
        # Read when trackio is imported; a place that the user chose goes before.
        os.environ.setdefault("TRACKIO_DIR", str((folder / "trackio").absolute()))
        # It talks on standard output, which is for results.
        with contextlib.redirect_stdout(sys.stderr):
            import trackio

            self._trackio = trackio
            trackio.init(project=PROJECT, name=run, config=json.loads(json.dumps(config)), resume="allow")

    def log(self, values: Mapping[str, float], step: int) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()


class TensorboardTracker:
    """Event files below the run's folder; `tensorboard --logdir` draws them."""

    name = "tensorboard"

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))
        # Hyperparameters of TensorBoard may be neither lists nor None, so the recipe goes in as text.
        self._writer.add_text("recipe", f"```\n{json.dumps(config, indent=2)}\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


_CLASSES: dict[str, Any] = {"trackio": TrackioTracker, "tensorboard": TensorboardTracker}


def choose_trackers(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the trackers of a recipe; "auto" is trackio where it is installed.

    Raises:
        ValueError: an unknown tracker, or one that is not installed; the message holds the command that installs it.
    """
    if wanted == "auto":
        return ("trackio",) if _is_installed("trackio") else ()
    for name in wanted:
        if name not in TRACKERS:
            raise ValueError(f"outputs.trackers names {name!r}; expected 'auto' or a list of {', '.join(TRACKERS)}.")
        if not _is_installed(name):
            raise ValueError(
                f'The tracker {name} is not installed. Install it with: pip install "omnimouse[{name}]", or take it '
                "out of outputs.trackers."
            )
    return tuple(wanted)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def start_trackers(names: Sequence[str], folder: Path, *, run: str, config: Mapping[str, Any]) -> list[Tracker]:
    """Starts trackers that `choose_trackers` gave.

    Args:
        names: which.
        folder: below which they write.
        run: what they call the run.
        config: the recipe as plain values.
    """
    if names:
        folder.mkdir(parents=True, exist_ok=True)
    return [_CLASSES[name](folder, run, config) for name in names]


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
            tracker.log(numbers, row["step"])
            working.append(tracker)
        except Exception as error:
            warnings.warn(f"The tracker {tracker.name} failed and is left out from now on: {error}", stacklevel=2)
    return working
