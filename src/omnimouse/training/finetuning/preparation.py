"""What a fine-tune is made of before its first step: session, windows, validation.

Every function here refuses what cannot work, with a message for the caller of `finetune`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnimouse.model.masks import Mask, as_mask, fit_masks
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.model.sessions import hash_unit_ids
from omnimouse.recordings import Recording, Windows, is_static, mean_responses
from omnimouse.training.finetuning.matching import match_neurons
from omnimouse.training.shared.checkpoint import Checkpoint, check_identity, newest_checkpoint
from omnimouse.training.shared.data import MaskChoice, as_list, needed_arrays, validation_neuron_ids
from omnimouse.training.shared.loop import Validation
from omnimouse.training.shared.recipe import ScheduleRecipe

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.modeling_omnimouse import OmniMouseModel

VALIDATION_TASKS = (
    "forecasting+stimulus+behavior",
    "population+stimulus+behavior",
    "stimulus+behavior",
    "behavior+stimulus",
)
"""One task per family: what a run is validated on when nothing else is asked for."""

MAX_DEFAULT_VALIDATION_MASKS = 8
"""Given masks are validated on themselves, up to so many; validating on more would take longer than training."""

MAX_WARMUP_STEPS = 50
"""The most warm-up steps a run has unless told otherwise; with the core frozen, nothing needs a long one."""


def check_counts(**counts: int | None) -> None:
    """Refuses counts below 1; None stands for a default."""
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}; expected a whole number, 1 or more.")


def make_schedule(steps: int, warmup_steps: int | None, decay_steps: int | None) -> ScheduleRecipe:
    """Returns the schedule of a run; its defaults fit any number of steps."""
    return ScheduleRecipe(
        warmup_steps=min(MAX_WARMUP_STEPS, steps // 10) if warmup_steps is None else warmup_steps,
        decay_steps=steps // 5 if decay_steps is None else decay_steps,
    )


def check_session(model: OmniMouseModel, recording: Recording, key: str) -> None:
    """Refuses a recording whose neurons are not those of the session in the model."""
    if key not in model.session_keys:
        return
    spec = model.session_spec(key)
    if spec.n_neurons != recording.n_neurons:
        raise ValueError(
            f"Recording {recording.path} has {recording.n_neurons} neurons, but session {key!r} in the model has "
            f"{spec.n_neurons}. Fine-tune the session on the recording it was added from, or add this one under "
            "another key with session=KEY."
        )
    found = hash_unit_ids(recording.unit_ids)
    if found is not None and spec.unit_ids_hash is not None and found != spec.unit_ids_hash:
        raise ValueError(
            f"Recording {recording.path} has as many neurons as session {key!r} in the model, but other unit ids or "
            "another order of them, so the neuron vectors would belong to other neurons. Fine-tune the session on the "
            "recording it was added from, or add this one under another key with session=KEY."
        )


def shares_animal(model: OmniMouseModel, recording: Recording, key: str) -> bool:
    """Whether another session in the model has the animal of session `key` and was trained with its vector.

    One that was merely added has learned nothing that would no longer fit another vector.
    """
    is_known = key in model.session_keys
    animal = model.session_spec(key).animal_id if is_known else model.sessions.known_animal(str(recording.animal_id))
    others = (other for other in model.session_keys if other != key and model.session_spec(other).animal_id == animal)
    return any(model.sessions.is_trained(other) for other in others)


def add_session(
    model: OmniMouseModel, recording: Recording, key: str, processor: OmniMouseProcessor, train_tiers: Sequence[str]
) -> None:
    """Adds the session when the model lacks it, and gives a model without a processor this one."""
    if model.processor is None:
        model.processor = processor
    if key in model.session_keys:
        return
    means = mean_responses(recording, processor, tiers=train_tiers)
    silent = np.flatnonzero(~np.isfinite(means))
    if len(silent):
        named = ", ".join(str(neuron) for neuron in silent[:10]) + (", ..." if len(silent) > 10 else "")
        raise ValueError(
            f"Recording {recording.path} has no finite response in tiers {', '.join(train_tiers)} for {len(silent)} of "
            f"its {recording.n_neurons} neurons: neurons {named} (counted from 0). Leave these neurons out of the "
            "recording, or run `omnimouse check` to see what is wrong with them."
        )
    model.add_session(
        key,
        n_neurons=recording.n_neurons,
        animal_id=str(recording.animal_id),
        mean_responses=means,
        unit_ids=recording.unit_ids,
    )


def wants_matching(model: OmniMouseModel, key: str, start_from: str, missing: Sequence[str] = ()) -> bool:
    """Whether the neurons of a new session begin at known neurons that resemble them."""
    if start_from not in ("auto", "match", "mean"):
        raise ValueError(f"start_from is {start_from!r}; expected 'auto', 'match' or 'mean'.")
    predictable = not {"video", "behavior"} <= set(missing)
    if start_from == "match" and not predictable:
        raise ValueError(
            "start_from='match' compares responses with what known neurons do under stimulus and behavior, but this "
            "recording has no video and no behavior. Pass start_from='mean'."
        )
    return start_from == "match" or (
        start_from == "auto" and predictable and any(other != key for other in model.session_keys)
    )


def start_at_matches(model: OmniMouseModel, key: str, windows: Windows, *, progress: bool) -> None:
    """Begins the neurons of a session just added at matches, or takes the session out again when that fails.

    Left in, it would look like a known session to the next attempt, which would then go without matches.
    """
    try:
        match_neurons(model, key, windows, progress=progress)
    except BaseException:
        model.remove_session(key)
        raise


def find_checkpoint(
    output_dir: str | os.PathLike[str] | None, identity: dict[str, Any], *, resume: bool | str
) -> Checkpoint | None:
    """Returns the checkpoint that the run of this identity continues from, or None to begin anew."""
    if resume not in (True, False, "auto"):
        raise ValueError(f"resume is {resume!r}; expected 'auto', True or False.")
    checkpoint = newest_checkpoint(Path(output_dir)) if resume and output_dir is not None else None
    if checkpoint is not None:
        check_identity(checkpoint, identity)
    return checkpoint


def warn_of_held_responses(recording: Recording, choice: MaskChoice) -> None:
    """Warns that single images are held constant over a window, so that what a mask shows may be what it predicts."""
    showing = sum(mask.prefix_length > 0 for mask in choice.masks)
    if is_static(recording) and showing:
        warnings.warn(
            f"{recording.path} holds single images, whose responses are constant over a window; {showing} of the "
            f"{len(choice.masks)} masks show responses, which can then be copied instead of predicted. Pass "
            "masks=['stimulus', 'stimulus+behavior'] to train on what images and behavior say.",
            stacklevel=3,
        )


def open_windows(
    recording: Recording, tiers: Sequence[str], stride: int, include_blanks: bool, processor: OmniMouseProcessor
) -> Windows:
    """Returns the windows of some tiers, at least one."""
    windows = Windows(recording, tiers, stride=stride, include_blanks=include_blanks, processor=processor)
    if len(windows) == 0:
        raise ValueError(
            f"Recording {recording.path} has no window in {', '.join(windows.tiers)}: {windows.explain()}. Choose "
            "other tiers, or run `omnimouse check` to see what is wrong with them."
        )
    return windows


def open_validation_windows(
    recording: Recording, tier: str, include_blanks: bool, processor: OmniMouseProcessor
) -> Windows:
    """Returns the windows of the validation tier, at least one."""
    if tier not in recording.tiers:
        raise ValueError(
            f"Recording {recording.path} has no tier {tier!r} to validate on; its tiers are "
            f"{', '.join(recording.tiers)}. Pass one of them as validation_tier, or None to train without validation."
        )
    return open_windows(recording, (tier,), 1, include_blanks, processor)


def validation_masks(
    tasks: Mask | str | Sequence[Mask | str] | None,
    masks: Mask | str | Sequence[Mask | str] | None,
    choice: MaskChoice,
    config: OmniMouseConfig,
    missing: Sequence[str] = (),
) -> tuple[dict[str, Mask], bool]:
    """Returns name -> mask to validate on, and whether they were asked for by the caller.

    Where the recording lacks a modality (`missing`), the defaults are the tasks of the same families that go without.
    """
    if tasks is not None:
        tasks = as_list(tasks)
        names = [task if isinstance(task, str) else f"validation/{i}" for i, task in enumerate(tasks)]
        return {name: as_mask(task, config) for name, task in zip(names, tasks, strict=True)}, True
    if masks is not None and len(choice.masks) <= MAX_DEFAULT_VALIDATION_MASKS:
        return dict(zip(choice.names, choice.masks, strict=True)), False
    gone = {"video": "stimulus", "behavior": "behavior"}
    parts = [[part for part in task.split("+") if part not in map(gone.get, missing)] for task in VALIDATION_TASKS]
    return {task: as_mask(task, config) for task in map("+".join, parts) if task}, False


def make_validation(
    windows: Windows,
    wanted: tuple[dict[str, Mask], bool],
    *,
    config: OmniMouseConfig,
    seed: int,
    max_windows: int,
    all_neurons: bool,
) -> Validation:
    """Fixes windows, masks and neurons of the validation.

    Raises:
        ValueError: when a mask asked for does not fit the population, or none fits it and what was recorded.

    Warns:
        UserWarning: some masks asked for need what was not recorded.
    """
    candidates, asked_for = wanted
    n_neurons = windows.recording.n_neurons
    population = n_neurons if all_neurons else min(n_neurons, config.max_population)
    usable, reasons = fit_masks(candidates, population, config, windows.missing)
    unserved = fit_masks(candidates, population, config)[1]
    left_out = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    if not usable or (asked_for and unserved):
        raise ValueError(
            f"A population of {population} neurons cannot be validated on {left_out or 'no task at all'}. Pass "
            "validation_tasks=[...] that it can serve, or validation_tier=None."
        )
    if asked_for and left_out:
        warnings.warn(f"{windows.recording.path} is not validated on {left_out}.", stacklevel=3)
    count = min(max_windows, len(windows))
    indices = np.linspace(0, len(windows) - 1, count).round().astype(int).tolist()
    ids = validation_neuron_ids(seed, count, n_neurons=n_neurons, max_population=config.max_population)
    return Validation(
        windows=windows,
        indices=indices,
        masks=usable,
        needs=needed_arrays(list(usable.values()), population, config),
        neuron_ids=None if all_neurons else ids,
    )
