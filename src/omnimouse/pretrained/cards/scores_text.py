"""Measured scores as model cards show them: tables for people, a model-index for machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from huggingface_hub import EvalResult

from omnimouse.pretrained.measured import RESPONSE_METRIC, MeasuredScore, behavior_metric, merge_scores

MOST_SESSIONS = 20
"""A card lists so many sessions one by one; of more it gives totals and means."""

_RECORDING = "mouse-visual-cortex-recording"


def rounded(value: float) -> float:
    """Four digits after the point, never a negative zero."""
    return round(float(value), 4) + 0.0


def score_tables(scores: Iterable[MeasuredScore]) -> list[dict[str, Any]]:
    """Groups scores that were measured in the same way on the same session and tier.

    Returns:
        One dict per group: title and note (text); responses (scores); groups (names of decoded behaviour) and behavior,
        one dict per task with task, n_windows and values (one per name, None where it was not scored).
    """
    groups: dict[tuple[Any, ...], list[MeasuredScore]] = {}
    for score in merge_scores((), scores):
        groups.setdefault((score.session_key, score.tier, _note(score)), []).append(score)
    return [
        {
            "title": f"{key}, tier {tier}",
            "note": note,
            "responses": [score for score in group if not score.is_behavior],
            **_behavior_rows([score for score in group if score.is_behavior]),
        }
        for (key, tier, note), group in sorted(groups.items())
    ]


def _behavior_rows(scores: Sequence[MeasuredScore]) -> dict[str, Any]:
    """One row per task, one column per decoded group."""
    metrics = sorted({score.metric for score in scores})
    rows: dict[tuple[str, int], dict[str, float]] = {}
    for score in scores:
        rows.setdefault((score.task, score.n_windows), {})[score.metric] = score.value
    return {
        "groups": [metric.removeprefix(behavior_metric("")) for metric in metrics],
        "behavior": [
            {"task": task, "n_windows": n_windows, "values": [values.get(metric) for metric in metrics]}
            for (task, n_windows), values in rows.items()
        ],
    }


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


def score_means(scores: Iterable[MeasuredScore]) -> list[dict[str, Any]]:
    """Means over sessions, each counting once.

    Returns:
        One dict per task, tier and metric: task, tier, metric, n_sessions, mean, lowest, highest.
    """
    groups: dict[tuple[str, str, str], list[float]] = {}
    for score in merge_scores((), scores):
        groups.setdefault((score.task, score.tier, score.metric), []).append(score.value)
    return [
        {
            "task": task,
            "tier": tier,
            "metric": metric,
            "n_sessions": len(values),
            "mean": sum(values) / len(values),
            "lowest": min(values),
            "highest": max(values),
        }
        for (task, tier, metric), values in sorted(groups.items())
    ]


def has_many_sessions(scores: Iterable[MeasuredScore]) -> bool:
    """Whether scores belong to more sessions than a card lists one by one."""
    return len({score.session_key for score in scores}) > MOST_SESSIONS


def eval_results(scores: Sequence[MeasuredScore]) -> list[EvalResult]:
    """Scores as entries of a model-index: one per score, or means over sessions where there are too many sessions.

    huggingface_hub tells entries apart by task type, dataset type, configuration and split, and files all others under
    the first one's names; so the configuration names session and task.
    """
    if has_many_sessions(scores):
        return [
            _result(
                row["task"],
                tier=row["tier"],
                metric=row["metric"],
                value=row["mean"],
                session=f"{row['n_sessions']} sessions",
                note=", mean over sessions",
            )
            for row in score_means(scores)
        ]
    return [
        _result(
            score.task,
            tier=score.tier,
            metric=score.metric,
            value=score.value,
            session=score.session_key,
            facts={"n_neurons": score.n_neurons, "n_windows": score.n_windows}
            | ({"simulated": True} if score.simulated else {}),
        )
        for score in merge_scores((), scores)
    ]


def _result(
    task: str,
    *,
    tier: str,
    metric: str,
    value: float,
    session: str,
    note: str = "",
    facts: dict[str, Any] | None = None,
) -> EvalResult:
    return EvalResult(
        task_type="behavior-decoding" if metric != RESPONSE_METRIC else "neural-response-prediction",
        task_name=task,
        dataset_type=_RECORDING,
        dataset_name=session,
        dataset_config=f"{session}, {task}",
        dataset_split=tier,
        dataset_args=facts,
        metric_type="correlation",
        metric_name=metric + note,
        metric_value=rounded(value),
    )
