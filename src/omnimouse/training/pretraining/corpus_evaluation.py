"""Evaluation during a pre-training: the validation masks on held-out trials of some sessions of every process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator

from omnimouse.evaluation.accumulate import TaskRun
from omnimouse.evaluation.inputs import finite_windows, run_model, usable
from omnimouse.evaluation.rotation import Rotation
from omnimouse.evaluation.scores import TaskScore
from omnimouse.model.masks import Mask, fit_masks
from omnimouse.support.spreading import spread
from omnimouse.training.pretraining.corpus_recordings import OpenRecordings
from omnimouse.training.runs.distributed import Processes

if TYPE_CHECKING:
    from omnimouse.pretrained.omnimouse_model import OmniMouseModel

_KINDS = ("loss", "score", "behavior_loss")


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
        self, model: OmniMouseModel, accelerator: Accelerator, processes: Processes
    ) -> dict[str, dict[str, Any]]:
        """Scores and averages over the sessions of all processes, each session with the same weight.

        Returns:
            mask -> {"loss" (as in training), "score" (correlation), "behavior_loss", "n_sessions"}; None where the mask
            has no such number or no session can serve it. The model is left in eval mode.
        """
        totals = {name: {kind: [0.0, 0] for kind in _KINDS} for name in self.masks}
        with processes.together("evaluate"):
            model.eval()
            for key in self.keys:
                for name, score in self._score(model, accelerator, key).items():
                    for kind, value in _numbers(score, model.config.behavior_loss_weight).items():
                        if value is not None:
                            totals[name][kind][0] += value
                            totals[name][kind][1] += 1
        flat = [number for entry in totals.values() for kind in _KINDS for number in entry[kind]]
        added = iter(processes.add_numbers(flat))
        result: dict[str, dict[str, Any]] = {}
        for name in self.masks:
            entry: dict[str, Any] = {}
            for kind in _KINDS:
                total, count = next(added), next(added)
                entry[kind] = total / count if count else None
                if kind == "loss":
                    entry["n_sessions"] = round(count)
            result[name] = entry
        return result

    def _score(self, model: OmniMouseModel, accelerator: Accelerator, key: str) -> dict[str, TaskScore]:
        """Scores one session: mask -> score, of the masks that it can serve."""
        with self.recordings.lend(key) as windows:
            n_neurons, absent = windows.recording.n_neurons, windows.missing_channels
            fitted, _ = fit_masks(self.masks, n_neurons, model.config, windows.missing)
            runs = [
                TaskRun(
                    name,
                    mask,
                    mask.resolve(n_neurons, model.config),
                    model.config,
                    None,
                    absent,
                    Rotation.of(mask, key, n_neurons, windows.recording.unit_ids),
                )
                for name, mask in fitted.items()
            ]
            indices = spread(len(windows), self.max_windows)
            with torch.no_grad():
                for start in range(0, len(indices), self.batch_size):
                    chosen = indices[start : start + self.batch_size]
                    batch = windows.batch(chosen)
                    finite = finite_windows(batch, windows.missing_channels)
                    for run in runs:
                        rows = usable(finite, run.needs.inputs)
                        if rows.any():
                            part = {name: batch[name][rows].to(accelerator.device) for name in run.needs.passed}
                            starts = windows.starts[np.asarray(chosen)[rows.numpy()]]
                            ids = None if run.rotation is None else run.rotation.neuron_ids(starts)
                            with accelerator.autocast():
                                output = run_model(model, key, run.mask, part, neuron_ids=ids)
                            run.update(output, part, None, finite.get("behavior", rows)[rows], ids)
        return {run.name: run.finish() for run in runs if run.n_windows}


def _numbers(score: TaskScore, behavior_weight: float) -> dict[str, float | None]:
    """The numbers of a score that are averaged."""
    terms = [score.response_loss, None if score.behavior_loss is None else behavior_weight * score.behavior_loss]
    known = [term for term in terms if term is not None]
    return {"loss": sum(known) if known else None, "score": score.score, "behavior_loss": score.behavior_loss}
