"""Masks for what was recorded: other populations, and recordings without video or behaviour."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace
from typing import TypeVar

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.mask_rules import Mask

Key = TypeVar("Key", bound=Hashable)


class NotRecordedError(ValueError):
    """A mask needs what a recording lacks; the message says what."""


def without_modalities(mask: Mask, missing: Collection[str]) -> Mask:
    """Returns the mask for a recording that lacks "video", "behavior" or both: it shows and decodes none of them."""
    if "video" in missing and mask.n_frames:
        mask = replace(mask, frames_start=0, n_frames=0)
    return replace(mask, behavior="absent") if "behavior" in missing and mask.behavior != "absent" else mask


def fit_mask(
    mask: Mask, n_neurons: int, config: OmniMouseConfig, missing: Collection[str] = (), *, go_without: bool = False
) -> Mask:
    """Fits a mask to what was recorded, or says why it does not fit.

    Behaviour that was not recorded is not decoded: nothing is asked for that nobody can answer. A mask that *shows*
    what was not recorded would be another task without it, and does not fit, unless it is to `go_without`.

    Args:
        mask: What is asked for.
        n_neurons: Neurons of the population, after any cut.
        config: The model's configuration.
        missing: Of "video" and "behavior" what the recording lacks.
        go_without: Also hide what the mask shows and the recording lacks, as training masks do.

    Returns:
        The mask itself, or its like for this recording.

    Raises:
        NotRecordedError: It shows or predicts nothing but what is missing, or shows it and may not go without.
        ValueError: The population cannot serve it; see `Mask.resolve`.
    """
    shown = {"video": mask.shows_video, "behavior": mask.encodes_behavior}
    lacks = [name for name, is_shown in shown.items() if is_shown and name in missing]
    reason = f"this recording has no {' and no '.join(lacks)}"
    if lacks and not go_without:
        raise NotRecordedError(f"it shows {' and '.join(lacks)}, but {reason}")
    fitted = without_modalities(mask, missing)
    if lacks and not (fitted.shows_responses or fitted.shows_video or fitted.encodes_behavior):
        raise NotRecordedError(f"it shows nothing but {' and '.join(lacks)}, and {reason}")
    try:
        fitted.resolve(n_neurons, config)
    except ValueError:
        mask.resolve(n_neurons, config)  # where this fails too, it is the population's fault
        raise NotRecordedError("it predicts nothing but behavior, and this recording has no behavior") from None
    return fitted


def fit_masks(
    masks: Mapping[Key, Mask],
    n_neurons: int,
    config: OmniMouseConfig,
    missing: Collection[str] = (),
    *,
    go_without: bool = False,
) -> tuple[dict[Key, Mask], dict[Key, str]]:
    """Sorts masks into those that fit, as `fit_mask` returns them, and the reasons of those that do not."""
    fitted, reasons = {}, {}
    for key, mask in masks.items():
        try:
            fitted[key] = fit_mask(mask, n_neurons, config, missing, go_without=go_without)
        except ValueError as error:
            reasons[key] = str(error)
    return fitted, reasons
