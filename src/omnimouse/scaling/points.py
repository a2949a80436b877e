"""Finished pre-trainings as points of scaling curves, read from their folders; no weights are loaded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.pretrained.session_files import read_index
from omnimouse.support.yaml_fields import read_yaml
from omnimouse.training.runs.run_folder import RunFolder, read_history

Axis = Literal["sessions", "neurons", "parameters"]


@dataclass(frozen=True, repr=False)
class ScalingPoint:
    """One trained core: what went in, and how it scores.

    Attributes:
        name: run, and anneal of it.
        parameters: weights of the core.
        sessions: keys of the sessions it was trained on.
        neurons: neurons of these sessions.
        steps: optimizer steps, those of the decay included.
        tokens: tokens of all windows trained on.
        flops: operations of training, see `omnimouse.training.runs.flops`; None where the run did not count them.
        loss: mean over the masks of the evaluation, each as in training.
        losses: mask -> loss.
        scores: mask -> single-trial correlation, of those that predict responses.
        evaluated: keys of the sessions that were scored.
    """

    name: str
    parameters: int
    sessions: tuple[str, ...]
    neurons: int
    steps: int
    tokens: float
    flops: float | None
    loss: float
    losses: dict[str, float]
    scores: dict[str, float]
    evaluated: tuple[str, ...]

    def __repr__(self) -> str:
        data = f"{len(self.sessions)} sessions with {self.neurons:,} neurons"
        return f"ScalingPoint({self.name}: {self.parameters:,} parameters, {data}, loss {self.loss:.4f})"

    def place(self, axis: Axis) -> float:
        """Where it lies on an axis."""
        return float(len(self.sessions) if axis == "sessions" else getattr(self, axis))


def collect_points(runs: Iterable[str | os.PathLike[str]]) -> list[ScalingPoint]:
    """Reads the annealed ends of pre-trainings.

    Args:
        runs: folders of runs, of which every finished anneal is a point, or the run itself if its own schedule decays;
            or folders of single anneals.

    Returns:
        The points, by parameters, sessions and steps. It warns of unfinished anneals, and of points that were not
        scored on the same sessions.

    Raises:
        ValueError: a folder that is no run, or has no finished decay; a decay without an evaluation at its end; runs
            that were scored on different masks.
    """
    points: dict[Path, ScalingPoint] = {}
    for run in runs:
        for folder in _ends(RunFolder(Path(run))):
            points.setdefault(folder.path.absolute(), _read_point(folder))
    if not points:
        raise ValueError("No run was given; name at least one folder of a run of `omnimouse train`.")
    found = sorted(points.values(), key=lambda p: (p.parameters, len(p.sessions), p.sessions, p.steps, p.name))
    masks = sorted({tuple(sorted(point.losses)) for point in found})
    if len(masks) > 1:
        raise ValueError(
            "The runs were scored on different masks: "
            + "; ".join(", ".join(names) for names in masks)
            + ". Anneal again with the same --set evaluation.masks=[...]."
        )
    if len({point.evaluated for point in found}) > 1:
        warnings.warn(
            "The runs were scored on different sessions, so differences between them are also differences between "
            "mice. Anneal with --set evaluation.sessions=[...] of sessions that all were trained on.",
            stacklevel=2,
        )
    return found


def _ends(run: RunFolder) -> list[RunFolder]:
    """The folders whose learning rate fell to the end."""
    if not run.recipe.is_file():
        raise ValueError(f"{run.path} is not the folder of a run; expected one that `omnimouse train` wrote.")
    if run.fork.exists():
        if not run.model.is_dir():
            raise ValueError(f"The anneal {run.path} is not finished; give `omnimouse anneal` again to go on with it.")
        return [run]
    finished = []
    for fork in run.forks():
        if fork.model.is_dir():
            finished.append(fork)
        else:
            warnings.warn(f"The anneal {fork.path} is not finished and was left out.", stacklevel=4)
    if finished:
        return finished
    if run.model.is_dir() and read_yaml(run.recipe, "recipe", example="steps: 1000")["schedule"]["decay_steps"]:
        return [run]
    raise ValueError(
        f"{run.path} has no finished anneal. Cores are compared after their learning rate fell: `omnimouse anneal "
        f"{run.path} --at STEP --steps N`."
    )


def _read_point(folder: RunFolder) -> ScalingPoint:
    """What a finished run or fork says of itself; a fork goes on where the history of its run was at that step."""
    history, fork, name, before = read_history(folder.history), folder.fork_of(), folder.path.name, []
    if fork is not None:
        trunk = RunFolder(folder.path.parent.parent)
        name = f"{trunk.path.name}/{name}"
        before = [row for row in read_history(trunk.history) if row["step"] <= fork.at]
    training = [row for row in (*before, *history) if row["kind"] == "training"]
    if not training:
        raise ValueError(f"{folder.history} tells of no training; the folder is not that of a whole run.")
    last = max((row["step"] for row in history), default=0)
    ends = [row for row in history if row["kind"] == "evaluation" and row["step"] == last and row["loss"] is not None]
    if not ends:
        raise ValueError(
            f"{folder.path} was not scored at its end. Anneal again, with evaluation: `--set evaluation.every=N`."
        )
    index, scores = read_index(folder.model), ends[-1]["scores"]
    with torch.device("meta"):
        parameters = OmniMouseModel(OmniMouseConfig.from_pretrained(folder.model)).num_core_parameters()
    return ScalingPoint(
        name=name,
        parameters=parameters,
        sessions=tuple(sorted(index)),
        neurons=sum(entry["neurons"] for entry in index.values()),
        steps=max(int(row["step"]) for row in training),
        tokens=float(sum(row["tokens"] for row in training)),
        flops=float(sum(row["flops"] for row in training)) if all("flops" in row for row in training) else None,
        loss=float(ends[-1]["loss"]),
        losses={name: entry["loss"] for name, entry in scores.items() if entry["loss"] is not None},
        scores={name: entry["score"] for name, entry in scores.items() if entry["score"] is not None},
        evaluated=tuple(ends[-1].get("sessions", ())),
    )


def best_points(points: Sequence[ScalingPoint]) -> list[ScalingPoint]:
    """The point of lowest loss of each size and set of sessions: a shorter training where a longer one fits noise."""
    best: dict[tuple[int, tuple[str, ...]], ScalingPoint] = {}
    for point in points:
        key = (point.parameters, point.sessions)
        if key not in best or point.loss < best[key].loss:
            best[key] = point
    return list(best.values())
