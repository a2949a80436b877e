"""What a mask may be: its fields in themselves, and its pieces in a window. What is refused says what to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from omnimouse.model.configuration_omnimouse import OmniMouseConfig

Stretch = tuple[int, int]
"""Samples `[start, stop)`."""


def checked_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Mask` by name, with `None` for "all" and Python's own numbers; refuses what they may not be."""
    fields = dict(given)
    for name, value in given.items():
        if name.endswith("_neurons"):
            fields[name] = _checked_count(name, value)
        elif name == "behavior":
            if value not in ("encoded", "decoded", "absent"):
                raise ValueError(f"Mask.behavior must be 'encoded', 'decoded' or 'absent', got {value!r}.")
        elif isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"Mask.{name} must be a whole number of samples >= 0, got {value!r}.")
        else:
            fields[name] = int(value)
    for count, length, meaning in (
        ("n_visible_neurons", "prefix_length", "responses hidden"),
        ("n_target_neurons", "target_length", "no responses predicted"),
    ):
        if (fields[count] == 0) != (fields[length] == 0):
            raise ValueError(
                f"Mask has {count}={fields[count]} and {length}={fields[length]}: either both are 0 ({meaning}) or "
                "neither is."
            )
    if fields["full_population_prefix_length"] > fields["prefix_length"]:
        raise ValueError(
            f"Mask has full_population_prefix_length={fields['full_population_prefix_length']} longer than "
            f"prefix_length={fields['prefix_length']}; it is the part of the prefix in which every neuron is visible."
        )
    return fields


def _checked_count(name: str, value: Any) -> int | float | None:
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


def check_fit(
    mask: object,
    shown: Sequence[Stretch],
    predicted: Sequence[Stretch],
    video_steps: Stretch,
    counts: tuple[int, int, int],
    config: OmniMouseConfig,
) -> None:
    """Refuses a `Mask` that does not fit the window, cannot be cut into tokens, or leaves nothing to predict.

    Args:
        mask: The mask.
        shown, predicted: Samples of its visible segments, and of its targets.
        video_steps: Those that it shows.
        counts: Neurons of the population, visible ones and targets.
        config: Gives the window and the tokens.
    """
    n_neurons, n_visible, n_target = counts
    if n_neurons < 1:
        raise ValueError(f"A population needs at least one neuron, got {n_neurons}.")
    fields = vars(mask)
    misfit = next(_misfits(fields, shown, predicted, video_steps, config), None)
    if misfit is not None:
        raise ValueError(f"{misfit} in {mask}, for {n_neurons} neurons.")
    if not predicted and fields["behavior"] != "decoded":
        raise ValueError(
            f"Nothing to predict: no target is left in a population of {n_neurons} neurons ({n_visible} visible, "
            f"{n_target} targets). Show fewer neurons (n_visible_neurons), predict samples further from visible "
            f"activity (target_start, target_length), use more neurons, or decode behaviour. The mask: {mask}."
        )


def _misfits(
    fields: Mapping[str, Any],
    shown: Sequence[Stretch],
    predicted: Sequence[Stretch],
    video_steps: Stretch,
    config: OmniMouseConfig,
) -> Iterator[str]:
    """In what a mask of these fields does not fit the window, or cannot be cut into tokens."""
    samples, frames = (config.num_response_samples, "samples"), (config.num_frames, "frames")
    for name, first, count, (limit, unit) in (
        ("prefix", "prefix_start", "prefix_length", samples),
        ("context", "context_start", "context_length", samples),
        ("target", "target_start", "target_length", samples),
        ("video", "frames_start", "n_frames", frames),
    ):
        if (end := fields[first] + fields[count]) > limit:
            yield f"The {name} ends at {end} but the window has {limit} {unit},"
    if fields["target_length"] and fields["target_start"] < config.skip_samples:
        yield f"target_start is {fields['target_start']}; targets may not begin before {config.skip_samples},"
    if (n := fields["n_frames"]) and video_steps[0] == video_steps[1]:
        stride = config.video_patch_stride[0]
        yield f"The {n} visible frames hold no whole step of {stride} frames; show more frames, or n_frames=0,"
    w, s = config.response_token_window, config.response_token_stride
    for length in (stop - start for start, stop in shown):
        if length < w or (length - w) % s:
            allowed = ", ".join(str(w + k * s) for k in range(4))
            yield (
                f"A visible segment of {length} samples cannot be tokenised (allowed: {allowed}, ...); change "
                "prefix_length or full_population_prefix_length,"
            )
    for start, stop in predicted:
        if (stop - start) % s:
            yield (
                f"Targets over samples {start} to {stop} are no multiple of {s}; change target_start or target_length,"
            )
