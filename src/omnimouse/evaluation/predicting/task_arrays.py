"""Which arrays the predictions of a task are, and their rows of one batch.

Shape letters: B windows in a batch, L target samples, Q target neurons, C behaviour channels, T samples of a behaviour
window, K steps of a rollout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from omnimouse.evaluation.inputs import Answer, Inputs, Task
from omnimouse.evaluation.predicting.growing_npz import Columns
from omnimouse.evaluation.rotation import in_file_order
from omnimouse.recordings.pooling import response_scale

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig

Rows = dict[str, np.ndarray]
"""Rows of the arrays, one for each window that was predicted."""


def task_columns(task: Task, config: OmniMouseConfig, steps: int) -> Columns:
    """Type and shape of a row of the arrays over windows; of a rollout, of so many steps."""
    resolved, single = task.resolved, np.dtype(np.float32)
    columns: dict[str, tuple[np.dtype, tuple[int, ...]]] = {"window_starts": (np.dtype(np.float64), ())}
    if resolved.predicts_responses:
        shape = (steps * resolved.target_length, resolved.n_neurons - task.first_target_neuron)
        columns |= {"predictions": (single, shape), "targets": (single, shape)}
    if resolved.decodes_behavior:
        signal = (len(config.behavior_channels), n_behavior_samples(task, config, steps))
        columns |= {"behavior_predictions": (single, signal), "behavior_targets": (single, signal)}
    return columns


def n_behavior_samples(task: Task, config: OmniMouseConfig, steps: int) -> int:
    """Decoded behaviour samples: of the first window all, of each later step what is new in it."""
    new = task.resolved.target_length * config.behavior_rate // config.response_rate
    return config.num_behavior_samples + (steps - 1) * int(new)


def task_rows(task: Task, answer: Answer) -> Rows:
    """The rows of the windows that a task was put to."""
    output, resolved = answer.output, task.resolved
    found: dict[str, Any] = {}
    if resolved.predicts_responses:
        predictions, targets = output.response_predictions, output.response_targets
        if task.rotation is not None:
            assert answer.neuron_ids is not None and predictions is not None
            ids = answer.neuron_ids[:, resolved.first_target_neuron :]
            predictions = in_file_order(predictions, ids, resolved.n_neurons)
            samples = slice(resolved.target_start, resolved.target_start + predictions.shape[1])
            targets = answer.part["responses"][:, samples, : resolved.n_neurons]
        found |= {"predictions": predictions, "targets": targets}
    if resolved.decodes_behavior:
        found |= {"behavior_predictions": output.behavior_predictions, "behavior_targets": answer.part["behavior"]}
    return {"window_starts": answer.starts, **{name: values.float().cpu().numpy() for name, values in found.items()}}


def task_facts(task: Task, inputs: Inputs, config: OmniMouseConfig, starts: np.ndarray, steps: int) -> dict[str, Any]:
    """Times, neurons and scale that go with the rows of windows that start at `starts` [W]."""
    resolved = task.resolved
    facts: dict[str, Any] = {"behavior_channels": ()}
    if resolved.predicts_responses:
        index = np.arange(task.first_target_neuron, resolved.n_neurons)
        unit_ids = inputs.recording.unit_ids
        samples = resolved.target_start + np.arange(steps * resolved.target_length)
        facts |= {
            "times": starts[:, None] + samples / config.response_rate,
            "neuron_index": index,
            "neuron_ids": index if unit_ids is None else np.asarray(unit_ids)[index],
            "response_scale": response_scale(inputs.recording, inputs.processor)[index],
        }
    if resolved.decodes_behavior:
        samples = np.arange(n_behavior_samples(task, config, steps))
        facts["behavior_times"] = starts[:, None] + samples / config.behavior_rate
        facts["behavior_channels"] = tuple(config.behavior_channels)
    return facts
