"""Scoring and predicting with a model: `evaluate`, `predict`, and a report as one HTML file."""

from omnimouse.evaluation.evaluate import evaluate
from omnimouse.evaluation.metrics import combine_sessions
from omnimouse.evaluation.predict import Predictions, predict
from omnimouse.evaluation.report import write_report
from omnimouse.evaluation.scores import Baseline, Ceiling, Scores, TaskScore
from omnimouse.evaluation.static.evaluate_static import evaluate_static, write_static_submission
from omnimouse.evaluation.static.static_scores import StaticScores

__all__ = [
    "Baseline",
    "Ceiling",
    "Predictions",
    "Scores",
    "StaticScores",
    "TaskScore",
    "combine_sessions",
    "evaluate",
    "evaluate_static",
    "predict",
    "write_report",
    "write_static_submission",
]
