"""What an evaluation returns: scores per task with their baselines and ceiling, as a table, a dict or a JSON file.

Shape letters: Q target neurons of the task.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.support.files import atomic_path, plain, read_mapping
from omnimouse.support.text_tables import text_table


@dataclass(frozen=True)
class Baseline:
    """What a rule without a model reaches on the same windows.

    Attributes:
        score: session correlation (a NaN neuron counts as zero); None if the task predicts no responses.
        per_neuron: correlation of every target neuron [Q]; None with `score`.
        response_loss: Poisson loss of the rule, comparable with the model's; None if not defined.
        behavior_loss: loss of the rule on decoded behaviour; None if the task or the rule decodes none.
    """

    score: float | None = None
    per_neuron: np.ndarray | None = field(default=None, repr=False)
    response_loss: float | None = None
    behavior_loss: float | None = None


@dataclass(frozen=True)
class Ceiling:
    """Correlation of the expected response of a simulated recording with the recorded one: no model does better.

    Attributes:
        score: mean over neurons, by the same rule as the model's score.
        median: median over neurons (NaN neurons left out).
        per_neuron: [Q].
    """

    score: float
    median: float
    per_neuron: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class TaskScore:
    """Scores of one task on one tier of one session.

    Attributes:
        task: name of the task or mask.
        score: single-trial correlation of predicted with recorded responses, mean over neurons, a neuron without a
            correlation counting as zero; None if the task predicts no responses.
        per_neuron: correlation of every target neuron [Q] (NaN: undefined); None with `score`.
        neuron_index: position of every target neuron in the recording [Q]; None with `score`.
        response_loss: Poisson loss per predicted sample.
        behavior: behaviour channel -> correlation; empty if the task decodes no behaviour.
        behavior_groups: "pupil", "gaze", "running" -> mean correlation of the group's channels.
        behavior_loss: loss per behaviour sample (squared error, clamped to 10).
        baselines: "training_mean" -> the constant prediction of every neuron's mean over the training tier (and of 0,
            the mean of processed behaviour); a constant has no correlation, so its score is 0 by the rule above and its
            *loss* is the comparison. "last_visible_value" -> every target sample predicted by the neuron's last visible
            sample; None when the task shows nothing of the target neurons.
        ceilings: "given_stimulus_and_behavior", "given_everything" -> Ceiling; None unless the recording is simulated.
        ceiling_name: the one of `ceilings` that bounds this task: a task that shows responses can use what they say
            about the hidden state, one that does not cannot. None without ceilings.
        n_windows: windows scored.
        n_windows_left_out: windows not scored because an input or target response was NaN.
        n_behavior_windows: windows whose behaviour was scored (the others have NaN in it).
        n_samples: predicted response samples scored, over all neurons.
        notes: remarks on this task, e.g. why a baseline is missing.
    """

    task: str
    n_windows: int
    n_windows_left_out: int = 0
    n_behavior_windows: int = 0
    n_samples: int = 0
    score: float | None = None
    per_neuron: np.ndarray | None = field(default=None, repr=False)
    neuron_index: np.ndarray | None = field(default=None, repr=False)
    response_loss: float | None = None
    behavior: dict[str, float] = field(default_factory=dict)
    behavior_groups: dict[str, float] = field(default_factory=dict)
    behavior_loss: float | None = None
    baselines: dict[str, Baseline | None] = field(default_factory=dict)
    ceilings: dict[str, Ceiling] | None = None
    ceiling_name: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def ceiling(self) -> Ceiling | None:
        """The ceiling that bounds this task, None if unknown."""
        return self.ceilings[self.ceiling_name] if self.ceilings and self.ceiling_name else None

    @property
    def fraction_of_ceiling(self) -> float | None:
        """Score divided by the score of `ceiling`; None if unknown."""
        if self.score is None or self.ceiling is None or not self.ceiling.score > 0:
            return None
        return self.score / self.ceiling.score

    @property
    def median(self) -> float | None:
        """Median correlation over neurons that have one; None if the task predicts no responses."""
        if self.per_neuron is None:
            return None
        return median(self.per_neuron)


@dataclass(frozen=True)
class Scores:
    """Scores of one session on one tier.

    Attributes:
        session_key: the session in the model.
        tier: the tier scored.
        n_neurons: neurons of the session.
        tasks: task name -> TaskScore, in the order asked for.
        left_out: task name -> why it could not be scored.
        settings: stride, blanks, profile and so on, as used. `tier_in_training` says whether the weights were
            "trained on" or "selected on" these trials, None where nothing of that is stored with the session.
        core_sha256: hash of the core that was scored, as `model.core_hash()` gives it; None if unknown. With
            `session_sha256` it says which weights these scores belong to.
        session_sha256: hash of the session's four tensors.
    """

    session_key: str
    tier: str
    n_neurons: int
    tasks: dict[str, TaskScore]
    left_out: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    core_sha256: str | None = None
    session_sha256: str | None = None

    def __repr__(self) -> str:
        """The table, for whoever prints scores or ends a notebook's cell with them."""
        return self.table()

    def __getitem__(self, task: str) -> TaskScore:
        if task not in self.tasks:
            reason = f" ({self.left_out[task]})" if task in self.left_out else ""
            raise ValueError(f"no score for task {task!r}{reason}; scored: {', '.join(self.tasks)}")
        return self.tasks[task]

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """The score table as (header, rows) of text, for terminals and reports; "-" where there is nothing to show."""
        header = ["task", "windows", "score", "last value", "ceiling", "of ceiling", "loss", "loss of mean"]
        groups = list(dict.fromkeys(group for task in self.tasks.values() for group in task.behavior_groups))
        rows = []
        for name, task in self.tasks.items():
            held, mean = task.baselines.get("last_visible_value"), task.baselines.get("training_mean")
            fraction = task.fraction_of_ceiling
            rows.append(
                [
                    name,
                    str(task.n_windows),
                    number(task.score),
                    number(held.score if held else None),
                    number(task.ceiling.score if task.ceiling else None),
                    "-" if fraction is None else f"{round(100 * fraction)}%",
                    number(task.response_loss),
                    number(mean.response_loss if mean else None),
                    *(number(task.behavior_groups.get(group)) for group in groups),
                ]
            )
        return header + groups, rows

    def table(self) -> str:
        """The scores as a text table, with remarks below it."""
        title = f"{self.session_key}: tier {self.tier}, {self.n_neurons} neurons"
        return "\n".join([title, *text_table(*self.rows(), rule=True), *self.remarks()])

    def remarks(self) -> list[str]:
        """Everything a reader of the table must know: windows and tasks left out, missing baselines."""
        notes = [f"{name}: {note}" for name, task in self.tasks.items() for note in task.notes]
        notes += [f"{name}: not scored: {reason}" for name, reason in self.left_out.items()]
        if "behavior" in self.settings.get("missing", ()):
            notes.append("this recording has no behavior, so none is decoded")
        return [*self.settings.get("tier_notes", ()), *notes]

    def to_dict(self, *, per_neuron: bool = True) -> dict[str, Any]:
        """The scores as plain dicts, lists, numbers and strings; NaN becomes None.

        Args:
            per_neuron: include the correlation of every neuron.
        """
        return {
            "session_key": self.session_key,
            "tier": self.tier,
            "n_neurons": self.n_neurons,
            "core_sha256": self.core_sha256,
            "session_sha256": self.session_sha256,
            "settings": plain(self.settings),
            "tasks": {name: _task_dict(task, per_neuron) for name, task in self.tasks.items()},
            "left_out": dict(self.left_out),
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scores:
        """Reads what `save` wrote.

        Raises:
            ValueError: The file is missing or holds something else.
        """
        content = read_mapping(Path(path), "scores as `omnimouse evaluate --output` writes them")
        try:
            tasks = {name: _task_from_dict(task) for name, task in content["tasks"].items()}
            return cls(**{**content, "tasks": tasks})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} does not hold scores as `omnimouse evaluate --output` writes them ({error!r}). Evaluate again."
            ) from None

    def save(self, path: str | os.PathLike[str], *, per_neuron: bool = True) -> Path:
        """Write the scores as JSON, atomically (a temporary file is renamed). Returns the path."""
        text = json.dumps(self.to_dict(per_neuron=per_neuron), indent=2, allow_nan=False) + "\n"
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return Path(path)


def _task_from_dict(content: dict[str, Any]) -> TaskScore:
    """The inverse of `_task_dict`; what follows from other fields is left out."""

    def arrays(part: dict[str, Any]) -> dict[str, Any]:
        return {k: np.array(v, dtype=np.float64) if k == "per_neuron" and v is not None else v for k, v in part.items()}

    task = arrays({k: v for k, v in content.items() if k not in ("median", "fraction_of_ceiling")})
    if task.get("neuron_index") is not None:
        task["neuron_index"] = np.array(task["neuron_index"], dtype=np.int64)
    for name in ("behavior", "behavior_groups"):
        task[name] = _with_nan(content[name])
    task["baselines"] = {k: None if v is None else Baseline(**arrays(v)) for k, v in content["baselines"].items()}
    if content["ceilings"] is not None:
        # Per neuron is left out of short files; a ceiling without it still bounds the mean.
        task["ceilings"] = {
            k: Ceiling(**{"per_neuron": np.empty(0), **_with_nan(arrays(v))}) for k, v in content["ceilings"].items()
        }
    task["notes"] = tuple(content.get("notes", ()))
    return TaskScore(**task)


def _with_nan(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: where a number must be, its null is one."""
    return {name: math.nan if value is None else value for name, value in numbers.items()}


def _task_dict(task: TaskScore, per_neuron: bool) -> dict[str, Any]:
    def part(value: Baseline | Ceiling | None) -> dict[str, Any] | None:
        if value is None:
            return None
        return {k: plain(v) for k, v in vars(value).items() if per_neuron or k != "per_neuron"}

    hidden = set() if per_neuron else {"per_neuron", "neuron_index"}
    result = {key: plain(value) for key, value in vars(task).items() if key not in hidden | {"baselines", "ceilings"}}
    result["median"] = plain(task.median)
    result["fraction_of_ceiling"] = plain(task.fraction_of_ceiling)
    result["baselines"] = {name: part(value) for name, value in task.baselines.items()}
    result["ceilings"] = None if task.ceilings is None else {k: part(v) for k, v in task.ceilings.items()}
    return result


def number(value: float | None) -> str:
    """A number for a table: three digits, "-" for None, "undefined" for NaN."""
    if value is None:
        return "-"
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def median(per_neuron: np.ndarray) -> float:
    """Median over neurons that have a correlation, NaN if none has."""
    defined = per_neuron[~np.isnan(per_neuron)]
    return float(np.median(defined)) if defined.size else math.nan
