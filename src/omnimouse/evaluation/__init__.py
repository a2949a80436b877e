"""Scoring and predicting with a model: `evaluate`, `predict`, and a report as one HTML file.

What `evaluate`, `predict`, `evaluate_static` and `write_static_submission` all take:

    model: holds the session of the recording. It is in eval mode meanwhile.
    recording: an open recording or its folder.
    tier: the trials. Default: the first of `SCORED_TIERS` ("final_test", "test", ..., "oracle") that the recording has,
        else any other whose responses are known and that the weights were not trained on.
    stride: use every stride-th possible window start. The profile "strict" counts anew in every trial, so there a
        contiguous run of windows is a trial: what lies behind its border may be seen both by a window that reaches
        across and by one of the next trial.
    include_blanks: also use windows on blank screens between trials, as the published test scores do.
    processor: how to cut and normalise windows; default: the session's own, else the model's, else "strict".
    batch_size: windows per forward pass, and in memory at a time; fewer where so many neurons would take more than a
        gigabyte (16 on an accelerator).
    progress: show a progress bar.
    session: key of the session in the model; default: the key of the recording.
    device: where to compute ("cpu", "cuda", "cuda:1", "mps", a `torch.device`); default: where the model is. The model
        is moved for the call, and is afterwards where it was.
    precision: "float32", "bfloat16" (`torch.autocast`, as for the published scores), or "auto": what the caller's own
        `torch.autocast` or the type of the weights says, else bfloat16 for cores of hidden size 256 and more (every
        published one) where it is clearly faster: on GPUs that have it, and on CPUs on which a short measurement, made
        once and remembered, finds matrix products at least 1.5 times faster. Scores say which one it was.
"""

from omnimouse.evaluation.evaluate import evaluate
from omnimouse.evaluation.metrics import combine_sessions
from omnimouse.evaluation.predict import predict
from omnimouse.evaluation.predicting.predictions import Predictions
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
