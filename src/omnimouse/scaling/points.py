"""Finished pre-trainings as points of scaling curves, read from their folders; no weights are loaded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.pretrained.session_files import read_index
from omnimouse.support.files import read_json
from omnimouse.training.runs.run_folder import RunFolder, read_history


@dataclass(frozen=True)
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
            points.setdefault(folder.path.absolute(), _read(folder))
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
    forks = [RunFolder(path) for path in sorted(run.anneals.iterdir()) if path.is_dir()] if run.anneals.is_dir() else []
    finished = [fork for fork in forks if fork.model.is_dir()]
    for fork in forks:
        if not fork.model.is_dir():
            warnings.warn(f"The anneal {fork.path} is not finished and was left out.", stacklevel=4)
    if finished:
        return finished
    recipe = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    if run.model.is_dir() and recipe["schedule"]["decay_steps"]:
        return [run]
    raise ValueError(
        f"{run.path} has no finished anneal. Cores are compared after their learning rate fell: `omnimouse anneal "
        f"{run.path} --at STEP --steps N`."
    )


def _read(folder: RunFolder) -> ScalingPoint:
    rows = _training_rows(folder)
    evaluation = _last_evaluation(folder)
    index = read_index(folder.model)
    scores = evaluation["scores"]
    return ScalingPoint(
        name=_name(folder),
        parameters=_count_parameters(folder.model),
        sessions=tuple(sorted(index)),
        neurons=sum(entry["neurons"] for entry in index.values()),
        steps=max(int(row["step"]) for row in rows),
        tokens=float(sum(row["tokens"] for row in rows)),
        flops=float(sum(row["flops"] for row in rows)) if all("flops" in row for row in rows) else None,
        loss=float(evaluation["loss"]),
        losses={name: entry["loss"] for name, entry in scores.items() if entry["loss"] is not None},
        scores={name: entry["score"] for name, entry in scores.items() if entry["score"] is not None},
        evaluated=tuple(evaluation.get("sessions", ())),
    )


def _training_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Rows of training of a run, or of a fork together with those of its run before it."""
    rows = [row for row in read_history(folder.history) if row["kind"] == "training"]
    if folder.fork.exists():
        at = int(read_json(folder.fork, "what a run was forked from")["at"])
        trunk = RunFolder(folder.path.parent.parent)
        before = [row for row in read_history(trunk.history) if row["kind"] == "training" and row["step"] <= at]
        rows = before + rows
    if not rows:
        raise ValueError(f"{folder.history} tells of no training; the folder is not that of a whole run.")
    return rows


def _last_evaluation(folder: RunFolder) -> dict[str, Any]:
    history = read_history(folder.history)
    last = max((row["step"] for row in history), default=0)
    rows = [row for row in history if row["kind"] == "evaluation" and row["step"] == last and row["loss"] is not None]
    if not rows:
        raise ValueError(
            f"{folder.path} was not scored at its end. Anneal again, with evaluation: `--set evaluation.every=N`."
        )
    return rows[-1]


def _name(folder: RunFolder) -> str:
    if folder.fork.exists():
        return f"{folder.path.parent.parent.name}/{folder.path.name}"
    return folder.path.name


def _count_parameters(model: Path) -> int:
    from omnimouse.pretrained.omnimouse_model import OmniMouseModel

    with torch.device("meta"):
        return OmniMouseModel(OmniMouseConfig.from_pretrained(model)).num_core_parameters()


def best_points(points: Sequence[ScalingPoint]) -> list[ScalingPoint]:
    """The point of lowest loss of each size and set of sessions: where longer training only fits noise, a shorter one.

    Args:
        points: as `collect_points` gives them; the order is kept.
    """
    best: dict[tuple[int, tuple[str, ...]], ScalingPoint] = {}
    for point in points:
        key = (point.parameters, point.sessions)
        if key not in best or point.loss < best[key].loss:
            best[key] = point
    return list(best.values())
