"""Fine-tuning on one recording: a new mouse's session tables, and the core only when asked."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omnimouse.evaluation.inputs import as_recording, check_session
from omnimouse.model.kernels.compiled_chains import compiling_chains, pays_to_compile
from omnimouse.recordings import Recording
from omnimouse.support.compute_devices import Device, resolve_device
from omnimouse.support.outputs import check_output, sole_user
from omnimouse.support.progress import say
from omnimouse.support.text_tables import html_table
from omnimouse.support.version import __version__
from omnimouse.training.finetuning.finetune_checkpoint import (
    Checkpoint,
    TrainingState,
    load_parameters,
    restore_groups,
)
from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe, whole_recipe
from omnimouse.training.finetuning.loop import HISTORY_FILE, TrainingRun, run_steps
from omnimouse.training.finetuning.preparation import prepare_finetune
from omnimouse.training.finetuning.training_tiers import TrainingTiers
from omnimouse.training.shared.accelerators import make_accelerator
from omnimouse.training.shared.checkpoint import remove_checkpoints, write_history
from omnimouse.training.shared.forward import only_trainable

if TYPE_CHECKING:
    from omnimouse.model.masking.masks import Mask
    from omnimouse.pretrained.omnimouse_model import OmniMouseModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
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
        parts: where the time of this sitting went: preparation (matching included), steps, validation -> seconds.
    """

    session: str
    history: list[dict[str, Any]]
    best_step: int
    best_validation_loss: float | None
    initial_validation_loss: float | None
    stopped_early: bool
    resumed_from: int | None
    left_out_masks: dict[str, str]
    output_dir: Path | None
    seconds: float
    tiers: TrainingTiers
    parts: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._summary())

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        return html_table(["fine-tune", ""], self._summary())

    def _summary(self) -> list[tuple[str, str]]:
        losses = (self.initial_validation_loss, self.best_validation_loss)
        before, after = ("-" if loss is None else f"{loss:.4f}" for loss in losses)
        early = ", stopped early" if self.stopped_early else ""
        resumed = "" if self.resumed_from is None else f", resumed from {self.resumed_from}"
        held_out = f" ({len(self.tiers.held_out)} trials)" if self.tiers.held_out else ""
        return [
            ("session", self.session),
            ("steps", f"{len(self.history)}{early}{resumed}, the weights of step {self.best_step} kept"),
            ("validation loss", f"{before} before, {after} of these weights"),
            ("trained on", ", ".join(self.tiers.train)),
            ("selected on", f"{self.tiers.validation or 'nothing'}{held_out}"),
            ("masks left out", str(len(self.left_out_masks))),
            ("output", str(self.output_dir or "-")),
            ("seconds", f"{self.seconds:.0f}"),
        ]


def finetune(
    model: OmniMouseModel,
    recording: Recording | str | os.PathLike[str],
    recipe: FinetuneRecipe | None = None,
    *,
    steps: int | None = None,
    masks: Mask | str | Sequence[Mask | str] | None = None,
    seed: int | None = None,
    train_core: bool | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    resume: bool | Literal["auto"] = "auto",
    device: Device = None,
    cpu: bool = False,
    session: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> FinetuneResult:
    """Trains the session tables of one recording, and the core if asked, and leaves the best weights in the model.

    A session that the model lacks is added first; with the core frozen only its tables change. The model ends up on the
    device it was trained on. With an `output_dir` the run can be killed at any time: the same call goes on from the
    newest checkpoint, to the weights of a run that was never interrupted (bit for bit on one CPU with as many threads).
    Ctrl-C and SIGTERM save one after the step under way, then raise KeyboardInterrupt or SystemExit; more within ten
    seconds are the same request, a later one stops at once.

    Args:
        model: a model with a trained core; a `PeftModel` stands for the model inside it.
        recording: an open recording or its folder.
        recipe: how to train; default: `FinetuneRecipe()`, whose docstring lists all fields.
        steps, masks, seed, train_core, settings: fields of the recipe to replace; None leaves the first four alone.
        output_dir: folder for `history.jsonl` and checkpoints, of one run at a time; default: neither is written.
        resume: "auto" (or True) goes on from the checkpoint in `output_dir` if there is one; False begins anew.
        device: "cpu", "cuda", "cuda:1", "mps" or a `torch.device`; default: an accelerator if there is one.
        cpu: the same as `device="cpu"`.
        session: key of the session in the model; default: the key of the recording.
        progress: show a progress bar.

    Raises:
        ValueError: a field out of range; a tier that is unknown, has no window, or is both trained and validated on;
            other neurons than the session has; no mask that fits the population and what was recorded; NaN in the
            data, the loss or a gradient; in `output_dir` a checkpoint of another run, damaged ones only, or a run that
            is going on; an `output_dir` that cannot be written or lies in the recording; a device that is not there.
        OSError: the disk is full; the checkpoint before is whole.
    """
    direct = {"steps": steps, "masks": masks, "seed": seed, "train_core": train_core}
    recipe = whole_recipe(recipe, {name: value for name, value in direct.items() if value is not None} | settings)
    place = resolve_device(device, cpu=cpu)
    if resume not in (True, False, "auto"):
        raise ValueError(f"resume is {resume!r}; expected 'auto', True or False.")
    inner = getattr(model, "get_base_model", None)  # of a PeftModel, which changes layers of the model in it in place
    model, recording = model if inner is None else inner(), as_recording(recording)
    key = model.sessions.full_key(recording.session_key if session is None else session)
    if key in model.session_keys:
        check_session(model, recording, key)
    folder = None if output_dir is None else check_output(output_dir, recording.path, folder=True)
    with nullcontext() if folder is None else sole_user(folder):
        accelerator = make_accelerator(recipe.mixed_precision, place)
        begun = time.perf_counter()
        run = prepare_finetune(model, recording, key, recipe, accelerator, folder, resume=resume, progress=progress)
        return _carry_out(*run, time.perf_counter() - begun)


def _carry_out(
    run: TrainingRun, checkpoint: Checkpoint | None, tiers: TrainingTiers, preparation: float
) -> FinetuneResult:
    """Trains from a checkpoint or from the start, and puts the best weights into the model."""
    run.clock.seconds["preparation"] = preparation
    state = TrainingState() if checkpoint is None else restore_groups(checkpoint, run.groups)
    resumed_from = None if checkpoint is None else state.step
    if run.output_dir is not None:
        if checkpoint is None:
            remove_checkpoints(run.output_dir)
        write_history(run.output_dir / HISTORY_FILE, state.history)
    run.model.sessions.note_processor(run.session, run.identity["processor"])
    _report_left_out(run)
    compiles = pays_to_compile(run.recipe.compile_model, run.accelerator.device, run.recipe.steps - state.step)
    with only_trainable(run.model, run.groups), run.clock.part("steps"), compiling_chains(compiles):
        run_steps(run, state)
    if state.best_step is not None:
        load_parameters(run.groups, state.best_parameters)
    kept = state.step if state.best_step is None else state.best_step
    before = run.model.session_spec(run.session).training
    run.model.sessions.note_training(run.session, _in_words(run, state.step, kept) | tiers.in_words(before))
    return FinetuneResult(
        session=run.session,
        history=state.history,
        best_step=kept,
        best_validation_loss=state.best_validation_loss,
        initial_validation_loss=state.initial_validation_loss,
        stopped_early=state.stopped_early,
        resumed_from=resumed_from,
        left_out_masks=run.choice.left_out,
        output_dir=run.output_dir,
        seconds=state.seconds,
        tiers=tiers,
        parts=run.clock.seconds,
    )


def _in_words(run: TrainingRun, step: int, kept: int) -> dict[str, Any]:
    """The recipe of a run, for the card of what it trained."""
    recipe, names = run.recipe, run.choice.names
    return {
        "steps": f"{step}, the weights of step {kept} kept",
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
    left_out, n_neurons = run.choice.left_out, run.model.session_spec(run.session).n_neurons
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
            f"the {n_neurons} neurons of session {run.session} or what was recorded of it; the others are trained "
            f"on. {named}."
        )
        logger.info(message)
        if run.progress:
            say(message)
