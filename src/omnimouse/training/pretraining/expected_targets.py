"""Targets without noise, for simulated recordings: what the simulator expects of hidden responses.

A loss against expected responses has the same optimum as one against recorded responses (both have the same mean, given
what the model sees), and a gradient without the noise of spikes. So small cores learn from few steps what would
otherwise take many. Real recordings have no such truth.

Shape letters: B windows, N neurons of the session, P neurons drawn.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch

from omnimouse.model.masking.mask_rules import ResolvedMask
from omnimouse.recordings import Windows
from omnimouse.recordings.held_windows import HeldWindows
from omnimouse.recordings.pooling import response_scale
from omnimouse.recordings.simulation.simulated import Truth, load_truth, truth_folder


def hidden_neurons(mask: ResolvedMask) -> slice:
    """Returns which neurons of the drawn population no visible sample belongs to: their own past tells nothing."""
    return slice(max((piece.last for piece in mask.segments), default=0), mask.n_neurons)


def expect_responses(
    responses: torch.Tensor,
    windows: Windows | HeldWindows,
    indices: np.ndarray,
    neuron_ids: np.ndarray,
    mask: ResolvedMask,
) -> torch.Tensor:
    """Puts expected responses in the place of those that a mask hides altogether.

    Without any visible response these are averaged over spikes and shared state. With other neurons visible, which tell
    of the shared state, they are averaged over spikes alone. Neurons that are visible for a while keep what was
    recorded, because their own past tells of the spikes that their indicator still shows.

    Args:
        responses: recorded, [B, 60, N], as `Windows` cuts them; not changed.
        windows: of a simulated recording.
        indices: [B], which of the windows.
        neuron_ids: int [B, P], the neurons in the order the mask counts them.
        mask: resolved for P neurons.

    Returns:
        Responses [B, 60, N].

    Raises:
        ValueError: the recording has no truth beside it.
    """
    hidden = hidden_neurons(mask)
    if hidden.start >= hidden.stop or not mask.predicts_responses:
        return responses
    cut = windows.windows if isinstance(windows, HeldWindows) else windows
    truth = required_truth(cut.recording.path)
    factors = (1 / response_scale(cut.recording, cut.processor)).astype(np.float32)  # stored to model's units
    source = truth.given_everything if mask.shows_responses else truth.given_stimulus_and_behavior
    neurons = neuron_ids[:, None, hidden].astype(np.int64)
    rows = np.stack([source[cut.response_indices(int(index))] * factors for index in indices])
    values, places = (torch.from_numpy(array) for array in (np.take_along_axis(rows, neurons, axis=2), neurons))
    places = places.to(responses.device).expand(-1, responses.shape[1], -1)
    return responses.scatter(2, places, values.to(responses))


@functools.lru_cache(maxsize=64)
def required_truth(path: Path) -> Truth:
    """Returns what the simulator knows of a recording.

    Raises:
        ValueError: the recording has no truth beside it.
    """
    truth = load_truth(path)
    if truth is None:
        raise ValueError(
            f"Recording {path} has no truth beside it ({truth_folder(path).name}), so nobody knows what its responses "
            "were expected to be. Set recordings.targets to recorded, or train on recordings of `omnimouse simulate`."
        )
    return truth
