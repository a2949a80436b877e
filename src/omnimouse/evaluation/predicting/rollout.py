"""Forecasts further than one window: the visible responses of the next window are the predictions of the last.

Shape letters: B windows, L target samples of one step, P neurons, T behaviour samples of one step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from omnimouse.evaluation.inputs import Batch, Inputs, Task, run_model
from omnimouse.evaluation.predicting.task_arrays import Rows, task_rows
from omnimouse.recordings import Windows

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork


@dataclass(frozen=True)
class Rollout:
    """A forecasting task put to windows that follow each other.

    Step k, from 0, is the task's mask on the window that begins k target lengths after the first, so that targets
    follow each other. From step 1 on, the responses that the mask shows are what the step before predicted there:
    nothing recorded after the first window's prefix is seen. Video and encoded behaviour are shown as recorded at the
    time of the step; where the tier has no window there, predictions of tasks that show them are NaN, as are those that
    build on them. Decoded behaviour is that of the first window, then what is new in each step. Targets are NaN where
    the tier has no window.

    With the standard forecasts (samples 0 to 24 visible, a guard of 5, 30 to 59 predicted), step 1 begins at sample 30
    of the first window, sees the predictions of samples 30 to 54, and predicts 60 to 89.

    Attributes:
        task: the task.
        config: of the model.
        steps: how many windows follow each other.
        windows: every window of the tier: what was recorded later.
    """

    task: Task
    config: OmniMouseConfig
    steps: int
    windows: Windows

    @classmethod
    def of(cls, task: Task, config: OmniMouseConfig, steps: int, inputs: Inputs) -> Rollout:
        """The rollout of a task.

        Raises:
            ValueError: the task does not forecast all neurons, or its next window would see what nobody predicted.
        """
        mask, resolved, length = task.mask, task.resolved, task.resolved.target_length
        whole = resolved.shows_responses and resolved.n_target == resolved.n_neurons and resolved.target_mask.all()
        advice = "pass one of the forecasting tasks, e.g. task='forecasting+stimulus', or rollout=1"
        if not whole or task.rotation is not None:
            raise ValueError(
                f"task {task.name!r} cannot be rolled out: it does not forecast all neurons from their past; {advice}"
            )
        if mask.prefix_start + length < mask.target_start:
            raise ValueError(
                f"task {task.name!r} cannot be rolled out: it predicts {length} samples from {mask.target_start} on, "
                f"so the next window would show samples from {mask.prefix_start + length} on, not all predicted; "
                + advice
            )
        for rate, what in ((config.video_rate, "frames"), (config.behavior_rate, "samples of behavior")):
            if length * rate % config.response_rate:
                raise ValueError(
                    f"task {task.name!r} cannot be rolled out: its {length} target samples are no whole number of "
                    f"{what}; change target_length"
                )
        windows = Windows(
            inputs.recording, (inputs.tier,), stride=1, include_blanks=inputs.windows.include_blanks,
            processor=inputs.processor,
        )  # fmt: skip
        return cls(task, config, steps, windows)

    def rows(self, model: OmniMouseNetwork, key: str, batch: Batch) -> Rows | None:
        """The arrays of the windows that are finite where the first step needs values; None if there is none."""
        answer = self.task.ask(model, key, batch)
        if answer is None:
            return None
        parts = [task_rows(self.task, answer)]
        predictions = answer.output.response_predictions
        for step in range(1, self.steps):
            assert predictions is not None
            shift = step * self.task.resolved.target_length / self.config.response_rate
            recorded = self._recorded(answer.starts + shift)
            part, predictions = self._step(model, key, recorded, predictions)
            parts.append(part)
        new = round(self.task.resolved.target_length * self.config.behavior_rate / self.config.response_rate)
        joined = {name: self._joined(name, [part[name] for part in parts], new) for name in parts[1]}
        return {"window_starts": answer.starts, **joined}

    @staticmethod
    def _joined(name: str, parts: list[np.ndarray], new: int) -> np.ndarray:
        """Steps after each other; of behaviour, which each step decodes over all of its window, what is new in it."""
        if name.startswith("behavior"):
            return np.concatenate([parts[0], *(part[:, :, -new:] for part in parts[1:])], axis=2)
        return np.concatenate(parts, axis=1)

    def _recorded(self, starts: np.ndarray) -> dict[str, Tensor]:
        """What was recorded in windows that start there, NaN where the tier has no such window."""
        known, tolerance = self.windows.starts, 0.25 / self.config.video_rate
        index = np.minimum(np.searchsorted(known, starts - tolerance), len(known) - 1)
        there = np.abs(known[index] - starts) < tolerance
        arrays = self.windows.batch(index.tolist())
        for values in arrays.values():
            values[torch.from_numpy(~there)] = torch.nan
        return arrays

    def _step(
        self, model: OmniMouseNetwork, key: str, recorded: Mapping[str, Tensor], before: Tensor
    ) -> tuple[Rows, Tensor]:
        """One step: its arrays, and its predictions; NaN where what it is shown is."""
        mask, resolved, place = self.task.mask, self.task.resolved, before.device
        size, population, length = len(before), resolved.n_neurons, resolved.target_length
        shown = slice(mask.prefix_start, mask.prefix_start + mask.prefix_length)
        first = shown.start + length - mask.target_start
        responses = torch.zeros((size, self.config.num_response_samples, recorded["responses"].shape[2]), device=place)
        responses[:, shown, :population] = before[:, first : first + mask.prefix_length]
        whole = torch.isfinite(responses).flatten(1).all(dim=1).cpu()
        part = {"responses": responses}
        for name in self.task.needs.besides_responses:
            values = recorded[name]
            missing = list(self.windows.missing_channels) if name == "behavior" else []
            finite = torch.isfinite(values)
            finite[:, missing] = True
            whole &= finite.flatten(1).all(dim=1)
            part[name] = values.to(place)
        predictions = before.new_full((size, length, population), torch.nan)
        decoded = np.full((size, *self._behavior_shape), np.nan, dtype=np.float32)
        if whole.any():
            here = whole.to(place)
            ids = None if self.task.first is None else torch.arange(population).expand(int(whole.sum()), -1)
            output = run_model(model, key, mask, {name: values[here] for name, values in part.items()}, ids)
            assert output.response_predictions is not None
            predictions[here] = output.response_predictions.to(predictions.dtype)
            if output.behavior_predictions is not None:
                decoded[whole.numpy()] = output.behavior_predictions.float().cpu().numpy()
        targets = recorded["responses"][:, mask.target_start : mask.target_start + length, :population]
        rows = {"predictions": predictions.float().cpu().numpy(), "targets": targets.numpy()}
        if resolved.decodes_behavior:
            rows |= {"behavior_predictions": decoded, "behavior_targets": recorded["behavior"].numpy()}
        return rows, predictions

    @property
    def _behavior_shape(self) -> tuple[int, int]:
        return len(self.config.behavior_channels), self.config.num_behavior_samples
