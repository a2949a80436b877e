"""Masks for what was recorded: other populations, and recordings without video or behaviour."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.mask_rules import Mask

Key = TypeVar("Key", bound=Hashable)


class NotRecordedError(ValueError):
    """A mask needs what a recording lacks; the message says what."""


def _not_recorded(names: Sequence[str]) -> str:
    return f"this recording has no {' and no '.join(names)}"


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
    shown = {"video": mask.n_frames > 0, "behavior": mask.behavior == "encoded"}
    lacks = [name for name, is_shown in shown.items() if is_shown and name in missing]
    reason = _not_recorded(lacks)
    if lacks and not go_without:
        raise NotRecordedError(f"it shows {' and '.join(lacks)}, but {reason}")
    fitted = without_modalities(mask, missing)
    if lacks and not (fitted.prefix_length or fitted.n_frames or fitted.behavior == "encoded"):
        raise NotRecordedError(f"it shows nothing but {' and '.join(lacks)}, and {reason}")
    try:
        fitted.resolve(n_neurons, config)
    except ValueError:
        mask.resolve(n_neurons, config)  # where this fails too, it is the population's fault
        raise NotRecordedError(f"it predicts nothing but behavior, and {_not_recorded(['behavior'])}") from None
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


def usable_masks(masks: Sequence[Mask], n_neurons: int, config: OmniMouseConfig) -> tuple[list[int], dict[int, str]]:
    """Sorts masks into those a population can serve and those it cannot.

    Args:
        masks: Masks to try.
        n_neurons: Neurons of the session; at most `config.max_population` of them are used at once.
        config: The model's configuration.

    Returns:
        Indices of usable masks, and for each other index the reason.
    """
    fitted, reasons = fit_masks(dict(enumerate(masks)), min(n_neurons, config.max_population), config)
    return list(fitted), reasons
