"""Measured scores as a model folder keeps them: `scores.json`, each with the hashes of the weights it was measured on.

A score says something about exactly the weights it was measured on. Every change of the core, of what it computes with
(`core_identity.core_settings`) or of the session's vectors makes it a score of something else, so `still_true` decides
by hash what may be shown beside a model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omnimouse.evaluation.scores import Scores
from omnimouse.support.files import plain, read_json, write_json
from omnimouse.support.validation import check_types, from_mapping
from omnimouse.support.version import __version__

SCORES_FILE = "scores.json"

RESPONSE_METRIC = "single-trial correlation, mean over neurons"

SETTINGS = ("stride", "include_blanks", "max_windows", "profile", "tier_in_training")
"""What of the settings of an evaluation a number is stored with."""


def behavior_metric(group: str) -> str:
    """Name of the metric of a group of decoded behaviour channels ("pupil", "gaze", "running")."""
    return f"correlation of decoded {group}"


@dataclass(frozen=True, kw_only=True)
class MeasuredScore:
    """One number that was measured, with all that one has to know to repeat it.

    Fields of another type than declared are refused (`ValueError`), and numbers that are not finite.
    """

    session_key: str  # the session scored
    task: str  # name of the task or evaluation mask
    tier: str  # the trials scored
    metric: str  # `RESPONSE_METRIC`, or `behavior_metric(group)`
    value: float  # the correlation, -1 to 1
    n_windows: int  # windows that went into it
    n_neurons: int  # neurons of the session
    core_sha256: str  # hash of the core it was measured on
    session_sha256: str  # hash of the session's four tensors
    package_version: str  # version of omnimouse that measured it
    last_value: float | None = None  # score of every neuron's last visible sample, where there is one
    ceiling: float | None = None  # what no model can exceed on the same windows; of simulated recordings only
    simulated: bool | None = None  # whether the recording is a simulated one; None where the task does not tell
    stride: int | None = None  # every stride-th possible window start was used
    include_blanks: bool | None = None  # whether windows on blank screens were scored too
    max_windows: int | None = None  # at most so many windows were scored, spread over the tier; None for all
    profile: str | None = None  # rules by which windows were cut and standardised
    tier_in_training: str | None = None  # "trained on" or "selected on" where the weights know these trials

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What the number is a score of: session, task, tier and metric."""
        return self.session_key, self.task, self.tier, self.metric

    @property
    def is_behavior(self) -> bool:
        """Whether it scores decoded behaviour and not responses."""
        return self.metric != RESPONSE_METRIC


def measured_scores(scores: Scores) -> list[MeasuredScore]:
    """Turns what `evaluate` returned into single measured numbers.

    Undefined correlations are left out, and so are masks that a caller built and named: nobody else could tell from
    the name what was asked.

    Raises:
        ValueError: The scores do not say which weights they were measured on.
    """
    if scores.core_sha256 is None or scores.session_sha256 is None:
        raise ValueError(
            f"The scores of session {scores.session_key!r} do not say which weights they were measured on "
            "(core_sha256, session_sha256). Measure them with omnimouse.evaluate."
        )
    # A task that predicts responses knows whether there is a ceiling, hence whether the mouse is simulated.
    predicting = [task for task in scores.tasks.values() if task.score is not None]
    shared: dict[str, Any] = {
        **{
            name: getattr(scores, name)
            for name in ("session_key", "tier", "n_neurons", "core_sha256", "session_sha256")
        },
        **{name: scores.settings.get(name) for name in SETTINGS},
        "package_version": __version__,
        "simulated": any(task.ceilings for task in predicting) if predicting else None,
    }
    found = []
    for name, task in scores.tasks.items():
        if name in scores.settings.get("own_masks", ()):
            continue
        last_value = task.baselines.get("last_visible_value")
        beside = {
            "last_value": plain(last_value.score if last_value else None),
            "ceiling": plain(task.ceiling.score if task.ceiling else None),
        }
        numbers: list[tuple[str, float | None, int, dict[str, Any]]] = [
            (RESPONSE_METRIC, task.score, task.n_windows, beside),
            *((behavior_metric(group), v, task.n_behavior_windows, {}) for group, v in task.behavior_groups.items()),
        ]
        for metric, value, n_windows, more in numbers:
            if value is not None and math.isfinite(value):
                score = MeasuredScore(
                    task=name, metric=metric, value=float(value), n_windows=n_windows, **more, **shared
                )
                found.append(score)
    return found


def merge_scores(old: Iterable[MeasuredScore], new: Iterable[MeasuredScore]) -> list[MeasuredScore]:
    """Joins two lists, sorted; of two scores of the same session, task, tier and metric the new one stays."""
    merged = {score.identity: score for score in (*old, *new)}
    return [merged[identity] for identity in sorted(merged)]


def still_true(
    scores: Iterable[MeasuredScore], *, core_sha256: str | Collection[str], session_hashes: Mapping[str, str]
) -> list[MeasuredScore]:
    """Keeps the scores that were measured on exactly these weights.

    `core_sha256` is `model.core_hash()`, or all hashes that the core is known by; `session_hashes` names, by key, the
    hash of a session's four tensors. Scores of sessions that are not listed are dropped.
    """
    cores = {core_sha256} if isinstance(core_sha256, str) else core_sha256
    return [
        score
        for score in scores
        if score.core_sha256 in cores and session_hashes.get(score.session_key) == score.session_sha256
    ]


def read_scores(folder: Path) -> list[MeasuredScore]:
    """Reads `scores.json` of a model or adapter folder; empty when there is none.

    Fields that this version does not know are ignored.

    Raises:
        ValueError: The file is no list of scores, or an entry lacks a field or has one of another type.
    """
    path = folder / SCORES_FILE
    if not path.exists():
        return []
    content = read_json(path, "a list of measured scores")
    if not isinstance(content, list):
        raise ValueError(f"{path} should hold a list of measured scores, but holds a {type(content).__name__}.")
    scores = []
    for number, entry in enumerate(content):
        where, fields = f"{path}: entry {number}", entry if isinstance(entry, dict) else {}
        try:
            scores.append(from_mapping(MeasuredScore, fields, where=where, exact=True, ignore_unknown=True))
        except ValueError as error:
            raise ValueError(f"{error} Or delete the entry, or the file.") from None
    return scores


def write_scores(folder: Path, scores: Iterable[MeasuredScore]) -> None:
    """Writes `scores.json`, atomically and in sorted order; without scores there is no such file afterwards."""
    content = [asdict(score) for score in merge_scores((), scores)]
    if content:
        write_json(folder / SCORES_FILE, content)
    else:
        (folder / SCORES_FILE).unlink(missing_ok=True)
