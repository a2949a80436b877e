"""What a fine-tune is made of before its first step: windows, masks, validation, and the session in the model.

Every function here refuses what cannot work, with a message for the caller of `finetune`.
"""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from omnimouse.evaluation.encoded_video.stored_video import StoredVideo
from omnimouse.evaluation.simulated_cores import say_if_only_simulated
from omnimouse.model.masking.mask_fitting import fit_masks
from omnimouse.model.masking.masks import Mask, as_mask
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import Recording, Windows, is_static
from omnimouse.recordings.held_windows import HeldWindows, can_be_held
from omnimouse.support.spreading import spread
from omnimouse.training.finetuning.finetune_checkpoint import Checkpoint, newest_finetune_checkpoint
from omnimouse.training.finetuning.finetune_identity import check_identity, finetune_identity
from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe
from omnimouse.training.finetuning.loop import TrainingRun, Validation
from omnimouse.training.finetuning.matching import match_neurons
from omnimouse.training.finetuning.parameters import build_optimizers
from omnimouse.training.finetuning.run_video import RunVideo, training_fits
from omnimouse.training.finetuning.training_tiers import TrainingTiers, choose_training_tiers
from omnimouse.training.shared.accelerators import OneDevice
from omnimouse.training.shared.data import (
    MaskChoice,
    Masks,
    as_list,
    choose_holding,
    choose_masks,
    finite_means,
    needed_arrays,
    open_windows,
    validation_neuron_ids,
)

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.pretrained.omnimouse_model import OmniMouseModel

logger = logging.getLogger(__name__)

VALIDATION_TASKS = (
    "forecasting+stimulus+behavior",
    "population+stimulus+behavior",
    "stimulus+behavior",
    "behavior+stimulus",
)
"""One task per family: what a run is validated on when nothing else is asked for."""

MAX_DEFAULT_VALIDATION_MASKS = 8
"""Given masks are validated on themselves, up to so many; validating on more would take longer than training."""


def prepare_finetune(
    model: OmniMouseModel,
    recording: Recording,
    key: str,
    recipe: FinetuneRecipe,
    accelerator: Accelerator | OneDevice,
    output_dir: Path | None,
    *,
    resume: bool | str,
    progress: bool,
) -> tuple[TrainingRun, Checkpoint | None, TrainingTiers]:
    """Returns the run, the checkpoint that it goes on from, and its trials; the session is in the model then."""
    if recipe.train_animal is None:
        recipe = replace(recipe, train_animal=not shares_animal(model, recording, key))
    recipe = replace(recipe, mixed_precision=accelerator.mixed_precision)
    processor = recipe.processor or model.session_processor(key)
    tiers = choose_training_tiers(recording, recipe, processor, progress=progress)
    is_new = key not in model.session_keys
    if not is_new:
        tiers.warn_of_overlap(model.session_spec(key).training)
    recording = tiers.recording
    windows = open_windows(recording, recipe.tiers, recipe.stride, recipe.include_blanks, processor)
    choice = choose_masks(
        recipe.masks, recipe.mask_weights, n_neurons=min(recording.n_neurons, model.config.max_population),
        config=model.config, missing=windows.missing, go_without=recipe.masks is None,
    )  # fmt: skip
    if recipe.masks is None:
        warn_of_held_responses(recording, choice)
    validation = None
    if tiers.validation is not None:
        held_out = _validation_windows(recording, tiers.validation, recipe, processor)
        validation = make_validation(held_out, recipe, choice, model.config)
    matching = wants_matching(model, key, recipe.start_from, windows.missing)
    identity = finetune_identity(model, key, recipe, windows, choice, validation)
    checkpoint = newest_finetune_checkpoint(output_dir) if resume and output_dir is not None else None
    if checkpoint is not None:
        check_identity(checkpoint, identity)
    say_if_only_simulated(model, recording)
    if model.processor is None:
        model.processor = processor
    if is_new:
        _add_session(model, recording, key, processor, recipe.tiers)
    to: Any = accelerator.device  # Any: the type that transformers gives `to` is that of an unbound method
    model.to(to)
    stored = StoredVideo.of(model) if recipe.cache_video else None
    if is_new and matching and checkpoint is None:
        _start_at_matches(model, key, windows, stored, progress=progress)
    # The thread that cuts ahead gets open files of its own; validation reads the same recording meanwhile.
    own: Windows | HeldWindows = copy.deepcopy(windows) if recipe.num_workers else windows
    if choose_holding(recipe.on_device, [windows], accelerator.device)[0] and can_be_held(windows):
        own = HeldWindows(windows, accelerator.device)
        logger.info("windows are cut on %s: %.2f GiB", accelerator.device, own.n_bytes / 2**30)
    run = TrainingRun(
        model=model, accelerator=accelerator, session=key, recipe=recipe, windows=own, choice=choice,
        groups=build_optimizers(model, recipe, key), validation=validation, output_dir=output_dir, identity=identity,
        progress=progress, video=_run_video(model, accelerator, recipe, choice, windows, stored),
    )  # fmt: skip
    return run, checkpoint, tiers


def _run_video(
    model: OmniMouseModel,
    accelerator: Accelerator | OneDevice,
    recipe: FinetuneRecipe,
    choice: MaskChoice,
    windows: Windows,
    stored: StoredVideo | None,
) -> RunVideo:
    fits = stored is not None and training_fits(stored, recipe, choice.masks, len(windows), model.config)
    return RunVideo(model, accelerator, is_frozen=recipe.core is None, stored=stored, stores_training=fits)


def shares_animal(model: OmniMouseModel, recording: Recording, key: str) -> bool:
    """Whether another session in the model has the animal of session `key` and was trained with its vector.

    One that was merely added has learned nothing that would no longer fit another vector.
    """
    is_known = key in model.session_keys
    animal = model.session_spec(key).animal_id if is_known else model.sessions.known_animal(str(recording.animal_id))
    others = (other for other in model.session_keys if other != key and model.session_spec(other).animal_id == animal)
    return any(model.sessions.is_trained(other) for other in others)


def _add_session(
    model: OmniMouseModel, recording: Recording, key: str, processor: OmniMouseProcessor, tiers: tuple[str, ...]
) -> None:
    """Adds the session of a recording, with biases at its mean responses in the tiers that are trained on."""
    model.add_session(
        key,
        n_neurons=recording.n_neurons,
        animal_id=str(recording.animal_id),
        mean_responses=finite_means(recording, processor, tiers),
        unit_ids=recording.unit_ids,
    )


def wants_matching(model: OmniMouseModel, key: str, start_from: str, missing: tuple[str, ...]) -> bool:
    """Whether the neurons of a new session begin at known neurons that resemble them."""
    predictable = not {"video", "behavior"} <= set(missing)
    if start_from == "match" and not predictable:
        raise ValueError(
            "start_from='match' compares responses with what known neurons do under stimulus and behavior, but this "
            "recording has no video and no behavior. Pass start_from='mean'."
        )
    has_others = any(other != key for other in model.session_keys)
    return start_from == "match" or (start_from == "auto" and predictable and has_others)


def _start_at_matches(
    model: OmniMouseModel, key: str, windows: Windows, stored: StoredVideo | None, *, progress: bool
) -> None:
    """Begins the neurons of a session just added at matches, or takes the session out again when that fails.

    Left in, it would look like a known session to the next attempt, which would then go without matches.
    """
    try:
        match_neurons(model, key, windows, stored_video=stored, progress=progress)
    except BaseException:
        model.remove_session(key)
        raise


def warn_of_held_responses(recording: Recording, choice: MaskChoice) -> None:
    """Warns that single images are held constant over a window, so that what a mask shows may be what it predicts."""
    showing = sum(mask.prefix_length > 0 for mask in choice.masks)
    if is_static(recording) and showing:
        warnings.warn(
            f"{recording.path} holds single images, whose responses are constant over a window; {showing} of the "
            f"{len(choice.masks)} masks show responses, which can then be copied instead of predicted. Pass "
            "masks=['stimulus', 'stimulus+behavior'] to train on what images and behavior say.",
            stacklevel=4,
        )


def _validation_windows(
    recording: Recording, tier: str, recipe: FinetuneRecipe, processor: OmniMouseProcessor
) -> Windows:
    if tier not in recording.tiers:
        raise ValueError(
            f"Recording {recording.path} has no tier {tier!r} to validate on; its tiers are "
            f"{', '.join(recording.tiers)}. Pass one of them as validation_tier, or None to train without validation."
        )
    return open_windows(recording, (tier,), 1, recipe.include_blanks, processor)


def validation_masks(
    tasks: Masks | None, masks: Masks | None, choice: MaskChoice, config: OmniMouseConfig, missing: tuple[str, ...] = ()
) -> tuple[dict[str, Mask], bool]:
    """Returns name -> mask to validate on, and whether they were asked for by the caller.

    Where the recording lacks a modality (`missing`), the defaults are the tasks of the same families that go without.
    """
    if tasks is not None:
        named = {t if isinstance(t, str) else f"validation/{i}": t for i, t in enumerate(as_list(tasks))}
        return {name: as_mask(task, config) for name, task in named.items()}, True
    if masks is not None and len(choice.masks) <= MAX_DEFAULT_VALIDATION_MASKS:
        return dict(zip(choice.names, choice.masks, strict=True)), False
    gone = {"video": "stimulus", "behavior": "behavior"}
    parts = [[part for part in task.split("+") if part not in map(gone.get, missing)] for task in VALIDATION_TASKS]
    return {task: as_mask(task, config) for task in map("+".join, parts) if task}, False


def make_validation(
    windows: Windows, recipe: FinetuneRecipe, choice: MaskChoice, config: OmniMouseConfig
) -> Validation:
    """Fixes windows, masks and neurons of the validation.

    Raises:
        ValueError: when a mask asked for does not fit the population, or none fits it and what was recorded.

    Warns:
        UserWarning: some masks asked for need what was not recorded.
    """
    candidates, asked_for = validation_masks(recipe.validation_tasks, recipe.masks, choice, config, windows.missing)
    n_neurons, all_neurons = windows.recording.n_neurons, recipe.validation_all_neurons
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
        warnings.warn(f"{windows.recording.path} is not validated on {left_out}.", stacklevel=4)
    indices = spread(len(windows), recipe.max_validation_windows)
    ids = validation_neuron_ids(recipe.seed, len(indices), n_neurons=n_neurons, max_population=config.max_population)
    return Validation(
        windows=windows,
        indices=indices,
        masks=usable,
        needs=needed_arrays(list(usable.values()), population, config),
        neuron_ids=None if all_neurons else ids,
    )
