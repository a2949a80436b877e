"""A mask, and its resolution against a population: which samples are visible and which are predicted.

A mask is the task. Forecasting, sub-population prediction, stimulus encoding and behaviour decoding are the same model
under different masks. Lengths are in samples of the responses (or frames of the video) from the window's start.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Literal

import numpy as np

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.mask_checks import check_fit, checked_fields

Count = int | float | None | Literal["all"]
Behavior = Literal["encoded", "decoded", "absent"]


@dataclass(frozen=True, repr=False)
class Mask:
    """What is visible in a window and what is predicted; what is not named is hidden and not predicted.

    Neuron counts are an integer, `None` or `"all"` for every neuron, or a fraction of the population strictly between
    0 and 1. Counts above the population mean every neuron. The *first* `n_visible_neurons` of the population are
    visible and the *last* `n_target_neurons` are targets.

    Args:
        n_visible_neurons: Neurons whose responses are visible over the whole prefix.
        prefix_start: First visible response sample.
        prefix_length: Visible response samples.
        full_population_prefix_length: Samples at the start of the prefix in which every neuron is visible.
        context_start: Latents that start in the context take part; registers always do.
        context_length: Length of the context in samples; 0 leaves registers only.
        n_target_neurons: Neurons whose responses are predicted.
        target_start: First predicted response sample.
        target_length: Predicted samples. Samples that visible activity of the same neurons could give away by
            interpolation (5 after it) are left out when the mask is resolved.
        frames_start: First visible video frame.
        n_frames: Visible video frames; 0 hides the video.
        behavior: `"encoded"` (visible), `"decoded"` (to be predicted) or `"absent"`.

    Raises:
        ValueError: The fields contradict each other; the message says what to change.
    """

    n_visible_neurons: Count
    prefix_start: int
    prefix_length: int
    _: KW_ONLY
    full_population_prefix_length: int = 0
    context_start: int
    context_length: int
    n_target_neurons: Count = 0
    target_start: int = 0
    target_length: int = 0
    frames_start: int = 0
    n_frames: int = 0
    behavior: Behavior = "absent"

    def __post_init__(self) -> None:
        for name, value in checked_fields(vars(self)).items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """The call that makes this mask, without what is as it is by default."""
        usual = {field.name: field.default for field in fields(self)}
        return f"Mask({', '.join(f'{name}={value!r}' for name, value in vars(self).items() if value != usual[name])})"

    @property
    def shows_responses(self) -> bool:
        return self.prefix_length > 0

    @property
    def shows_video(self) -> bool:
        return self.n_frames > 0

    @property
    def encodes_behavior(self) -> bool:
        return self.behavior == "encoded"

    def resolve(self, n_neurons: int, config: OmniMouseConfig) -> ResolvedMask:
        """Works out which samples of which neurons are visible and predicted.

        Args:
            n_neurons: Neurons of the population (after any cut).
            config: Gives the window's length, token sizes and guard.

        Raises:
            ValueError: The mask does not fit the window, its pieces cannot be tokenised, or it leaves nothing to
                predict; the message names the mask, the population and what to change.
        """
        n_neurons = int(n_neurons)
        n_visible, n_target = _count(self.n_visible_neurons, n_neurons), _count(self.n_target_neurons, n_neurons)
        context = range(self.context_start, self.context_start + self.context_length)
        resolved = ResolvedMask(
            mask=self,
            n_neurons=n_neurons,
            n_visible=n_visible,
            n_target=n_target,
            segments=_segments(self, n_visible, n_neurons),
            targets=_targets(self, n_visible, n_neurons - n_target, n_neurons, config),
            latent_steps=tuple(n for n in range(config.num_latent_steps) if n * config.latent_window in context),
            video_steps=video_steps(self, config),
        )
        shown, predicted = ([(p.start, p.stop) for p in pieces] for pieces in (resolved.segments, resolved.targets))
        check_fit(self, shown, predicted, resolved.video_steps, (n_neurons, n_visible, n_target), config)
        return resolved


@dataclass(frozen=True)
class Piece:
    """A rectangle of the response matrix: neurons `[first, last)` of the population over samples `[start, stop)`."""

    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True)
class ResolvedMask:
    """A mask worked out for one population and window, by `Mask.resolve`; immutable and hashable."""

    mask: Mask
    n_neurons: int  # of the population
    n_visible: int  # over the whole prefix: the first of the population
    n_target: int  # Q: the last of the population
    segments: tuple[Piece, ...]  # visible: all neurons over the full-population prefix, `n_visible` over the rest
    targets: tuple[Piece, ...]  # predicted: no neuron within the guard after samples in which it is visible
    latent_steps: tuple[int, ...]  # those that start inside the context
    video_steps: tuple[int, int]  # visible ones [first, last): whole strides of visible frames, rounding down

    @property
    def first_target_neuron(self) -> int:
        """Targets are neurons `first_target_neuron` to the last of the population."""
        return self.n_neurons - self.n_target

    @property
    def target_start(self) -> int:
        return self.mask.target_start

    @property
    def target_length(self) -> int:
        return self.mask.target_length

    @property
    def shows_responses(self) -> bool:
        return self.mask.shows_responses

    @property
    def shows_video(self) -> bool:
        return self.mask.shows_video

    @property
    def encodes_behavior(self) -> bool:
        return self.mask.encodes_behavior

    @property
    def decodes_behavior(self) -> bool:
        return self.mask.behavior == "decoded"

    @property
    def predicts_responses(self) -> bool:
        return bool(self.targets)

    @property
    def target_mask(self) -> np.ndarray:
        """Which (sample, target neuron) pairs are predicted, bool `[L, Q]`; row 0 is `target_start`."""
        predicted = np.zeros((self.target_length, self.n_target), dtype=bool)
        for piece in self.targets:
            rows = slice(piece.start - self.target_start, piece.stop - self.target_start)
            predicted[rows, piece.first - self.first_target_neuron :] = True
        return predicted


def _count(value: Count, n_neurons: int) -> int:
    if isinstance(value, float):
        value = max(1, round(value * n_neurons))
    return n_neurons if value is None else min(int(value), n_neurons)


def _pieces(*pieces: Piece) -> tuple[Piece, ...]:
    """Those that are not empty."""
    return tuple(piece for piece in pieces if piece.first < piece.last and piece.start < piece.stop)


def _segments(mask: Mask, n_visible: int, n_neurons: int) -> tuple[Piece, ...]:
    start, stop = mask.prefix_start, mask.prefix_start + mask.prefix_length
    if n_visible >= n_neurons:
        return _pieces(Piece(0, n_neurons, start, stop))
    split = start + mask.full_population_prefix_length
    return _pieces(Piece(0, n_neurons, start, split), Piece(0, n_visible, split, stop))


def _targets(mask: Mask, n_visible: int, first: int, last: int, config: OmniMouseConfig) -> tuple[Piece, ...]:
    """Targets are neurons `[first, last)`; `a` and `b` are where the guards of everyone and of the visible end."""
    start, stop = mask.target_start, mask.target_start + mask.target_length
    a, b = (
        min(mask.prefix_start + length + config.guard_samples, config.num_response_samples) if length else 0
        for length in (mask.full_population_prefix_length, mask.prefix_length)
    )
    if first >= n_visible or start >= b:
        return _pieces(Piece(first, last, max(start, a), stop))
    return _pieces(Piece(n_visible, last, max(start, a), min(b, stop)), Piece(first, last, b, stop))


def video_steps(mask: Mask, config: OmniMouseConfig) -> tuple[int, int]:
    """Time steps of the video encoder that a mask shows, `[first, last)`."""
    stride, steps = config.video_patch_stride[0], config.video_patch_grid[0]
    if mask.n_frames == config.num_frames:
        return 0, steps
    first, last = (min(frame // stride, steps) for frame in (mask.frames_start, mask.frames_start + mask.n_frames))
    return (first, max(first, last)) if mask.n_frames else (0, 0)
