"""A mask, and its resolution against a population: which samples are visible and which are predicted.

A mask is the task. Forecasting, sub-population prediction, stimulus encoding and behaviour decoding are the same model
under different masks. Lengths are in samples of the responses (or frames of the video) from the window's start.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np

from omnimouse.model.configuration_omnimouse import OmniMouseConfig

Count = int | float | None | Literal["all"]


@dataclass(frozen=True)
class Mask:
    """What is visible in a window and what is predicted.

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
    full_population_prefix_length: int
    context_start: int
    context_length: int
    n_target_neurons: Count
    target_start: int
    target_length: int
    frames_start: int
    n_frames: int
    behavior: Literal["encoded", "decoded", "absent"]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_neurons"):
                object.__setattr__(self, field.name, _checked_count(field.name, value))
            elif field.name == "behavior":
                if value not in ("encoded", "decoded", "absent"):
                    raise ValueError(f"Mask.behavior must be 'encoded', 'decoded' or 'absent', got {value!r}.")
            elif isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise ValueError(f"Mask.{field.name} must be a whole number of samples >= 0, got {value!r}.")
            else:
                object.__setattr__(self, field.name, int(value))
        if (self.n_visible_neurons == 0) != (self.prefix_length == 0):
            raise ValueError(
                f"Mask has n_visible_neurons={self.n_visible_neurons} and prefix_length={self.prefix_length}: "
                "either both are 0 (responses hidden) or neither is."
            )
        if self.full_population_prefix_length > self.prefix_length:
            raise ValueError(
                f"Mask has full_population_prefix_length={self.full_population_prefix_length} longer than "
                f"prefix_length={self.prefix_length}; it is the part of the prefix in which every neuron is visible."
            )
        if (self.n_target_neurons == 0) != (self.target_length == 0):
            raise ValueError(
                f"Mask has n_target_neurons={self.n_target_neurons} and target_length={self.target_length}: "
                "either both are 0 (no responses predicted) or neither is."
            )

    def __str__(self) -> str:
        return "Mask(" + ", ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self)) + ")"

    def resolve(self, n_neurons: int, config: OmniMouseConfig) -> ResolvedMask:
        """Works out which samples of which neurons are visible and predicted.

        Args:
            n_neurons: Neurons of the population (after any cut).
            config: Gives the window's length, token sizes and guard.

        Raises:
            ValueError: The mask does not fit the window, its pieces cannot be tokenised, or it leaves nothing to
                predict; the message names the mask, the population and what to change.
        """
        return ResolvedMask(mask=self, n_neurons=int(n_neurons), config_key=_WindowRules.of(config))


def _checked_count(name: str, value: Count) -> int | float | None:
    if value is None or (isinstance(value, str) and value == "all"):
        return None
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0:
        return int(value)
    if isinstance(value, float | np.floating) and 0 < value < 1:
        return float(value)
    raise ValueError(
        f"Mask.{name} must be a number of neurons >= 0, None or 'all' for every neuron, or a fraction between 0 and 1; "
        f"got {value!r}."
    )


def _count(value: Count, n_neurons: int) -> int:
    if value is None:
        return n_neurons
    if isinstance(value, float):
        return min(max(1, round(value * n_neurons)), n_neurons)
    return min(int(value), n_neurons)


@dataclass(frozen=True)
class _WindowRules:
    """The numbers of a configuration that decide how a mask resolves (hashable, unlike the configuration)."""

    samples: int
    frames: int
    token_window: int
    token_stride: int
    guard: int
    skip: int
    latent_window: int
    video_stride: int
    video_steps: int

    @classmethod
    def of(cls, config: OmniMouseConfig) -> _WindowRules:
        return cls(
            samples=config.num_response_samples,
            frames=config.num_frames,
            token_window=config.response_token_window,
            token_stride=config.response_token_stride,
            guard=config.guard_samples,
            skip=config.skip_samples,
            latent_window=config.latent_window,
            video_stride=config.video_patch_stride[0],
            video_steps=config.video_patch_grid[0],
        )


@dataclass(frozen=True)
class Piece:
    """A rectangle of the response matrix: neurons `[first, last)` of the population over samples `[start, stop)`."""

    first: int
    last: int
    start: int
    stop: int

    @property
    def empty(self) -> bool:
        return self.last <= self.first or self.stop <= self.start


@dataclass(frozen=True)
class ResolvedMask:
    """A mask worked out for one population and window. Built by `Mask.resolve`; immutable and hashable."""

    mask: Mask
    n_neurons: int
    config_key: _WindowRules

    def __post_init__(self) -> None:
        if self.n_neurons < 1:
            raise ValueError(f"A population needs at least one neuron, got {self.n_neurons}.")
        self._check_window()
        self._check_lengths()
        if not self.targets and not self.decodes_behavior:
            raise ValueError(
                f"Nothing to predict: no target is left in a population of {self.n_neurons} neurons ({self.n_visible} "
                f"visible, {self.n_target} targets). Show fewer neurons (n_visible_neurons), predict samples further "
                "from visible activity (target_start, target_length), use more neurons, or decode behaviour. The mask: "
                f"{self.mask}."
            )

    def _error(self, what: str) -> ValueError:
        return ValueError(f"{what} in {self.mask}, for {self.n_neurons} neurons.")

    def _check_window(self) -> None:
        mask, rules = self.mask, self.config_key
        for name, start, length, limit in (
            ("prefix", mask.prefix_start, mask.prefix_length, rules.samples),
            ("context", mask.context_start, mask.context_length, rules.samples),
            ("target", mask.target_start, mask.target_length, rules.samples),
            ("video", mask.frames_start, mask.n_frames, rules.frames),
        ):
            if start + length > limit:
                raise self._error(f"The {name} ends at {start + length} but the window has {limit} samples, ")
        if mask.target_length and mask.target_start < rules.skip:
            raise self._error(f"target_start is {mask.target_start}; targets may not begin before {rules.skip}, ")
        if mask.n_frames and self.video_steps[0] == self.video_steps[1]:
            raise self._error(
                f"The {mask.n_frames} visible frames hold no whole step of {rules.video_stride} frames; show more "
                "frames, or n_frames=0,"
            )

    def _check_lengths(self) -> None:
        w, s = self.config_key.token_window, self.config_key.token_stride
        for piece in self.segments:
            length = piece.stop - piece.start
            if length < w or (length - w) % s:
                allowed = ", ".join(str(w + k * s) for k in range(4))
                raise self._error(
                    f"A visible segment of {length} samples cannot be tokenised (allowed: {allowed}, ...); change "
                    "prefix_length or full_population_prefix_length,"
                )
        for piece in self.targets:
            if (piece.stop - piece.start) % s:
                raise self._error(
                    f"Targets over samples {piece.start} to {piece.stop} are no multiple of {s}; change target_start "
                    "or target_length,"
                )

    @property
    def n_visible(self) -> int:
        """Neurons visible over the whole prefix."""
        return _count(self.mask.n_visible_neurons, self.n_neurons)

    @property
    def n_target(self) -> int:
        """Neurons that are targets (Q)."""
        return _count(self.mask.n_target_neurons, self.n_neurons)

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
        return self.mask.prefix_length > 0

    @property
    def shows_video(self) -> bool:
        return self.mask.n_frames > 0

    @property
    def encodes_behavior(self) -> bool:
        return self.mask.behavior == "encoded"

    @property
    def decodes_behavior(self) -> bool:
        return self.mask.behavior == "decoded"

    @property
    def predicts_responses(self) -> bool:
        return bool(self.targets)

    @cached_property
    def segments(self) -> tuple[Piece, ...]:
        """Visible responses: all neurons over the full-population prefix, then the visible ones over the rest."""
        mask = self.mask
        start, stop = mask.prefix_start, mask.prefix_start + mask.prefix_length
        if not self.shows_responses:
            return ()
        if self.n_visible >= self.n_neurons:
            return (Piece(0, self.n_neurons, start, stop),)
        split = start + mask.full_population_prefix_length
        pieces = (Piece(0, self.n_neurons, start, split), Piece(0, self.n_visible, split, stop))
        return tuple(piece for piece in pieces if not piece.empty)

    @cached_property
    def targets(self) -> tuple[Piece, ...]:
        """Predicted responses. A neuron is not predicted within the guard after samples in which it is visible."""
        mask, rules = self.mask, self.config_key
        if not mask.target_length:
            return ()
        a = mask.prefix_start + mask.full_population_prefix_length
        b = mask.prefix_start + mask.prefix_length
        a_guarded = min(a + rules.guard, rules.samples) if mask.full_population_prefix_length else 0
        b_guarded = min(b + rules.guard, rules.samples) if mask.prefix_length else 0
        start, stop = mask.target_start, mask.target_start + mask.target_length
        first, last = self.first_target_neuron, self.n_neurons
        if first >= self.n_visible or start >= b_guarded:
            pieces = [Piece(first, last, max(start, a_guarded), stop)]
        else:
            pieces = [
                Piece(self.n_visible, last, max(start, a_guarded), min(b_guarded, stop)),
                Piece(first, last, b_guarded, stop),
            ]
        return tuple(piece for piece in pieces if not piece.empty)

    @property
    def target_mask(self) -> np.ndarray:
        """Which (sample, target neuron) pairs are predicted, bool `[L, Q]`; row 0 is `target_start`."""
        predicted = np.zeros((self.target_length, self.n_target), dtype=bool)
        for piece in self.targets:
            rows = slice(piece.start - self.target_start, piece.stop - self.target_start)
            predicted[rows, piece.first - self.first_target_neuron :] = True
        return predicted

    @property
    def last_visible_sample(self) -> int | None:
        """Last sample before the targets in which every target neuron is visible, or `None`."""
        mask = self.mask
        stop = mask.prefix_start + (
            mask.prefix_length if self.n_visible >= self.n_neurons else mask.full_population_prefix_length
        )
        return stop - 1 if self.targets and mask.prefix_start < stop <= self.target_start else None

    @property
    def latent_steps(self) -> tuple[int, ...]:
        """Latent steps that take part: those that start inside the context."""
        size, mask = self.config_key.latent_window, self.mask
        steps = range(self.config_key.samples // size)
        return tuple(i for i in steps if mask.context_start <= i * size < mask.context_start + mask.context_length)

    @property
    def video_steps(self) -> tuple[int, int]:
        """Visible video steps `[first, last)`: whole strides of visible frames, rounding down."""
        mask, rules = self.mask, self.config_key
        if not mask.n_frames:
            return 0, 0
        if mask.n_frames == rules.frames:
            return 0, rules.video_steps
        first = min(mask.frames_start // rules.video_stride, rules.video_steps)
        return first, max(first, min((mask.frames_start + mask.n_frames) // rules.video_stride, rules.video_steps))
