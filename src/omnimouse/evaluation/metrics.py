"""Correlations and losses of the published evaluation, as pure functions that can be streamed.

Nothing here keeps predictions: a batch is reduced to running moments in float64 (`moments`), moments of two
batches are merged with the pairwise formula of Chan, Golub and LeVeque (`merge`), and the correlation is read off
at the end (`pearson`). The result equals the correlation over everything concatenated.

Shape letters: B windows in a batch, L target samples, Q target neurons, T samples of a behaviour window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omnimouse.model.losses import poisson_elements

RESPONSE_VARIANCE_FLOOR = math.sqrt(torch.finfo(torch.float64).eps)
"""Below this variance (1.49e-8) a neuron has no correlation: torchmetrics' rule, sqrt(eps) of its float64 state."""

BEHAVIOR_VARIANCE_FLOOR = math.sqrt(torch.finfo(torch.float32).eps)
"""The same rule for behaviour (3.45e-4): the published evaluation keeps behaviour statistics in float32."""

BEHAVIOR_GROUPS: dict[str, tuple[str, ...]] = {
    "pupil": ("pupil_size", "pupil_size_derivative"),
    "gaze": ("gaze_x", "gaze_y"),
    "running": ("running_speed",),
}
"""Groups of behaviour channels, named after what the channels hold. The published evaluation code scores columns 0:2
as "eye_tracker_pos" and 2:4 as "eye_tracker_vel", although columns 0 and 1 hold pupil size and its derivative and
columns 2 and 3 the horizontal and vertical pupil position; so its "pos" is `pupil` here and its "vel" is `gaze`."""


@dataclass(frozen=True)
class Moments:
    """Running statistics of paired signals, one pair per trailing index (a neuron or a behaviour channel).

    All tensors are float64 of shape [Q]: the number of samples, both means, both sums of squared deviations and the
    sum of products of deviations.
    """

    count: Tensor
    mean_x: Tensor
    mean_y: Tensor
    square_x: Tensor
    square_y: Tensor
    product: Tensor


def moments(x: Tensor, y: Tensor, valid: Tensor | None = None) -> Moments:
    """Reduce one batch to its moments.

    Args:
        x: predictions [..., Q], any float type; leading dimensions are samples.
        y: targets, same shape.
        valid: bool, broadcastable to x; where it is False the sample does not count (x and y may be NaN there).

    Returns:
        Moments of shape [Q] on the device of `x`. NaN where a counted sample is NaN.

    Raises:
        ValueError: shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"predictions have shape {tuple(x.shape)}, targets {tuple(y.shape)}; pass equal shapes")
    size = x.shape[-1]
    keep = torch.ones_like(x, dtype=torch.bool) if valid is None else valid.to(x.device).expand(x.shape)
    keep = keep.reshape(-1, size)
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    x = torch.where(keep, x.reshape(-1, size).double(), zero)
    y = torch.where(keep, y.reshape(-1, size).double(), zero)
    count = keep.sum(0).double()
    divisor = count.clamp(min=1.0)
    mean_x, mean_y = x.sum(0) / divisor, y.sum(0) / divisor
    dx = torch.where(keep, x - mean_x, zero)
    dy = torch.where(keep, y - mean_y, zero)
    return Moments(count, mean_x, mean_y, (dx * dx).sum(0), (dy * dy).sum(0), (dx * dy).sum(0))


def merge(a: Moments | None, b: Moments | None) -> Moments | None:
    """Moments of the union of two sets of samples (Chan, Golub and LeVeque 1979); None stands for no samples."""
    if a is None or b is None:
        return b if a is None else a
    count = a.count + b.count
    share = b.count / count.clamp(min=1.0)
    dx, dy = b.mean_x - a.mean_x, b.mean_y - a.mean_y
    weight = a.count * share
    return Moments(
        count=count,
        mean_x=a.mean_x + dx * share,
        mean_y=a.mean_y + dy * share,
        square_x=a.square_x + b.square_x + dx * dx * weight,
        square_y=a.square_y + b.square_y + dy * dy * weight,
        product=a.product + b.product + dx * dy * weight,
    )


def pearson(state: Moments, *, variance_floor: float = RESPONSE_VARIANCE_FLOOR) -> np.ndarray:
    """Pearson correlation per signal.

    Args:
        state: moments over everything to be scored.
        variance_floor: a signal whose predictions or targets vary less (sample variance, n - 1) has no correlation.

    Returns:
        float64 [Q] in [-1, 1]; NaN below the floor, with fewer than two samples, or where a sample was NaN.
        This is the rule of torchmetrics 1.7, which computed the published numbers.
    """
    degrees = state.count - 1
    safe = degrees.clamp(min=1.0)
    variance_x, variance_y = state.square_x / safe, state.square_y / safe
    r = (state.product / safe) / (variance_x * variance_y).sqrt()
    undefined = (variance_x < variance_floor) | (variance_y < variance_floor) | (degrees < 1)
    r = torch.where(undefined, torch.full_like(r, math.nan), r.clamp(-1.0, 1.0))
    return r.cpu().numpy()


def session_score(per_neuron: np.ndarray, count: np.ndarray) -> float:
    """Score of a session: mean correlation weighted by observations, a NaN neuron counting as zero.

    The weight of a NaN neuron stays in the denominator (published rule); neurons never observed weigh nothing. With
    all neurons equally observed this is the plain mean.

    Args:
        per_neuron: correlations [Q], NaN where undefined.
        count: samples per neuron [Q].

    Returns:
        The score; NaN if no neuron was observed.
    """
    total = float(np.sum(count))
    if total == 0:
        return math.nan
    return float(np.sum(np.nan_to_num(per_neuron, nan=0.0) * count) / total)


def behavior_scores(state: Moments, channels: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Correlation per behaviour channel and per group of channels.

    All samples of the window count, also those in its first half, as in the published evaluation. A channel that hardly
    varies (`BEHAVIOR_VARIANCE_FLOOR`) or holds a NaN is NaN, and so is its group: groups are plain means. See
    `BEHAVIOR_GROUPS` for the names; a group is reported when all its channels are among `channels`.

    Args:
        state: moments over (windows x T) samples, one signal per channel.
        channels: names of the channels, in order.

    Returns:
        (channel -> correlation, group -> mean correlation).
    """
    r = pearson(state, variance_floor=BEHAVIOR_VARIANCE_FLOOR)
    per_channel = {name: float(value) for name, value in zip(channels, r, strict=True)}
    groups = {
        group: float(np.mean([per_channel[name] for name in members]))
        for group, members in BEHAVIOR_GROUPS.items()
        if all(name in per_channel for name in members)
    }
    return per_channel, groups


def poisson_loss_sum(
    predictions: Tensor, targets: Tensor, valid: Tensor | None = None, *, epsilon: float = 1e-5, clamp: float = 100.0
) -> tuple[float, int]:
    """Sum over samples of the training loss for responses, `p - y * ln(p + epsilon)`, and the number of samples.

    Args:
        predictions: [B, L, Q], in processed units, non-negative.
        targets: [B, L, Q].
        valid: bool, broadcastable to [B, L, Q]; False: not counted.
        epsilon: keeps the logarithm finite.
        clamp: the loss of one sample lies within +-clamp.

    Returns:
        (sum, number of samples); their ratio is the model's `response_loss` over the same samples.
    """
    p, y = predictions.double(), targets.double()
    loss = poisson_elements(p, y, epsilon=epsilon, clamp=clamp)
    if valid is not None:
        loss = loss[valid.to(loss.device).expand(loss.shape)]
    return float(loss.sum()), loss.numel()


def behavior_loss_sum(predictions: Tensor, targets: Tensor, *, clamp: float = 10.0) -> tuple[float, int]:
    """Sum over samples of the training loss for behaviour, the squared error up to `clamp`, and their number."""
    loss = (predictions.double() - targets.double()).square().clamp(max=clamp)
    return float(loss.sum()), loss.numel()


def combine_sessions(values: Mapping[str, float], n_neurons: Mapping[str, int] | None = None) -> float:
    """One number for several sessions, as published: weighted by the neurons of each session, for every metric.

    Args:
        values: session key -> value of one metric (a correlation or a loss).
        n_neurons: session key -> neurons; None for the plain mean.

    Returns:
        The mean; NaN if any session is NaN.

    Raises:
        ValueError: there is no session, or one has no neuron count.
    """
    if not values:
        raise ValueError("combine_sessions: got no session; pass at least one session key with its value")
    if n_neurons is None:
        return float(np.mean(list(values.values())))
    missing = sorted(set(values) - set(n_neurons))
    if missing:
        raise ValueError(f"combine_sessions: no neuron count for {missing}; pass n_neurons for every session in values")
    weights = [n_neurons[key] for key in values]
    return float(np.average(list(values.values()), weights=weights))
