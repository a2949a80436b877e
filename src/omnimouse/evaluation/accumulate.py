"""The scores of one task, added up batch by batch without keeping predictions.

Shape letters: B windows in a batch, L target samples, P neurons of the population, Q target neurons, T samples of a
behavior window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from omnimouse.evaluation import baselines
from omnimouse.evaluation.inputs import Needs, describe_left_out
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
from omnimouse.evaluation.rotation import Rotation, in_file_order, in_order
from omnimouse.evaluation.scores import Baseline, Ceiling, TaskScore, median

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.masks import Mask, ResolvedMask
    from omnimouse.model.modeling_omnimouse import OmniMouseOutput


class TaskRun:
    """Running moments and loss sums of one task."""

    def __init__(
        self,
        name: str,
        mask: Mask,
        resolved: ResolvedMask,
        config: OmniMouseConfig,
        means: np.ndarray | None,
        missing_channels: Sequence[int] = (),
        rotation: Rotation | None = None,
    ) -> None:
        self.rotation = rotation
        self.channels = [row for row in range(len(config.behavior_channels)) if row not in missing_channels]
        self.name, self.mask, self.resolved, self.means = name, mask, resolved, means
        self.config = config
        self.needs = Needs.of(resolved)
        self.holds = baselines.has_last_visible_value(resolved)
        self.n_windows = self.n_left_out = self.n_behavior_windows = 0
        self.moments: dict[str, Moments | None] = {}
        self.losses: dict[str, tuple[float, int]] = {}

    def update(
        self,
        output: OmniMouseOutput,
        batch: Mapping[str, Tensor],
        expected: Mapping[str, Tensor] | None,
        behavior_finite: Tensor,
        neuron_ids: Tensor | None = None,
    ) -> None:
        """Add one batch of usable windows.

        Args:
            output: of the model.
            batch: what it was given.
            expected: the expected responses of the same windows [B, 60, P], by name; None where they are not known.
            behavior_finite: bool [B], windows whose behaviour can be scored.
            neuron_ids: int64 [B, P], the order of the neurons in each window; None for file order.
        """
        self.n_windows += len(next(iter(batch.values())))
        if self.resolved.predicts_responses:
            self._update_responses(output, batch["responses"], expected or {}, neuron_ids)
        if self.resolved.decodes_behavior and behavior_finite.any():
            assert output.behavior_predictions is not None
            rows = behavior_finite.to(batch["behavior"].device)
            self.n_behavior_windows += int(rows.sum())
            # [B, channel, T] -> [B, T, channel]: one signal per recorded channel.
            targets = _accurate(batch["behavior"][rows][:, self.channels].transpose(1, 2))
            predictions = _accurate(output.behavior_predictions[rows][:, self.channels].transpose(1, 2))
            self._add_moments("behavior", predictions, targets)
            self._add_behavior_loss("behavior", predictions, targets)
            self._add_behavior_loss("behavior mean", torch.zeros_like(targets), targets)

    def _update_responses(
        self,
        output: OmniMouseOutput,
        responses: Tensor,
        expected: Mapping[str, Tensor],
        neuron_ids: Tensor | None,
    ) -> None:
        assert output.response_predictions is not None and output.response_targets is not None
        assert output.target_mask is not None
        predictions, targets = _accurate(output.response_predictions), _accurate(output.response_targets)
        valid, ids = output.target_mask.to(targets.device), None
        if neuron_ids is not None:
            ids = neuron_ids[:, self.resolved.first_target_neuron :]
            responses = in_order(responses, neuron_ids)
            expected = {name: in_order(values, neuron_ids) for name, values in expected.items()}
        self._add_moments("model", predictions, targets, valid, ids)
        self._add_response_loss("model", predictions, targets, valid)
        if self.holds:
            held = baselines.last_visible_value(_accurate(responses), self.resolved)
            self._add_moments(baselines.LAST_VISIBLE_VALUE, held, targets, valid, ids)
            self._add_response_loss(baselines.LAST_VISIBLE_VALUE, held, targets, valid)
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

    def _add_behavior_loss(self, name: str, x: Tensor, y: Tensor) -> None:
        self._add_loss(name, behavior_loss_sum(x, y, clamp=self.config.behavior_loss_clamp))

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
        first, last = 0 if self.rotation else self.resolved.first_target_neuron, self.resolved.n_neurons
        behavior = self.moments.get("behavior")
        names = [self.config.behavior_channels[channel] for channel in self.channels]
        per_channel, groups = behavior_scores(behavior, names) if behavior else ({}, {})
        ceilings = self._ceilings()
        return TaskScore(
            task=self.name,
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
        result = {}
        for name in (baselines.GIVEN_STIMULUS_AND_BEHAVIOR, baselines.GIVEN_EVERYTHING):
            found = self._correlations(name)
            if found is not None:
                result[name] = Ceiling(found[0], median(found[1]), found[1])
        return result or None

    def _notes(self, per_channel: Mapping[str, float]) -> list[str]:
        notes = []
        if self.n_left_out:
            notes.append(describe_left_out(self.n_left_out, self.n_left_out + self.n_windows, self.needs.inputs))
        if self.resolved.predicts_responses and self.means is None:
            notes.append("the recording has no trials of tier 'train', so the loss of the training mean is unknown")
        if self.resolved.decodes_behavior and self.n_behavior_windows < self.n_windows:
            notes.append(
                f"behaviour scored in {self.n_behavior_windows} of {self.n_windows} windows: NaN in the others"
            )
        found = self._correlations("model")
        state = self.moments.get("model")
        unseen = 0 if state is None else int((state.count == 0).sum())
        if unseen:
            notes.append(f"neurons that were a target in none of these few windows, not scored: {unseen}")
        undefined = 0 if found is None else int(np.isnan(found[1]).sum()) - unseen
        if undefined:
            notes.append(
                f"neurons without a correlation (they or their predictions do not vary), counted as 0: {undefined}"
            )
        constant = [name for name, r in per_channel.items() if math.isnan(r)]
        if constant:
            notes.append(
                f"no correlation for {', '.join(constant)}, which hardly vary in these windows or are not predicted to"
            )
        return notes


def _accurate(values: Tensor) -> Tensor:
    """Move values to where float64 exists: Apple's MPS has none."""
    return values.cpu() if values.device.type == "mps" else values
