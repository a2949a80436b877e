"""Pre-training on many mice: `train`, on as many processes as were started, from one CPU to many nodes."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from omnimouse.model.sessions import TENSORS
from omnimouse.support.files import write_text
from omnimouse.support.outputs import check_output
from omnimouse.support.tensor_files import hash_tensors
from omnimouse.support.validation import to_mapping
from omnimouse.training.pretraining.corpus_recordings import recording_folders
from omnimouse.training.pretraining.corpus_sessions import pack_session, restore_session, session_spec
from omnimouse.training.pretraining.pretraining_recipe import EVALUATION_TIERS, PretrainingRecipe, load_recipe
from omnimouse.training.pretraining.setup import PretrainingRun, build_model, prepare_run
from omnimouse.training.pretraining.step import StepResult, load_steps, train_step
from omnimouse.training.runs.distributed import Processes
from omnimouse.training.runs.monitor import Monitor
from omnimouse.training.runs.run_folder import (
    RunCheckpoint,
    RunFolder,
    alone,
    clear_run,
    newest_checkpoint,
    open_checkpoint,
    read_history,
    trim_history,
    write_checkpoint,
)
from omnimouse.training.runs.trackers import choose_trackers, start_trackers
from omnimouse.training.shared.accelerators import start_accelerator
from omnimouse.training.shared.checkpoint import PARTIAL
from omnimouse.training.shared.forward import ECHO_SECONDS, StopRequest
from omnimouse.training.shared.identity import identity_differences, warn_of_unknown
from omnimouse.training.shared.optimizers import pack_moments, restore_moments


@dataclass(frozen=True)
class PretrainingResult:
    """What a pre-training leaves; the same in every process.

    Attributes:
        output: folder of the run.
        model: folder of the finished model with all sessions, for `OmniMouseModel.from_pretrained`.
        steps: optimizer steps done, over all sittings.
        resumed_from: step of the checkpoint the run was continued from, or None.
        n_processes: processes it ran on.
        history: rows of the history file, see docs/pretraining.md.
    """

    output: Path
    model: Path
    steps: int
    resumed_from: int | None
    n_processes: int
    history: list[dict[str, Any]]


def train(
    recipe: PretrainingRecipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    resume: bool | Literal["auto"] = "auto",
    progress: bool = True,
) -> PretrainingResult:
    """Trains a core on many recordings, and a table for each of their sessions.

    Start the same script with `python` for one process, or with `accelerate launch --multi_gpu` for more (on CPUs too).
    Every process owns some of the sessions; in each step it draws one of them, and windows, a mask and shuffles of the
    neurons. Gradients of the core are averaged over processes; a session's tables are seen by the process that owns it
    alone.

    The run can be killed at any time: the same call goes on from the newest checkpoint, on any number of processes; on
    the same number it ends with the same bits as a run that was never interrupted (on CPUs with the same number of
    threads). Ctrl-C and SIGTERM save a checkpoint after the step under way and then raise KeyboardInterrupt or
    SystemExit.

    Args:
        recipe: path of a YAML file, its content, or a `PretrainingRecipe`, whose docstring lists all fields.
        overrides: fields to replace, `name=value` or `section.name=value` with values as in YAML.
        resume: "auto" (or True) continues from the newest checkpoint in the recipe's output if there is one; False
            begins anew.
        progress: whether the main process prints losses, speed and time left to standard error.

    Returns:
        `PretrainingResult`.

    Raises:
        ValueError: a recipe or recordings that cannot work; a checkpoint of another run in the output; NaN in data,
            loss or gradients, or a loss above the limit (the batch is written down in the output's `failures/`); in
            the output damaged checkpoints only, or a run that is going on.
        OSError: the disk is full; the checkpoints before are whole.
    """
    recipe = load_recipe(recipe, overrides)
    if resume not in (True, False, "auto"):
        raise ValueError(f"resume is {resume!r}; expected 'auto', True or False.")
    accelerator = start_accelerator(recipe.mixed_precision, cpu=recipe.cpu)
    processes = Processes(accelerator)
    folder = RunFolder(Path(recipe.output))

    def rate(peak: float, step: int) -> float:
        return recipe.schedule.learning_rate(peak, step, recipe.steps)

    with processes.together("begin"):
        if folder.fork.exists():
            raise ValueError(f"{folder.path} is a fork of another run, made by anneal; choose another output.")
        for path in recording_folders(recipe.recordings.paths):
            check_output(folder.path, path, folder=True)
    with alone(folder, processes):
        with processes.together("begin"):
            if not resume and processes.is_main:
                clear_run(folder)
        checkpoint = newest_checkpoint(folder, processes)
        return carry_out(recipe, folder, accelerator, checkpoint, rate=rate, last=recipe.steps, progress=progress)


def carry_out(
    recipe: PretrainingRecipe,
    folder: RunFolder,
    accelerator: Accelerator,
    checkpoint: RunCheckpoint | None,
    *,
    rate: Any,
    last: int,
    progress: bool,
) -> PretrainingResult:
    """Trains from a checkpoint, or from the start, to the last step, and writes the model.

    Args:
        recipe: how to train.
        folder: where results go; a fork's is not that of its checkpoint.
        accelerator: of this process.
        checkpoint: where to begin; None for the start.
        rate: (peak, step) -> learning rate.
        last: steps of the whole run.
        progress: see `train`.
    """
    recipe = _resolve(recipe, accelerator)
    with Processes(accelerator).together("find the trackers"):
        trackers = choose_trackers(recipe.outputs.trackers)
    run = prepare_run(recipe, folder, accelerator, fresh=checkpoint is None, rate=rate, last=last)
    processes = run.processes
    monitor = _begin(run, checkpoint, trackers, progress=progress)
    try:
        newest = _run_steps(run, monitor, 0 if checkpoint is None else checkpoint.step)
    finally:
        monitor.close()
    final = open_checkpoint(folder, newest) if checkpoint is None or newest > checkpoint.step else checkpoint
    with processes.together("write the model"):
        if processes.is_main:
            write_model(run, final)
    return PretrainingResult(
        output=folder.path,
        model=folder.model,
        steps=newest,
        resumed_from=None if checkpoint is None else checkpoint.step,
        n_processes=processes.count,
        history=read_history(folder.history),
    )


def _begin(
    run: PretrainingRun, checkpoint: RunCheckpoint | None, trackers: Sequence[str], *, progress: bool
) -> Monitor:
    """Restores a checkpoint, puts the run's folder in order, and starts what tells of the run."""
    processes, folder, recipe = run.processes, run.folder, run.recipe
    n_idle = processes.count - len(run.sessions)
    if processes.is_main and n_idle > 0:
        warnings.warn(
            f"{processes.count} processes share {len(run.sessions)} sessions: {n_idle} of them have nothing to train "
            "on, and only step the core along. Start fewer processes.",
            stacklevel=4,
        )
    with processes.together("restore a checkpoint"):
        if checkpoint is not None:
            _check_identity(checkpoint, run)
            restore(run, checkpoint)
    check_core(run)
    with processes.together("begin"):
        if processes.is_main:
            folder.path.mkdir(parents=True, exist_ok=True)
            write_text(folder.recipe, recipe.to_yaml())
            trim_history(folder.history, 0 if checkpoint is None else checkpoint.step)
    with processes.together("see the run's folder; every process needs it, on every node"):
        if not folder.recipe.is_file():
            raise ValueError(f"{folder.path} is not the same folder for all processes; use a shared file system.")
    used = trackers if processes.is_main else ()
    monitor = Monitor(
        folder.history if processes.is_main else None,
        log_every=recipe.outputs.log_every,
        last=run.last,
        seconds=0.0 if checkpoint is None else checkpoint.state["seconds"],
        sums=None if checkpoint is None else checkpoint.state["log"],
        trackers=start_trackers(used, folder.trackers, run=folder.path.name, config=to_mapping(recipe)),
        progress=progress,
    )
    n_neurons = sum(info.n_neurons for info in run.sessions.values())
    monitor.say(
        f"{len(run.sessions)} sessions with {n_neurons:,} neurons on {processes.count} "
        f"process{'es' * (processes.count > 1)} ({processes.device}), to step {run.last:,}"
    )
    if run.evaluation is None and run.recipe.evaluation.every is not None:
        monitor.say(
            f"no recording has a tier {' or '.join(EVALUATION_TIERS)} that is not trained on: none is evaluated"
        )
    if run.masks.left_out:
        most = max(run.masks.left_out.values())
        lacking = " or lack video or behavior" if run.masks.missing else ""
        monitor.say(
            f"{len(run.masks.left_out)} of the sessions have too few neurons{lacking} for some of the "
            f"{len(run.masks.masks)} masks ({most} at most), and draw from the others"
        )
    return monitor


def _resolve(recipe: PretrainingRecipe, accelerator: Accelerator) -> PretrainingRecipe:
    """Returns the recipe with what this machine decides: the precision, and what relative paths stand for."""
    paths = tuple(str(Path(path).expanduser().absolute()) for path in recipe.recordings.paths)
    return replace(
        recipe,
        output=str(Path(recipe.output).absolute()),
        recordings=replace(recipe.recordings, paths=paths),
        mixed_precision=accelerator.mixed_precision,
    )


def _check_identity(checkpoint: RunCheckpoint, run: PretrainingRun) -> None:
    """Refuses to continue a run other than the one the checkpoint belongs to."""
    if checkpoint.step > run.last:
        raise ValueError(
            f"The checkpoint {checkpoint.path} is beyond the {run.last} steps asked for. Raise steps, anneal from an "
            "earlier checkpoint with `omnimouse anneal`, or choose another output."
        )
    differences = identity_differences(checkpoint.state["identity"], run.identity)
    differences += [
        f"  windows of {key}: {checkpoint.state['windows'].get(key)} in the checkpoint, {found} now"
        for key, found in run.windows.items()
        if checkpoint.state["windows"].get(key) != found
    ]
    noted = checkpoint.state.get("recordings")
    if noted is None:  # a run begun before recordings had fingerprints
        if run.processes.is_main:
            warn_of_unknown(checkpoint.path, ["recordings"])
    else:
        differences += [
            f"  {part} of {key}: {noted.get(key, {}).get(part)} in the checkpoint, {text} now"
            for key, parts in run.data.items()
            for part, text in parts.items()
            if noted.get(key, {}).get(part) != text
        ]
    if differences:
        raise ValueError(
            f"The checkpoint {checkpoint.path} belongs to another run:\n"
            + "\n".join(differences)
            + "\nGive the recipe the checkpoint's values (and its recordings) to continue that run, pass "
            "resume=False (--no-resume) to discard it and begin anew, or choose another output."
        )


def restore(run: PretrainingRun, checkpoint: RunCheckpoint) -> None:
    """Puts weights and moments of the core and of this process's sessions back."""
    stored = checkpoint.core()
    state = run.model.core_state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(stored[name])
    restore_moments(run.core, stored)
    for key, info in run.owned.items():
        restore_session(run.tables[key], run.animals[info.animal_id], checkpoint.session(key))


def check_core(run: PretrainingRun) -> None:
    """Makes sure that all processes hold the same core: diverged copies would show nowhere else.

    Raises:
        RuntimeError: they do not.
    """
    digest = bytes.fromhex(hash_tensors(run.model.core_state_dict()))
    words = [int.from_bytes(digest[i : i + 2], "big") for i in range(0, len(digest), 2)]
    if not run.processes.agree(words):
        raise RuntimeError(
            "The processes hold different cores. They have to run on the same kind of device with the same versions of "
            "PyTorch; go on from the last checkpoint."
        )


def _run_steps(run: PretrainingRun, monitor: Monitor, step: int) -> int:
    """Trains from `step` to the end and returns the step of the last checkpoint, which is the end's.

    Raises:
        KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM in any process, after a checkpoint.
    """
    every, last = run.recipe.outputs.checkpoint_every, run.last
    if step >= last:
        return step
    with StopRequest(grace_seconds=ECHO_SECONDS) as stop:
        stream = load_steps(run, step)
        try:
            for batch in stream:
                result = train_step(run, step, batch, wants_to_stop=stop.signal_number is not None)
                step += 1
                _after_step(run, monitor, step, result)
                stopping = result.numbers["stop"] > 0
                if stopping or step == last or step % every == 0:
                    save(run, monitor, step)
                if stopping and step < last:
                    stop.leave()
        finally:
            stream.close()
    return step


def _after_step(run: PretrainingRun, monitor: Monitor, step: int, result: StepResult) -> None:
    """Notes a step, and evaluates when it is time to."""
    monitor.note(step, result.numbers, result.rates, result.core_norm)
    every = run.recipe.evaluation.every
    if run.evaluation is not None and every is not None and (step % every == 0 or step == run.last):
        scores = run.evaluation(run.model, run.accelerator, run.processes)
        monitor.note_evaluation(step, scores, run.evaluation.sessions)


def save(run: PretrainingRun, monitor: Monitor, step: int) -> Path:
    """Writes a checkpoint of all processes."""
    check_core(run)
    core = {**run.model.core_state_dict(), **pack_moments(run.core)} if run.processes.is_main else {}
    return write_checkpoint(
        run.folder,
        run.processes,
        core={name: tensor.detach().cpu() for name, tensor in core.items()},
        sessions={key: pack_session(run.tables[key], run.animals[info.animal_id]) for key, info in run.owned.items()},
        windows=run.windows,
        data=run.data,
        state={
            "step": step,
            "last": run.last,
            "seconds": monitor.seconds,
            "identity": run.identity,
            "log": monitor.sums,
            "sessions": {
                key: {"animal": info.animal_id, "neurons": info.n_neurons} for key, info in run.sessions.items()
            },
        },
        keep_newest=run.recipe.outputs.keep_newest,
        keep_every=run.recipe.outputs.keep_every,
    )


def _in_words(run: PretrainingRun, step: int) -> dict[str, Any]:
    """The recipe of a run, for the card of its model."""
    recipe, names = run.recipe, run.masks.names
    return {
        "pre-training on": f"{len(run.sessions)} sessions with "
        f"{sum(info.n_neurons for info in run.sessions.values()):,} neurons",
        "steps": step,
        "processes": run.processes.count,
        "windows per step and process": recipe.batch_size,
        "peak learning rate of the core": recipe.optimizer.core.learning_rate,
        "peak learning rate of the sessions": recipe.optimizer.session.learning_rate,
        "masks": ", ".join(names) if len(names) <= 8 else f"{len(names)} masks",
        "precision": "bfloat16 autocast" if recipe.mixed_precision == "bf16" else "float32",
    }


def write_model(run: PretrainingRun, checkpoint: RunCheckpoint) -> Path:
    """Writes the model of a checkpoint with all sessions, read from its files, as a model folder of the run.

    New sessions will start at the means over these ones.
    """
    model = build_model(run.recipe, run.recordings.processor)
    stored = checkpoint.core()
    with torch.no_grad():
        for name, tensor in model.core_state_dict().items():
            tensor.copy_(stored[name])
    for key, info in run.sessions.items():
        tensors = checkpoint.session(key)
        spec = session_spec(info, run.recipe.recordings.tiers)
        model.sessions.add(spec, {name: tensors[name].clone() for name in TENSORS}, device="cpu")
    model.update_initial_vectors()
    partial = run.folder.path / f"{PARTIAL}model"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, training=_in_words(run, checkpoint.step))
    shutil.rmtree(run.folder.model, ignore_errors=True)
    os.replace(partial, run.folder.model)
    return run.folder.model
