"""Predictions that need no model, to be beaten; and the expected responses of simulated recordings, to be reached.

Shape letters: B windows in a batch, L target samples, P neurons of the population, Q target neurons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from omnimouse.model.masking.masks import ResolvedMask
    from omnimouse.recordings import Windows
    from omnimouse.recordings.simulation.simulated import Truth

TRAINING_MEAN = "training_mean"
LAST_VISIBLE_VALUE = "last_visible_value"
GIVEN_STIMULUS_AND_BEHAVIOR = "given_stimulus_and_behavior"
GIVEN_EVERYTHING = "given_everything"


def last_visible_sample(resolved: ResolvedMask) -> int | None:
    """Last sample before the targets in which every target neuron is visible, or `None`."""
    mask, everyone = resolved.mask, resolved.n_visible >= resolved.n_neurons
    stop = mask.prefix_start + (mask.prefix_length if everyone else mask.full_population_prefix_length)
    return stop - 1 if resolved.targets and mask.prefix_start < stop <= mask.target_start else None


def last_visible_value(responses: Tensor, resolved: ResolvedMask) -> Tensor:
    """Predict every target sample of a neuron by the neuron's last visible sample.

    Args:
        responses: the whole window of the whole population [B, 60, P], in processed units.
        resolved: the task on this population; it must show every target neuron before the target.

    Returns:
        [B, L, Q], a view that takes no memory of its own.
    """
    sample = last_visible_sample(resolved)
    assert sample is not None
    return responses[:, sample, None, resolved.first_target_neuron :].expand(-1, resolved.target_length, -1)


def training_mean(means: np.ndarray, resolved: ResolvedMask, batch: int) -> Tensor:
    """Predict every target sample of a neuron by its mean over the training tier.

    Args:
        means: mean processed response of every neuron [P], or in each window's order [B, P].
        resolved: the task on this population.
        batch: B.

    Returns:
        float64 [B, L, Q], a view. Its correlation is undefined, so only its loss says something.
    """
    targets = torch.as_tensor(means, dtype=torch.float64)[..., resolved.first_target_neuron :]
    return targets.reshape(-1, 1, resolved.n_target).expand(batch, resolved.target_length, -1)


def ceiling_name(resolved: ResolvedMask) -> str:
    """Which expected response bounds a task: with visible responses the hidden state can be known, else it cannot."""
    return GIVEN_EVERYTHING if resolved.shows_responses else GIVEN_STIMULUS_AND_BEHAVIOR


def expected_responses(truth: Truth, windows: Windows, indices: list[int]) -> dict[str, Tensor]:
    """The expected responses of simulated windows, read from the rows the windows themselves read.

    Args:
        truth: expected responses on the rows of the recording's response array, stored units.
        windows: the windows of the recording.
        indices: which windows.

    Returns:
        Name of the expectation -> [B, 60, P]. Stored units suffice: correlations do not depend on a neuron's scale.
    """
    rows = np.stack([windows.response_indices(i) for i in indices])
    return {
        GIVEN_STIMULUS_AND_BEHAVIOR: torch.from_numpy(np.asarray(truth.given_stimulus_and_behavior[rows])),
        GIVEN_EVERYTHING: torch.from_numpy(np.asarray(truth.given_everything[rows])),
    }


def target_part(responses: Tensor, resolved: ResolvedMask) -> Tensor:
    """Cut the target [B, L, Q] of a task out of a whole window [B, 60, P]."""
    start = resolved.target_start
    return responses[:, start : start + resolved.target_length, resolved.first_target_neuron :]
