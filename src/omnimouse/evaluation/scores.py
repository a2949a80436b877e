"""What an evaluation returns: scores per task with their baselines and ceiling, as a table, a dict or a JSON file.

Shape letters: Q target neurons of the task.
"""

from __future__ import annotations

import html
import json
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.evaluation.computing.precision import NOTE
from omnimouse.support.files import plain, read_mapping, write_text
from omnimouse.support.text_tables import html_table, text_table

ROWS_SHOWN, NOTES_SHOWN, NOTE_SHOWN = 12, 6, 240
"""Tasks, remarks, and characters of a remark, that scores show when they are not asked for their table."""


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


class StoredScores:
    """Scores that show themselves as a table with remarks, and are kept as JSON."""

    def title(self) -> str:
        """What was scored, in a line."""
        raise NotImplementedError

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """The score table as (header, rows) of text, for terminals and reports; "-" where there is nothing to show."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """Everything a reader of the table must know."""
        raise NotImplementedError

    def to_dict(self, *, per_neuron: bool = True) -> dict[str, Any]:
        """The scores as plain dicts, lists, numbers and strings; NaN becomes None.

        Args:
            per_neuron: include the values of every neuron.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        """The table, without what would be many lines."""
        header, rows = self.rows()
        notes = [note for note in self.remarks() if len(note) <= NOTE_SHOWN][:NOTES_SHOWN]
        lines = [self.title(), *text_table(header, rows[:ROWS_SHOWN], rule=True), *notes]
        hidden = {"tasks": len(rows) - len(rows[:ROWS_SHOWN]), "remarks": len(self.remarks()) - len(notes)}
        more = " and ".join(f"{count} more {what}" for what, count in hidden.items() if count)
        return "\n".join([*lines, *([f"({more}: see .table())"] if more else [])])

    def _repr_html_(self) -> str:
        """The table and its remarks, for notebooks."""
        remarks = "".join(f"<li>{html.escape(remark)}</li>" for remark in self.remarks())
        return f"<p>{html.escape(self.title())}</p>{html_table(*self.rows())}<ul>{remarks}</ul>"

    def table(self) -> str:
        """The scores as a text table, with remarks below it."""
        return "\n".join([self.title(), *text_table(*self.rows(), rule=True), *self.remarks()])

    def save(self, path: str | os.PathLike[str], *, per_neuron: bool = True) -> Path:
        """Writes the scores as JSON, atomically (a temporary file is renamed). Returns the path."""
        write_text(Path(path), json.dumps(self.to_dict(per_neuron=per_neuron), indent=2, allow_nan=False) + "\n")
        return Path(path)


@dataclass(frozen=True, repr=False)
class Scores(StoredScores):
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

    def __getitem__(self, task: str) -> TaskScore:
        if task not in self.tasks:
            reason = f" ({self.left_out[task]})" if task in self.left_out else ""
            raise ValueError(f"no score for task {task!r}{reason}; scored: {', '.join(self.tasks)}")
        return self.tasks[task]

    def title(self) -> str:
        """Session, tier and neurons."""
        return f"{self.session_key}: tier {self.tier}, {self.n_neurons} neurons"

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """One row per task, see `StoredScores.rows`."""
        header = ["task", "windows", "score", "last value", "ceiling", "of ceiling", "loss", "loss of mean"]
        groups = list(dict.fromkeys(group for task in self.tasks.values() for group in task.behavior_groups))
        rows = []
        for name, task in self.tasks.items():
            held, mean = task.baselines.get("last_visible_value"), task.baselines.get("training_mean")
            scores = [number(part.score if part else None) for part in (task, held, task.ceiling)]
            losses = [number(part.response_loss if part else None) for part in (task, mean)]
            decoded = [number(task.behavior_groups.get(group)) for group in groups]
            rows.append([name, str(task.n_windows), *scores, percent(task.fraction_of_ceiling), *losses, *decoded])
        return header + groups, rows

    def remarks(self) -> list[str]:
        """Everything a reader of the table must know: windows and tasks left out, missing baselines."""
        notes = [f"{name}: {note}" for name, task in self.tasks.items() for note in task.notes]
        notes += [f"{name}: not scored: {reason}" for name, reason in self.left_out.items()]
        if "behavior" in self.settings.get("missing", ()):
            notes.append("this recording has no behavior, so none is decoded")
        if self.settings.get("precision") == "bfloat16":
            notes.append(NOTE)
        return [*self.settings.get("tier_notes", ()), *notes]

    def to_dict(self, *, per_neuron: bool = True) -> dict[str, Any]:
        """See `StoredScores.to_dict`."""
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


def _task_from_dict(content: dict[str, Any]) -> TaskScore:
    """The inverse of `_task_dict`; what follows from other fields is left out."""
    task = _arrays({name: value for name, value in content.items() if name not in ("median", "fraction_of_ceiling")})
    if task.get("neuron_index") is not None:
        task["neuron_index"] = np.array(task["neuron_index"], dtype=np.int64)
    for name in ("behavior", "behavior_groups"):
        task[name] = _with_nan(content[name])
    task["baselines"] = {k: None if v is None else Baseline(**_arrays(v)) for k, v in content["baselines"].items()}
    if content["ceilings"] is not None:
        # Per neuron is left out of short files; a ceiling without it still bounds the mean.
        parts = {k: {"per_neuron": np.empty(0), **_with_nan(_arrays(v))} for k, v in content["ceilings"].items()}
        task["ceilings"] = {name: Ceiling(**part) for name, part in parts.items()}
    return TaskScore(**{**task, "notes": tuple(content.get("notes", ()))})


def _arrays(part: dict[str, Any]) -> dict[str, Any]:
    """Fields with the correlations of neurons as an array."""
    found = part.get("per_neuron")
    return part if found is None else part | {"per_neuron": np.array(found, dtype=np.float64)}


def _with_nan(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: where a number must be, its null is one."""
    return {name: math.nan if value is None else value for name, value in numbers.items()}


def _task_dict(task: TaskScore, per_neuron: bool) -> dict[str, Any]:
    def part(value: Any) -> dict[str, Any] | None:
        hidden = () if per_neuron else ("per_neuron", "neuron_index")
        return None if value is None else {k: plain(v) for k, v in vars(value).items() if k not in hidden}

    whole = part(replace(task, baselines={}, ceilings=None)) or {}
    del whole["baselines"], whole["ceilings"]
    return whole | {
        "median": plain(task.median),
        "fraction_of_ceiling": plain(task.fraction_of_ceiling),
        "baselines": {name: part(value) for name, value in task.baselines.items()},
        "ceilings": None if task.ceilings is None else {name: part(value) for name, value in task.ceilings.items()},
    }


def percent(fraction: float | None) -> str:
    """A fraction for a table, "-" for None."""
    return "-" if fraction is None else f"{round(100 * fraction)}%"


def number(value: float | None) -> str:
    """A number for a table: three digits, "-" for None, "undefined" for NaN."""
    if value is None:
        return "-"
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def median(per_neuron: np.ndarray) -> float:
    """Median over neurons that have a correlation, NaN if none has."""
    defined = per_neuron[~np.isnan(per_neuron)]
    return float(np.median(defined)) if defined.size else math.nan
