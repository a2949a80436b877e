"""Scoring and predicting with a model: `evaluate`, `predict`, and a report as one HTML file."""

from omnimouse.evaluation.evaluate import evaluate
from omnimouse.evaluation.metrics import combine_sessions
from omnimouse.evaluation.predict import Predictions, predict
from omnimouse.evaluation.report import write_report
from omnimouse.evaluation.scores import Baseline, Ceiling, Scores, TaskScore

__all__ = [
    "Baseline",
    "Ceiling",
    "Predictions",
    "Scores",
    "TaskScore",
    "combine_sessions",
    "evaluate",
    "predict",
    "write_report",
]
