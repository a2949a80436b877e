"""Evaluation during a pre-training: every window counts, however they fall into batches."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from omnimouse import OmniMouseProcessor, Windows, evaluate
from omnimouse.model.masking.masks import TASKS
from omnimouse.training.pretraining.corpus_evaluation import CorpusEvaluation
from omnimouse.training.runs.distributed import Processes


def test_it_scores_what_evaluate_scores_in_whole_and_partial_batches(model, recording):
    key, names = model.add_session(recording), ("stimulus", "forecasting+behavior")
    accelerator = Accelerator(cpu=True)
    windows = Windows(recording, "validation", processor=OmniMouseProcessor("strict"))
    scores = evaluate(model, recording, names, "validation", stride=1, max_windows=3, progress=False)
    for batch_size in (2, 3):
        lent = SimpleNamespace(lend=lambda _: nullcontext(windows))
        masks = {name: TASKS[name] for name in names}
        scoring = CorpusEvaluation(lent, [key], [key], masks, max_windows=3, batch_size=batch_size)
        found = scoring(model, accelerator, Processes(accelerator))
        for name in names:
            assert found[name]["n_sessions"] == 1
            assert found[name]["score"] == pytest.approx(scores[name].score, abs=1e-5)
            behavior = scores[name].behavior_loss
            assert found[name]["behavior_loss"] == (behavior if behavior is None else pytest.approx(behavior, rel=1e-5))
            expected = scores[name].response_loss + 0.1 * (behavior or 0.0)
            assert found[name]["loss"] == pytest.approx(expected, rel=1e-5)
