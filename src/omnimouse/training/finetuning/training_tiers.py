"""What a fine-tune trains on and selects its weights on, which must be different trials."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import Recording, Windows
from omnimouse.recordings.views.stimulus_identity import same_stimuli
from omnimouse.support.progress import say
from omnimouse.training.finetuning.finetune_recipe import AUTO, FinetuneRecipe
from omnimouse.training.shared.data import STREAM_HELD_OUT, permutation

logger = logging.getLogger(__name__)

VALIDATION = "validation"
HELD_OUT = "held out of training"
"""Tier of the trials that a run holds out, in its own view of the recording."""

HELD_OUT_SHARE = 0.1
"""Of the training trials, where a recording has no tier to validate on."""


@dataclass(frozen=True)
class TrainingTiers:
    """The trials of a run.

    Attributes:
        recording: what windows are cut from; trials held out are in a tier of their own there.
        train: tiers to train on.
        validation: tier to select weights on, None for no selection.
        held_out: positions in `recording.trials` of the training trials that are held out for the selection.
    """

    recording: Recording = field(repr=False)
    train: tuple[str, ...]
    validation: str | None
    held_out: tuple[int, ...] = field(default=(), repr=False)

    def warn_of_overlap(self, before: Mapping[str, Any] | None) -> None:
        """Warns that the weights a run begins at were trained on the trials that it selects on.

        Args:
            before: how the session was trained before, as its spec says.
        """
        if self.held_out and "held out of training" in (before or {}):
            return  # the same trials, unless the seed is another
        trained = [tier for tier in self.selected_on if tier in _tiers_named(before, "trained on tiers")]
        if trained:
            warnings.warn(
                f"The weights that this run begins at were trained on tier {', '.join(trained)}, of which trials now "
                "decide which weights are kept; they look better there than on new trials. Pass another "
                "validation_tier, or None to keep the last weights.",
                stacklevel=4,
            )

    @property
    def selected_on(self) -> tuple[str, ...]:
        """Tiers of the recording as it is stored that the selection looks at."""
        return self.train if self.held_out else () if self.validation is None else (self.validation,)

    def in_words(self, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """What is stored with the weights, for `evaluate` and for cards, on top of what was stored before."""
        words = {}
        for name, tiers in (("trained on tiers", self.train), ("selected on tiers", self.selected_on)):
            words[name] = ", ".join(dict.fromkeys([*_tiers_named(before, name), *tiers]))
        if self.held_out:
            words["held out of training"] = f"{len(self.held_out)} trials, whose stimuli were not trained on"
        return {name: text for name, text in words.items() if text}


def _tiers_named(before: Mapping[str, Any] | None, name: str) -> list[str]:
    """The tiers that a spec names."""
    return [tier for tier in str((before or {}).get(name, "")).split(", ") if tier]


def choose_training_tiers(
    recording: Recording, recipe: FinetuneRecipe, processor: OmniMouseProcessor, *, progress: bool
) -> TrainingTiers:
    """Decides which trials select the weights.

    Args:
        recording: the recording as it is stored.
        recipe: says which tiers to train on, and to select on: a tier; None for no selection; "auto" for the tier
            "validation" or, where there is none, a part of the training trials.
        processor: how windows are cut.
        progress: whether to say what was held out.

    Raises:
        ValueError: the tier to select on is also trained on.

    Warns:
        UserWarning: "auto" finds nothing to select on.
    """
    train, validation = recipe.tiers, recipe.validation_tier
    if validation is not None and validation != AUTO and validation in train:
        raise ValueError(
            f"validation_tier is {validation!r}, which is also trained on, so it cannot tell which weights do well on "
            "trials they have not seen. Pass another tier, 'auto' to hold a part of the training trials out, or None "
            "to keep the last weights."
        )
    if validation != AUTO:
        return TrainingTiers(recording, train, validation)
    if VALIDATION in recording.tiers and VALIDATION not in train:
        return TrainingTiers(recording, train, VALIDATION)
    view, held_out = hold_out(recording, train, seed=recipe.seed, processor=processor)
    if not held_out or not len(Windows(view, HELD_OUT, include_blanks=False, processor=processor, quiet=True)):
        warnings.warn(
            f"{recording.path} has no tier 'validation', and no part of its tier {', '.join(train)} can be held out by "
            "stimulus and still have windows. The weights of the last step are kept; pass validation_tier=... to "
            "select them on a tier.",
            stacklevel=4,
        )
        return TrainingTiers(recording, train, None)
    message = (
        f"The recording has no tier 'validation': {len(held_out)} trials of tier {', '.join(train)} are held out, by "
        "stimulus, to select weights on (validation_tier=None trains on all)"
    )
    logger.info(message)
    if progress:
        say(message)
    return TrainingTiers(view, train, HELD_OUT, held_out)


def hold_out(
    recording: Recording, tiers: tuple[str, ...], *, seed: int, processor: OmniMouseProcessor
) -> tuple[Recording, tuple[int, ...]]:
    """Moves a tenth of the trials of some tiers into the tier `HELD_OUT`; all repeats of a stimulus go together.

    Which stimuli is a pure function of the seed and of how many there are, but no tier is held out as a whole. The view
    standardises its windows with the statistics of the recording, so that a model adapted on it is at home there.

    Returns:
        A view of the recording, and the positions of the trials moved; none where all show the same stimulus.
    """
    trials = [position for position, trial in enumerate(recording.trials) if trial.tier in tiers]
    stimuli = same_stimuli(recording, trials, height=processor.frame_height, width=processor.frame_width)
    n_stimuli = len(set(stimuli.tolist()))
    left = Counter(recording.trials[position].tier for position in trials)
    held_out: list[int] = []
    for stimulus in permutation(n_stimuli, seed, STREAM_HELD_OUT):
        if len(held_out) >= HELD_OUT_SHARE * len(trials):
            break
        showing = [position for position, shown in zip(trials, stimuli, strict=True) if shown == stimulus]
        gone = Counter(recording.trials[position].tier for position in showing)
        if all(gone[tier] < left[tier] for tier in gone):  # something of every tier is trained on
            held_out += showing
            left -= gone
    held_out.sort()
    for device in recording.devices:
        if device.shape[1]:
            recording.statistics(device)  # computed here if at all, and shared with the view
    view = copy.copy(recording)
    view.screen = copy.copy(recording.screen)
    view.screen.trials = [
        replace(trial, tier=HELD_OUT) if position in set(held_out) else trial
        for position, trial in enumerate(recording.trials)
    ]
    return view, tuple(held_out)
