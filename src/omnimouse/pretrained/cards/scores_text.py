"""Measured scores as model cards show them: tables for people, a model-index for machines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

from omnimouse.pretrained.measured import RESPONSE_METRIC, MeasuredScore, behavior_metric, merge_scores

MOST_SESSIONS = 20
"""A card lists so many sessions one by one; of more it gives totals and means."""


@dataclass(frozen=True)
class MeanScore:
    """Mean of one metric over sessions, each counting once, and the extremes of it."""

    task: str
    tier: str
    metric: str
    n_sessions: int
    value: float
    lowest: float
    highest: float


def rounded(value: float) -> float:
    """Four digits after the point, never a negative zero."""
    return round(float(value), 4) + 0.0


def score_tables(scores: Iterable[MeasuredScore]) -> list[dict[str, Any]]:
    """Groups scores that were measured in the same way on the same session and tier.

    Returns:
        One dict per group: title and note (text); responses (scores); groups (names of decoded behaviour) and behavior,
        one dict per task with task, n_windows and values (one per name, None where it was not scored).
    """
    groups: dict[tuple[str, str, str], list[MeasuredScore]] = defaultdict(list)
    for score in merge_scores((), scores):
        groups[score.session_key, score.tier, _note(score)].append(score)
    tables = []
    for (key, tier, note), group in sorted(groups.items()):
        behavior = [score for score in group if score.is_behavior]
        metrics = sorted({score.metric for score in behavior})
        rows: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
        for score in behavior:
            rows[score.task, score.n_windows][score.metric] = score.value
        tables.append(
            {
                "title": f"{key}, tier {tier}",
                "note": note,
                "responses": [score for score in group if not score.is_behavior],
                "groups": [metric.removeprefix(behavior_metric("")) for metric in metrics],
                "behavior": [
                    {"task": task, "n_windows": n_windows, "values": [values.get(metric) for metric in metrics]}
                    for (task, n_windows), values in rows.items()
                ],
            }
        )
    return tables


def _note(score: MeasuredScore) -> str:
    """How a score was measured, in words; what is not known is not said."""
    neurons = f"{score.n_neurons:,} neuron{'s' if score.n_neurons != 1 else ''}"
    parts = [f"{neurons} of a simulated mouse, which say nothing about real ones" if score.simulated else neurons]
    if score.stride is not None:
        parts.append(f"stride {score.stride}")
    if score.include_blanks is not None:
        parts.append("blank screens included" if score.include_blanks else "without blank screens")
    if score.max_windows is not None:
        parts.append(f"at most {score.max_windows:,} windows, spread over the tier")
    if score.profile is not None:
        parts.append(f"profile {score.profile}")
    if score.tier_in_training is not None:
        parts.append(f"on trials that the weights were {score.tier_in_training}, so too high")
    return "; ".join([*parts, f"omnimouse {score.package_version}"])


def score_means(scores: Iterable[MeasuredScore]) -> list[MeanScore]:
    """Means over sessions, one per task, tier and metric."""
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for score in merge_scores((), scores):
        groups[score.task, score.tier, score.metric].append(score.value)
    return [
        MeanScore(*group, len(values), sum(values) / len(values), min(values), max(values))
        for group, values in sorted(groups.items())
    ]


def has_many_sessions(scores: Iterable[MeasuredScore]) -> bool:
    """Whether scores belong to more sessions than a card lists one by one."""
    return len({score.session_key for score in scores}) > MOST_SESSIONS


def eval_results(scores: Sequence[MeasuredScore]) -> list[EvalResult]:
    """Scores as entries of a model-index: one per score, or means over sessions where there are too many sessions."""
    if has_many_sessions(scores):
        return [
            _eval_result(mean, f"{mean.n_sessions} sessions", f"{mean.metric}, mean over sessions", None)
            for mean in score_means(scores)
        ]
    return [
        _eval_result(
            score,
            score.session_key,
            score.metric,
            {"n_neurons": score.n_neurons, "n_windows": score.n_windows}
            | ({"simulated": True} if score.simulated else {}),
        )
        for score in merge_scores((), scores)
    ]


def _eval_result(
    score: MeasuredScore | MeanScore, session: str, metric: str, facts: dict[str, Any] | None
) -> EvalResult:
    """One entry.

    huggingface_hub tells entries apart by task type, dataset type, configuration and split, and files all others under
    the first one's names; so the configuration names session and task.
    """
    return EvalResult(
        task_type="behavior-decoding" if score.metric != RESPONSE_METRIC else "neural-response-prediction",
        task_name=score.task,
        dataset_type="mouse-visual-cortex-recording",
        dataset_name=session,
        dataset_config=f"{session}, {score.task}",
        dataset_split=score.tier,
        dataset_args=facts,
        metric_type="correlation",
        metric_name=metric,
        metric_value=rounded(score.value),
    )
