"""Pre-training on many mice: `train`, on as many processes as were started, from one CPU to many nodes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from omnimouse.model.kernels.compiled_chains import compiling_chains, pays_to_compile
from omnimouse.support.files import write_text
from omnimouse.support.outputs import check_output
from omnimouse.support.validation import to_mapping
from omnimouse.training.pretraining.corpus_recordings import recording_folders
from omnimouse.training.pretraining.pretraining_checkpoint import (
    check_continues,
    check_core,
    restore_run,
    save_run,
    write_model,
)
from omnimouse.training.pretraining.pretraining_recipe import EVALUATION_TIERS, PretrainingRecipe, load_recipe
from omnimouse.training.pretraining.setup import PretrainingRun
from omnimouse.training.pretraining.step import load_steps, pretraining_step
from omnimouse.training.runs.distributed import Processes
from omnimouse.training.runs.monitor import Monitor
from omnimouse.training.runs.run_folder import (
    RunCheckpoint,
    RunFolder,
    alone,
    clear_run,
    newest_whole,
    read_history,
    trim_history,
)
from omnimouse.training.runs.trackers import choose_trackers, start_trackers
from omnimouse.training.shared.accelerators import start_accelerator
from omnimouse.training.shared.forward import ECHO_SECONDS, StopRequest


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
    processes, folder = Processes(accelerator), RunFolder(Path(recipe.output))

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
        checkpoint = newest_whole(folder, processes)
        return pretrain(recipe, folder, accelerator, checkpoint, rate=rate, last=recipe.steps, progress=progress)


def pretrain(
    recipe: PretrainingRecipe,
    folder: RunFolder,
    accelerator: Accelerator,
    checkpoint: RunCheckpoint | None,
    *,
    rate: Callable[[float, int], float],
    last: int,
    progress: bool,
) -> PretrainingResult:
    """Trains from a checkpoint, or from the start, to the `last` step of the run, and writes the model.

    Results go to `folder`, which for a fork is not that of its checkpoint; `rate` is (peak, step) -> learning rate.
    """
    # What this machine decides: the precision, and what relative paths stand for.
    paths = tuple(str(Path(path).expanduser().absolute()) for path in recipe.recordings.paths)
    recipe = replace(
        recipe,
        output=str(Path(recipe.output).absolute()),
        recordings=replace(recipe.recordings, paths=paths),
        mixed_precision=accelerator.mixed_precision,
    )
    with Processes(accelerator).together("find the trackers"):
        trackers = choose_trackers(recipe.outputs.trackers)
    run = PretrainingRun(recipe, folder, accelerator, fresh=checkpoint is None, rate=rate, last=last)
    monitor = _begin(run, checkpoint, trackers, progress=progress)
    resumed_from = None if checkpoint is None else checkpoint.step
    compiles = pays_to_compile(recipe.compile_model, accelerator.device, last - (resumed_from or 0))
    if compiles:
        monitor.say("element-wise parts of the blocks are compiled at their first use, in the first steps")
    try:
        with compiling_chains(compiles):
            newest = _run_steps(run, monitor, resumed_from or 0)
    finally:
        monitor.close()
    if checkpoint is None or newest > checkpoint.step:
        checkpoint = RunCheckpoint.open(folder.checkpoint(newest))
    with run.processes.together("write the model"):
        if run.processes.is_main:
            write_model(run, checkpoint)
    return PretrainingResult(
        output=folder.path,
        model=folder.model,
        steps=newest,
        resumed_from=resumed_from,
        n_processes=run.processes.count,
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
            check_continues(checkpoint, run)
            restore_run(run, checkpoint)
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
    _introduce(run, monitor)
    return monitor


def _introduce(run: PretrainingRun, monitor: Monitor) -> None:
    """Says what is trained on, and what is not."""
    n_neurons, count = sum(info.n_neurons for info in run.sessions.values()), run.processes.count
    monitor.say(
        f"{len(run.sessions)} sessions with {n_neurons:,} neurons on {count} process{'es' * (count > 1)} "
        f"({run.processes.device}), to step {run.last:,}"
    )
    if run.held_bytes:
        monitor.say(
            f"windows are cut on {run.processes.device}, from recordings that are held there from their first visit "
            f"on: about {run.held_bytes / 2**30:.2f} GiB in this process"
        )
    if run.evaluation is None and run.recipe.evaluation.every is not None:
        monitor.say(
            f"no recording has a tier {' or '.join(EVALUATION_TIERS)} that is not trained on: none is evaluated"
        )
    left_out = run.masks.left_out
    if left_out:
        lacking = " or lack video or behavior" if any(info.missing for info in run.sessions.values()) else ""
        monitor.say(
            f"{len(left_out)} of the sessions have too few neurons{lacking} for some of the {len(run.masks.names)} "
            f"masks ({max(left_out.values())} at most), and draw from the others"
        )


def _run_steps(run: PretrainingRun, monitor: Monitor, step: int) -> int:
    """Trains from `step` to the end and returns the step of the last checkpoint, which is the end's.

    Raises:
        KeyboardInterrupt, SystemExit: on Ctrl-C and SIGTERM in any process, after a checkpoint.
    """
    checkpoint_every, evaluate_every, last = run.recipe.outputs.checkpoint_every, run.recipe.evaluation.every, run.last
    if step >= last:
        return step
    with StopRequest(grace_seconds=ECHO_SECONDS) as stop:
        stream = load_steps(run, step)
        monitor.mark()
        try:
            for batch in stream:
                result = pretraining_step(run, step, batch, wants_to_stop=stop.signal_number is not None)
                step += 1
                monitor.note(step, result.numbers, result.rates, result.core_norm)
                if run.evaluation is not None and evaluate_every and (step % evaluate_every == 0 or step == last):
                    scores = run.evaluation(run.model, run.accelerator, run.processes)
                    monitor.note_evaluation(step, scores, run.evaluation.sessions)
                stopping = result.numbers["stop"] > 0
                if stopping or step == last or step % checkpoint_every == 0:
                    save_run(run, step, seconds=monitor.seconds, log=monitor.sums)
                monitor.mark()
                if stopping and step < last:
                    stop.leave()
        finally:
            stream.close()
    return step
