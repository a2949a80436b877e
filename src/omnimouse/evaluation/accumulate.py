"""The scores of one task, added up batch by batch without keeping predictions.

Shape letters: B windows in a batch, L target samples, P neurons of the population, Q target neurons, T samples of a
behavior window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from omnimouse.evaluation import baselines
from omnimouse.evaluation.inputs import (
    Answer,
    Batch,
    SharedVideo,
    Task,
    VideoSource,
    cut_windows,
    encode_windows,
    shared_order,
)
from omnimouse.evaluation.metrics import (
    Moments,
    behavior_loss_sum,
    behavior_scores,
    merge,
    moments,
    pearson,
    poisson_loss_sum,
    session_score,
)
from omnimouse.evaluation.rotation import in_file_order, in_order
from omnimouse.evaluation.scores import Baseline, Ceiling, TaskScore, median
from omnimouse.model.kernels.row_pieces import windows_at_once

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
    from omnimouse.recordings import Windows
    from omnimouse.recordings.simulation.simulated import Truth


class TaskRun:
    """Running moments and loss sums of one task.

    Args:
        task: the task.
        config: of the model.
        means: mean processed response of every neuron [P] over the training tier, None where it is not known.
        missing_channels: rows of the behaviour that were not recorded.
    """

    def __init__(
        self, task: Task, config: OmniMouseConfig, means: np.ndarray | None, missing_channels: Sequence[int] = ()
    ) -> None:
        self.task, self.resolved, self.config, self.means = task, task.resolved, config, means
        self.channels = [row for row in range(len(config.behavior_channels)) if row not in missing_channels]
        self.n_windows = self.n_left_out = self.n_behavior_windows = 0
        self.moments: dict[str, Moments | None] = {}
        self.losses: dict[str, tuple[float, int]] = {}

    def update(self, batch: Batch, answer: Answer | None, expected: Mapping[str, Tensor]) -> None:
        """Adds a batch.

        Args:
            batch: the windows.
            answer: to those that are usable.
            expected: the expected responses of the batch [B, 60, P], by name; none where they are not known.
        """
        if answer is None:
            self.n_left_out += len(batch.indices)
            return
        self.n_windows += len(answer)
        self.n_left_out += len(batch.indices) - len(answer)
        if self.resolved.predicts_responses:
            self._update_responses(answer, {name: values[answer.rows] for name, values in expected.items()})
        if self.resolved.decodes_behavior:
            self._update_behavior(answer, batch.finite.get("behavior", answer.rows)[answer.rows])

    def _update_behavior(self, answer: Answer, finite: Tensor) -> None:
        if not finite.any():
            return
        assert answer.output.behavior_predictions is not None
        self.n_behavior_windows += int(finite.sum())
        rows = finite.to(answer.part["behavior"].device)
        # [B, channel, T] -> [B, T, channel]: one signal per recorded channel.
        targets = _accurate(answer.part["behavior"][rows][:, self.channels].transpose(1, 2))
        predictions = _accurate(answer.output.behavior_predictions[rows][:, self.channels].transpose(1, 2))
        self._add_moments("behavior", predictions, targets)
        for name, values in (("behavior", predictions), ("behavior mean", torch.zeros_like(targets))):
            self._add_loss(name, behavior_loss_sum(values, targets, clamp=self.config.behavior_loss_clamp))

    def _update_responses(self, answer: Answer, expected: Mapping[str, Tensor]) -> None:
        output, responses, neuron_ids = answer.output, answer.part["responses"], answer.neuron_ids
        assert output.response_predictions is not None and output.response_targets is not None
        assert output.target_mask is not None
        predictions, targets = _accurate(output.response_predictions), _accurate(output.response_targets)
        valid, ids = output.target_mask.to(targets.device), None
        if neuron_ids is not None:
            ids = neuron_ids[:, self.resolved.first_target_neuron :]
            responses = in_order(responses, neuron_ids)
            expected = {name: in_order(values, neuron_ids) for name, values in expected.items()}
        rules = {"model": predictions}
        if baselines.last_visible_sample(self.resolved) is not None:
            rules[baselines.LAST_VISIBLE_VALUE] = baselines.last_visible_value(_accurate(responses), self.resolved)
        for name, values in rules.items():
            self._add_moments(name, values, targets, valid, ids)
            self._add_response_loss(name, values, targets, valid)
        if self.means is not None:
            means = self.means if neuron_ids is None else self.means[neuron_ids.cpu().numpy()]
            constant = baselines.training_mean(means, self.resolved, len(targets)).to(targets.device)
            self._add_response_loss(baselines.TRAINING_MEAN, constant, targets, valid)
        for name, values in expected.items():
            part = baselines.target_part(values, self.resolved).to(targets.device)
            self._add_moments(name, part, targets, valid, ids)

    def _add_moments(
        self, name: str, x: Tensor, y: Tensor, valid: Tensor | None = None, target_ids: Tensor | None = None
    ) -> None:
        if target_ids is not None:
            assert valid is not None
            n_neurons = self.resolved.n_neurons
            x, y = (in_file_order(values, target_ids, n_neurons) for values in (x, y))
            valid = in_file_order(valid.expand(len(x), -1, -1), target_ids, n_neurons, fill=False)
        self.moments[name] = merge(self.moments.get(name), moments(x, y, valid))

    def _add_response_loss(self, name: str, x: Tensor, y: Tensor, valid: Tensor) -> None:
        epsilon, clamp = self.config.response_loss_epsilon, self.config.response_loss_clamp
        self._add_loss(name, poisson_loss_sum(x, y, valid, epsilon=epsilon, clamp=clamp))

    def _add_loss(self, name: str, addition: tuple[float, int]) -> None:
        total, count = self.losses.get(name, (0.0, 0))
        self.losses[name] = (total + addition[0], count + addition[1])

    def _loss(self, name: str) -> float | None:
        total, count = self.losses.get(name, (0.0, 0))
        return total / count if count else None

    def _correlations(self, name: str) -> tuple[float, np.ndarray] | None:
        state = self.moments.get(name)
        if state is None:
            return None
        per_neuron = pearson(state)
        return session_score(per_neuron, state.count.cpu().numpy()), per_neuron

    def finish(self) -> TaskScore:
        """The scores over everything added."""
        score, per_neuron = self._correlations("model") or (None, None)
        first, last = self.task.first_target_neuron, self.resolved.n_neurons
        behavior = self.moments.get("behavior")
        names = [self.config.behavior_channels[channel] for channel in self.channels]
        per_channel, groups = behavior_scores(behavior, names) if behavior else ({}, {})
        ceilings = self._ceilings()
        return TaskScore(
            task=self.task.name,
            score=score,
            per_neuron=per_neuron,
            neuron_index=None if score is None else np.arange(first, last),
            response_loss=self._loss("model"),
            behavior=per_channel,
            behavior_groups=groups,
            behavior_loss=self._loss("behavior"),
            baselines=self._baselines(score is not None),
            ceilings=ceilings,
            ceiling_name=baselines.ceiling_name(self.resolved) if ceilings else None,
            n_windows=self.n_windows,
            n_windows_left_out=self.n_left_out,
            n_behavior_windows=self.n_behavior_windows,
            n_samples=self.losses["model"][1] if "model" in self.losses else 0,
            notes=tuple(self._notes(per_channel)),
        )

    def _baselines(self, predicts: bool) -> dict[str, Baseline | None]:
        held = self._correlations(baselines.LAST_VISIBLE_VALUE)
        mean = Baseline(
            score=0.0 if predicts else None,
            response_loss=self._loss(baselines.TRAINING_MEAN),
            behavior_loss=self._loss("behavior mean"),
        )
        last = None
        if held is not None:
            last = Baseline(held[0], held[1], response_loss=self._loss(baselines.LAST_VISIBLE_VALUE))
        return {baselines.TRAINING_MEAN: mean, baselines.LAST_VISIBLE_VALUE: last}

    def _ceilings(self) -> dict[str, Ceiling] | None:
        names = (baselines.GIVEN_STIMULUS_AND_BEHAVIOR, baselines.GIVEN_EVERYTHING)
        found = {name: self._correlations(name) for name in names}
        return {name: Ceiling(r[0], median(r[1]), r[1]) for name, r in found.items() if r is not None} or None

    def _notes(self, per_channel: Mapping[str, float]) -> list[str]:
        state, found = self.moments.get("model"), self._correlations("model")
        unseen = 0 if state is None else int((state.count == 0).sum())
        nans = 0 if found is None else int(np.isnan(found[1]).sum()) - unseen
        constant = ", ".join(name for name, r in per_channel.items() if math.isnan(r))
        n_scored, decodes = self.n_behavior_windows, self.resolved.decodes_behavior
        notes: dict[str, Any] = {
            self.task.left_out(self.n_left_out, self.n_left_out + self.n_windows): self.n_left_out,
            "the recording has no trials of tier 'train', so the loss of the training mean is unknown": (
                self.resolved.predicts_responses and self.means is None
            ),
            f"behaviour scored in {n_scored} of {self.n_windows} windows: NaN in the others": (
                decodes and n_scored < self.n_windows
            ),
            f"neurons that were a target in none of these few windows, not scored: {unseen}": unseen,
            f"neurons without a correlation (they or their predictions do not vary), counted as 0: {nans}": nans,
            f"no correlation for {constant}, which hardly vary in these windows or are not predicted to": constant,
        }
        return [note for note, holds in notes.items() if holds]


def _accurate(values: Tensor) -> Tensor:
    """Move values to where float64 exists: Apple's MPS has none."""
    return values.cpu() if values.device.type == "mps" else values


def score_windows(
    model: OmniMouseNetwork,
    key: str,
    windows: Windows,
    indices: list[int],
    runs: Sequence[TaskRun],
    *,
    batch_size: int,
    truth: Truth | None = None,
    progress: bool = False,
    video_source: VideoSource = encode_windows,
) -> None:
    """Adds windows of session `key` to the scores of several tasks, which share all that they have in common.

    Each window is cut once, its video encoded once for all tasks that show the same frames of it, and a mask that goes
    by several names is asked once.

    Args:
        model: in eval mode; gradients and precision are up to the caller.
        key: the session.
        windows: of its recording.
        indices: which windows.
        runs: the tasks.
        batch_size: windows per forward pass, and in memory at a time; fewer where `windows_at_once` says so.
        truth: expected responses of a simulated recording.
        progress: show a progress bar.
        video_source: where video features come from.
    """
    together = [[runs[index] for index in same] for same in shared_order([run.task for run in runs])]
    batch_size = min(batch_size, *(windows_at_once(run.resolved, run.config, model.device) for run in runs))
    for batch in cut_windows(windows, indices, batch_size, progress=progress, label="evaluate"):
        expected = {} if truth is None else baselines.expected_responses(truth, windows, batch.indices)
        video = SharedVideo(model, batch, video_source)
        for same in together:
            answer = same[0].task.ask(model, key, batch, video)
            for run in same:
                run.update(batch, answer, expected)
