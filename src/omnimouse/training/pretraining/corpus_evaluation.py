"""Evaluation during a pre-training: the validation masks on held-out trials of some sessions of every process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from omnimouse.evaluation.accumulate import TaskRun, score_windows
from omnimouse.evaluation.inputs import Task
from omnimouse.evaluation.scores import TaskScore
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.mask_fitting import fit_masks
from omnimouse.model.masking.masks import Mask, as_mask
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.support.spreading import spread
from omnimouse.training.pretraining.corpus_recordings import OpenRecordings, SessionInfo, matching_sessions
from omnimouse.training.pretraining.pretraining_recipe import AUTO, EVALUATION_TIERS, PretrainingRecipe
from omnimouse.training.runs.distributed import Processes

_KINDS = ("loss", "score", "behavior_loss")


def choose_evaluation(
    recipe: PretrainingRecipe,
    sessions: Mapping[str, SessionInfo],
    owned: Sequence[Sequence[str]],
    rank: int,
    config: OmniMouseConfig,
    processor: OmniMouseProcessor,
) -> CorpusEvaluation | None:
    """Chooses what one process scores in between; None where nothing is to be, or no session has such a tier.

    `owned` are the sessions of every process, `rank` is the number of this one.

    Raises:
        ValueError: no recording has the tier asked for, a session asked for is not there, or has no window.
    """
    wanted = recipe.evaluation
    if wanted.every is None:
        return None
    preferred = EVALUATION_TIERS if wanted.tier == AUTO else (wanted.tier,)
    candidates = [tier for tier in preferred if tier not in recipe.recordings.tiers]
    found = {key: next((t for t in candidates if t in info.tiers), None) for key, info in sessions.items()}
    held_out = {key: (tier,) for key, tier in found.items() if tier is not None}
    if not held_out and wanted.tier == AUTO:
        return None
    if not held_out:
        tiers = sorted({tier for info in sessions.values() for tier in info.tiers})
        raise ValueError(
            f"No recording has the tier {wanted.tier!r} to evaluate on; there are {', '.join(tiers)}. Set "
            "evaluation.tier to one of them, or evaluation.every to null."
        )
    named = matching_sessions(held_out, wanted.sessions, "evaluation.sessions")
    chosen = []
    for keys in owned:
        keys = [key for key in keys if key in (named or held_out)]
        chosen.append(keys if named or not keys else [keys[i] for i in spread(len(keys), wanted.max_sessions)])
    mine = {key: sessions[key] for key in owned[rank]}
    capacity = recipe.loader.open_recordings
    recordings = OpenRecordings(recipe.recordings, mine, processor, capacity=capacity, tiers=held_out)
    for key in chosen[rank]:
        with recordings.lend(key):
            pass  # a tier without windows is found out now rather than at the first evaluation
    return CorpusEvaluation(
        recordings,
        chosen[rank],
        [key for keys in chosen for key in keys],
        {name: as_mask(name, config) for name in wanted.masks},
        max_windows=wanted.max_windows,
        batch_size=recipe.batch_size,
    )


class CorpusEvaluation:
    """Scores the model on held-out windows: all neurons, ordered as `evaluate` does, without baselines.

    Args:
        recordings: windows of the held-out tier.
        keys: sessions of this process to score.
        sessions: those of all processes.
        masks: name -> mask; sessions whose population or recording it does not fit are left out of it.
        max_windows: windows per session, evenly spread.
        batch_size: windows per forward pass.
    """

    def __init__(
        self,
        recordings: OpenRecordings,
        keys: Sequence[str],
        sessions: Sequence[str],
        masks: Mapping[str, Mask],
        *,
        max_windows: int,
        batch_size: int,
    ) -> None:
        self.recordings, self.keys, self.masks = recordings, list(keys), dict(masks)
        self.sessions = sorted(sessions)
        self.max_windows, self.batch_size = max_windows, batch_size

    def __call__(
        self, model: OmniMouseNetwork, accelerator: Accelerator, processes: Processes
    ) -> dict[str, dict[str, Any]]:
        """Scores and averages over the sessions of all processes, each session with the same weight.

        Returns:
            mask -> {"loss" (as in training), "score" (correlation), "behavior_loss", "n_sessions"}; None where the mask
            has no such number or no session can serve it. The model is left in eval mode.
        """
        # [mask, kind, (sum, sessions that have it)]
        totals = np.zeros((len(self.masks), len(_KINDS), 2))
        with processes.together("evaluate"):
            model.eval()
            for key in self.keys:
                scores = self._score(model, accelerator, key)
                for row, name in zip(totals, self.masks, strict=True):
                    if name in scores:
                        values = _averaged(scores[name], model.config.behavior_loss_weight)
                        row += [(0.0, 0.0) if value is None else (value, 1.0) for value in values]
        added = np.reshape(processes.add_numbers(totals.flatten().tolist()), totals.shape).tolist()
        result: dict[str, dict[str, Any]] = {}
        for name, pairs in zip(self.masks, added, strict=True):
            means = {kind: total / count if count else None for kind, (total, count) in zip(_KINDS, pairs, strict=True)}
            result[name] = {**means, "n_sessions": round(pairs[0][1])}
        return result

    def _score(self, model: OmniMouseNetwork, accelerator: Accelerator, key: str) -> dict[str, TaskScore]:
        """Scores one session: mask -> score, of the masks that it can serve."""
        with self.recordings.lend(key) as windows:
            fitted, _ = fit_masks(self.masks, windows.recording.n_neurons, model.config, windows.missing)
            tasks = [Task.of(name, mask, model.config, key, windows) for name, mask in fitted.items()]
            runs = [TaskRun(task, model.config, None, windows.missing_channels) for task in tasks]
            indices = spread(len(windows), self.max_windows)
            with torch.no_grad(), accelerator.autocast():
                score_windows(model, key, windows, indices, runs, batch_size=self.batch_size)
        return {run.task.name: run.finish() for run in runs if run.n_windows}


def _averaged(score: TaskScore, behavior_weight: float) -> tuple[float | None, ...]:
    """The numbers of a score that are averaged, in the order of `_KINDS`."""
    terms = [score.response_loss, None if score.behavior_loss is None else behavior_weight * score.behavior_loss]
    known = [term for term in terms if term is not None]
    return sum(known) if known else None, score.score, score.behavior_loss
