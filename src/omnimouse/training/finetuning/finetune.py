"""Fine-tuning on one recording: a new mouse's session tables, and the core only when asked."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omnimouse.evaluation.simulated_cores import say_if_only_simulated
from omnimouse.model.masks import Mask
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import Recording, open_recording
from omnimouse.support.compute_devices import Device, resolve_device
from omnimouse.support.outputs import check_output
from omnimouse.support.progress import say
from omnimouse.support.version import __version__
from omnimouse.training.finetuning.preparation import (
    add_session,
    check_counts,
    check_session,
    find_checkpoint,
    make_schedule,
    make_validation,
    open_validation_windows,
    open_windows,
    shares_animal,
    start_at_matches,
    validation_masks,
    wants_matching,
    warn_of_held_responses,
)
from omnimouse.training.finetuning.training_tiers import AUTO, TrainingTiers, choose_training_tiers
from omnimouse.training.shared.accelerators import make_accelerator
from omnimouse.training.shared.checkpoint import (
    Checkpoint,
    TrainingState,
    load_parameters,
    remove_checkpoints,
    restore,
    sole_user,
    write_history,
)
from omnimouse.training.shared.data import choose_masks
from omnimouse.training.shared.identity import run_identity
from omnimouse.training.shared.loop import HISTORY_FILE, TrainingRun, only_trainable, run_steps
from omnimouse.training.shared.recipe import (
    FINETUNE_CORE_LEARNING_RATE,
    PUBLISHED_CORE_OPTIMIZER,
    PUBLISHED_SESSION_OPTIMIZER,
    FinetuneRecipe,
    MixedPrecision,
    build_optimizers,
)

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tune leaves, besides the weights in the model.

    Attributes:
        session: key of the session trained.
        history: one row per step: step (1 for the first), loss, response_loss and behavior_loss (None when the step's
            mask has no such loss), validation_loss (None on steps without validation), validation_losses (task ->
            loss), seconds (since the start), mask, learning_rate and gradient_norm (each set of parameters -> value).
        best_step: the step whose weights the model holds now; 0 when no step was better than not training at all.
        best_validation_loss: mean loss of the validation tasks at that step; None without validation.
        initial_validation_loss: the same before the first step.
        stopped_early: whether patience ran out before the last step.
        resumed_from: step of the checkpoint the run was continued from, or None.
        left_out_masks: mask name -> why it does not fit this population or what was recorded.
        output_dir: folder with checkpoint and history, or None.
        seconds: time spent training, over all sittings of the run.
        tiers: what was trained on and what the weights were selected on; `tiers.held_out` are the positions in
            `recording.trials` of training trials that were held out for that.
    """

    session: str
    history: list[dict[str, Any]] = field(repr=False)
    best_step: int
    best_validation_loss: float | None
    initial_validation_loss: float | None
    stopped_early: bool
    resumed_from: int | None
    left_out_masks: dict[str, str] = field(repr=False)
    output_dir: Path | None
    seconds: float
    tiers: TrainingTiers


def finetune(
    model: OmniMouseModel,
    recording: Recording | str | os.PathLike[str],
    *,
    steps: int = 1000,
    batch_size: int = 8,
    session_learning_rate: float = PUBLISHED_SESSION_OPTIMIZER.learning_rate,
    train_core: bool = False,
    core_learning_rate: float = FINETUNE_CORE_LEARNING_RATE,
    warmup_steps: int | None = None,
    decay_steps: int | None = None,
    train_animal: bool | None = None,
    masks: Mask | str | Sequence[Mask | str] | None = None,
    mask_weights: Sequence[float] | None = None,
    processor: OmniMouseProcessor | None = None,
    train_tiers: str | Sequence[str] = ("train",),
    stride: int = 1,
    include_blanks: bool = True,
    validation_tier: str | None = AUTO,
    validation_tasks: Mask | str | Sequence[Mask | str] | None = None,
    validation_all_neurons: bool = False,
    validate_every: int | None = None,
    max_validation_windows: int = 32,
    patience: int | None = None,
    seed: int = 0,
    output_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool | Literal["auto"] = "auto",
    mixed_precision: MixedPrecision | Literal["auto"] = "auto",
    cpu: bool = False,
    device: Device = None,
    num_workers: int = 1,
    progress: bool = True,
    session: str | None = None,
    start_from: Literal["auto", "match", "mean"] = "auto",
) -> FinetuneResult:
    """Trains the session tables of one recording, and the core if asked, and leaves the best weights in the model.

    A session that the model lacks is added first. Each step draws `batch_size` windows, a mask that the population can
    serve, and a shuffle of the neurons, all as a function of `seed` and the step. With the core frozen only the neuron
    vectors, neuron biases, session vector and animal vector change, and the core runs without stochastic depth. The
    model ends up on the device it was trained on.

    With an `output_dir`, the run saves checkpoints there and can be killed at any time: the same call goes on from the
    newest one and ends with the same weights as a run that was never interrupted (bit for bit on one CPU with the same
    number of threads). Ctrl-C and SIGTERM save a checkpoint after the step under way and then raise KeyboardInterrupt
    or SystemExit; the model then holds the weights of the last step. More of them within ten seconds are the same
    request; a later one stops at once. One run at a time can use an `output_dir`.

    Args:
        model: a model with a trained core; a `PeftModel` stands for the model inside it.
        recording: an open recording or its folder.
        steps: optimizer steps of the whole run.
        batch_size: windows per step.
        session_learning_rate: peak learning rate of the session tables.
        train_core: also train the core, as far as it requires gradients: after `peft.get_peft_model` that is the LoRA
            alone. Other sessions in the model are left as they are and no longer fit it.
        core_learning_rate: peak learning rate of the core; lower than in pre-training, so that one mouse does not
            undo what many taught the core.
        warmup_steps: linear warm-up; default: a tenth of the steps, at most 50.
        decay_steps: last steps over which the learning rate falls to near zero; default: a fifth of the steps.
        train_animal: whether to train the animal vector; default: unless another session in the model that was trained
            shares it, which would no longer fit. One that was merely added does not count. To keep several sessions of
            one animal together, train one, load or keep it in the model, and train the next: they share its vector.
        masks: masks or task names to train on; default: the 120 training masks of the released models, which go without
            what the recording lacks. Behaviour that was not recorded is not decoded; of the masks given, those that
            show what was not recorded are left out.
        mask_weights: weight of each mask; default: equal.
        processor: how windows are cut; default: the session's own, else the model's, else the profile "strict". It
            becomes the session's own: it travels in adapters and model folders, and `evaluate` and `predict` use it. A
            model without a processor gets it too.
        train_tiers: tier or tiers of the trials to train on.
        stride: use every stride-th possible window start, counted as the processor's `stride_rule` says.
        include_blanks: also train on blank screens between trials.
        validation_tier: trials that decide which weights are kept; None keeps the last ones. "auto" takes the tier
            "validation" or, where a recording has none, holds a tenth of the training trials out: by stimulus, so that
            no repeat of a clip is on both sides, and always the same ones for a seed (`FinetuneResult.tiers`).
        validation_tasks: masks or task names to validate on; default: `masks` when they are given and at most eight,
            else `VALIDATION_TASKS`, as far as the population allows.
        validation_all_neurons: validate on the whole population in file order instead of fixed shuffles that are cut to
            the model's largest population.
        validate_every: steps between validations; default: ten over the run.
        max_validation_windows: windows to validate on, evenly spread over the tier.
        patience: stop after so many validations in a row without improvement; default: never.
        seed: decides windows, masks, neuron shuffles and stochastic depth.
        output_dir: folder for `history.jsonl` and checkpoints; default: neither is written.
        checkpoint_every: steps between checkpoints; default: ten over the run.
        resume: "auto" (or True) continues from the checkpoint in `output_dir` if there is one; False removes it and
            begins anew.
        mixed_precision: "bf16", "no", or "auto" for bf16 where the device has instructions for it (GPUs, recent CPUs).
        cpu: train on the CPU although there is an accelerator; the same as `device="cpu"`.
        device: where to train: "cpu", "cuda", "cuda:1", "mps" or a `torch.device`; default: Accelerate's choice, an
            accelerator if there is one.
        num_workers: 1 cuts windows one batch ahead in a thread, 0 does not; the result is the same.
        progress: show a progress bar.
        session: key of the session in the model; default: the key of the recording.
        start_from: where the neurons of a session that the model lacks begin: "mean" at the average neuron that the
            core was trained on, "match" each at the known neuron (of the model's other sessions) whose predictions
            resemble its responses in the training tiers, "auto" for "match" if there are other sessions.

    Returns:
        `FinetuneResult`.

    Raises:
        ValueError: an argument out of range; a tier that is unknown, has no window, or is both trained and validated
            on; another number of neurons, or other neurons, than the session in the model has; no mask that fits the
            population and what was recorded; NaN in the data, the loss or a gradient; in `output_dir` a checkpoint of
            another run (another recording, core, recipe, ...), damaged checkpoints only, or a run that is going on; an
            `output_dir` that cannot be written to or lies in the recording; a device that is not there.
        OSError: the disk is full; the checkpoint before is whole.
    """
    place = resolve_device(device, cpu=cpu)
    inner = getattr(model, "get_base_model", None)  # of a PeftModel, which changes layers of the model in it in place
    model = model if inner is None else inner()
    recording = recording if isinstance(recording, Recording) else open_recording(recording)
    key = model.sessions.full_key(recording.session_key if session is None else session)
    train_tiers = (train_tiers,) if isinstance(train_tiers, str) else tuple(train_tiers)
    check_session(model, recording, key)
    check_counts(
        steps=steps, batch_size=batch_size, checkpoint_every=checkpoint_every, validate_every=validate_every,
        max_validation_windows=max_validation_windows, patience=patience, stride=stride,
    )  # fmt: skip
    if output_dir is not None:
        check_output(output_dir, recording.path, folder=True)
    with nullcontext() if output_dir is None else sole_user(Path(output_dir)):
        accelerator = make_accelerator(mixed_precision, place)
        processor = processor or model.session_processor(key)
        recipe = FinetuneRecipe(
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            session=replace(PUBLISHED_SESSION_OPTIMIZER, learning_rate=session_learning_rate),
            core=replace(PUBLISHED_CORE_OPTIMIZER, learning_rate=core_learning_rate) if train_core else None,
            schedule=make_schedule(steps, warmup_steps, decay_steps),
            train_animal=not shares_animal(model, recording, key) if train_animal is None else train_animal,
            validate_every=max(1, steps // 10) if validate_every is None else validate_every,
            patience=patience,
            mixed_precision=accelerator.mixed_precision,
        )
        tiers = choose_training_tiers(
            recording, train_tiers, validation_tier, seed=seed, processor=processor, include_blanks=include_blanks,
            progress=progress,
        )  # fmt: skip
        if key in model.session_keys:
            tiers.warn_of_overlap(model.session_spec(key).training)
        recording = tiers.recording
        population = min(recording.n_neurons, model.config.max_population)
        windows = open_windows(recording, train_tiers, stride, include_blanks, processor)
        choice = choose_masks(
            masks, mask_weights, n_neurons=population, config=model.config, missing=windows.missing,
            go_without=masks is None,
        )  # fmt: skip
        if masks is None:
            warn_of_held_responses(recording, choice)
        validation = None
        if tiers.validation is not None:
            validation = make_validation(
                open_validation_windows(recording, tiers.validation, include_blanks, processor),
                validation_masks(validation_tasks, masks, choice, model.config, windows.missing),
                config=model.config,
                seed=seed,
                max_windows=max_validation_windows,
                all_neurons=validation_all_neurons,
            )
        matching = wants_matching(model, key, start_from, windows.missing)
        identity = run_identity(model, key, recipe, windows, choice, validation)
        identity["start_from"] = start_from
        checkpoint = find_checkpoint(output_dir, identity, resume=resume)
        say_if_only_simulated(model, recording)
        is_new = key not in model.session_keys
        add_session(model, recording, key, processor, train_tiers)
        to: Any = accelerator.device  # Any: the type that transformers gives `to` is that of an unbound method
        model.to(to)
        if is_new and matching and checkpoint is None:
            start_at_matches(model, key, windows, progress=progress)
        run = TrainingRun(
            model=model,
            accelerator=accelerator,
            session=key,
            n_neurons=recording.n_neurons,
            recipe=recipe,
            # The thread that cuts ahead gets open files of its own; validation reads the same recording meanwhile.
            windows=copy.deepcopy(windows) if num_workers else windows,
            choice=choice,
            groups=build_optimizers(model, recipe, key),
            validation=validation,
            output_dir=None if output_dir is None else Path(output_dir),
            checkpoint_every=max(1, steps // 10) if checkpoint_every is None else checkpoint_every,
            identity=identity,
            num_workers=num_workers,
            progress=progress,
        )
        return _run(run, checkpoint, tiers)


def _run(run: TrainingRun, checkpoint: Checkpoint | None, tiers: TrainingTiers) -> FinetuneResult:
    """Trains from a checkpoint or from the start, and puts the best weights into the model."""
    state, resumed_from = TrainingState(), None
    if checkpoint is not None:
        state = restore(checkpoint, run.groups)
        resumed_from = state.step
    if run.output_dir is not None:
        if checkpoint is None:
            remove_checkpoints(run.output_dir)
        write_history(run.output_dir / HISTORY_FILE, state.history)
    run.model.sessions.note_processor(run.session, run.identity["processor"])
    _report_left_out(run)
    with only_trainable(run.model, run.groups):
        run_steps(run, state)
    if state.best_step is not None:
        load_parameters(run.groups, state.best_parameters)
    before = run.model.session_spec(run.session).training
    run.model.sessions.note_training(run.session, _in_words(run, state) | tiers.in_words(before))
    return FinetuneResult(
        session=run.session,
        history=state.history,
        best_step=state.step if state.best_step is None else state.best_step,
        best_validation_loss=state.best_validation_loss,
        initial_validation_loss=state.initial_validation_loss,
        stopped_early=state.stopped_early,
        resumed_from=resumed_from,
        left_out_masks=run.choice.left_out,
        output_dir=run.output_dir,
        seconds=state.seconds,
        tiers=tiers,
    )


def _in_words(run: TrainingRun, state: TrainingState) -> dict[str, Any]:
    """The recipe of a run, for the card of what it trained."""
    recipe, names = run.recipe, run.choice.names
    kept = state.step if state.best_step is None else state.best_step
    return {
        "steps": f"{state.step}, the weights of step {kept} kept",
        "windows per step": recipe.batch_size,
        "trained": "session and core" if recipe.core else "session, the core frozen",
        "learning rate of the session": recipe.session.learning_rate,
        **({"learning rate of the core": recipe.core.learning_rate} if recipe.core else {}),
        "masks": ", ".join(names) if len(names) <= 8 else f"{len(names)} masks",
        "precision": "bfloat16 autocast" if recipe.mixed_precision == "bf16" else "float32",
        "omnimouse": __version__,
    }


def _report_left_out(run: TrainingRun) -> None:
    """Says once which masks do not fit the session."""
    left_out = run.choice.left_out
    if left_out:
        reasons: dict[str, list[str]] = {}
        for name, reason in left_out.items():
            reasons.setdefault(reason.partition(". ")[0].rstrip("."), []).append(name)
        named = "; ".join(
            f"{', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}: {reason}"
            for reason, names in reasons.items()
        )
        message = (
            f"{len(left_out)} of {len(left_out) + len(run.choice.masks)} masks are left out, because they do not fit "
            f"the {run.n_neurons} neurons of session {run.session} or what was recorded of it; the others are trained "
            f"on. {named}."
        )
        logger.info(message)
        if run.progress:
            say(message)
