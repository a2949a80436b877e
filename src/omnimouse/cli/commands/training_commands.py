"""The commands that train: `demo`, `finetune`, `train`, `anneal`, and `scaling`, which compares what they trained.

`train` and `anneal` run in every process that `accelerate launch` starts; the main one alone says what came of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.state import PartialState

from omnimouse import training
from omnimouse.cli.demo import next_steps, run_demo
from omnimouse.cli.model_options import DEFAULT_CORE, Anneal, Demo, DemoSettings, Finetune, Scaling, Train
from omnimouse.cli.output import Said, hint
from omnimouse.evaluation.tiers import choose_tier
from omnimouse.model.session_tables.session_names import match_keys
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.pretrained.source_kinds import session_keys
from omnimouse.recordings import Recording, open_recording
from omnimouse.scaling import scaling
from omnimouse.support.compute_devices import resolve_device
from omnimouse.support.outputs import check_output
from omnimouse.support.spreading import spread

MOST_STARTING_SESSIONS = 16
"""Sessions of a core that new neurons may begin at; more would cost memory and hardly find better matches."""

_NOT_OF_THE_RUN = ("recording", "core", "revision", "device", "cpu", "json", "debug")
"""Options of `finetune` that say what is trained where; all others are arguments of the function."""

_TOLD = (
    "best_step", "best_validation_loss", "initial_validation_loss", "stopped_early", "resumed_from", "left_out_masks",
)  # fmt: skip
"""What `finetune --json` tells of the result as it is."""


def demo_command(command: Demo) -> Said:
    """Simulate a mouse, adapt the shipped core to it, score it, write the report."""
    device = resolve_device(command.device, cpu=command.cpu)
    settings = DemoSettings(**command.take("seed", "minutes", "n_neurons", "steps"))
    result = run_demo(command.output, settings=settings, force=command.force, device=device)
    return Said(None, f"{result.scores.table()}\n\n{next_steps(result)}")


def finetune_command(command: Finetune) -> Said:
    """Train a session adapter, or the whole model, and save it."""
    device = resolve_device(command.device, cpu=command.cpu)
    recording = open_recording(command.recording)
    check_output(command.output_dir, recording.path, folder=True)
    sessions = _sessions_to_start_from(command, recording)
    model = OmniMouseModel.from_pretrained(command.core, sessions=sessions, revision=command.revision)
    key = recording.session_key
    others = [other for other in model.session_keys if other != key]
    arguments = {name: value for name, value in vars(command).items() if name not in _NOT_OF_THE_RUN}
    result = training.finetune(model, recording, device=device, **arguments)
    if command.train_core:
        for other in others:  # they no longer fit this core
            model.remove_session(other)
        # An adapter alone would be of no use: it fits this core only, which is stored nowhere else.
        saved = command.output_dir / "model"
        model.save_pretrained(saved)
    else:
        saved = model.save_session(key, command.output_dir / "adapter")
    losses = ""
    if result.best_validation_loss is not None:
        losses = f", validation loss {result.initial_validation_loss:.4f} -> {result.best_validation_loss:.4f}"
    text = (
        f"Session {key}: kept the weights of step {result.best_step}{losses}; {result.seconds:.0f} s of training\n"
        f"Wrote {saved}; {_how_to_score(command, recording, model.session_spec(key).training, saved)}"
    )
    told = {name: getattr(result, name) for name in _TOLD}
    tiers = {"selected_on": result.tiers.selected_on, "held_out_trials": result.tiers.held_out}
    return Said({"session": key, "saved": saved, **told, **tiers, "seconds": result.seconds}, text)


def _sessions_to_start_from(command: Finetune, recording: Recording) -> list[str] | None:
    """The recording's own session if the core has it, and a few others, evenly spread over those there are."""
    keys = session_keys(command.core, revision=command.revision)
    own = match_keys(recording.session_key, keys)
    if command.start_from == "mean":
        return own[:1] or None
    return sorted({*own[:1], *(keys[i] for i in spread(len(keys), MOST_STARTING_SESSIONS))}) or None


def _how_to_score(command: Finetune, recording: Recording, trained: Mapping[str, Any] | None, saved: Path) -> str:
    """The command that scores what `finetune` saved, if there is anything to score it on."""
    try:
        choose_tier(recording, trained)
    except ValueError:
        return "there is no tier left to score it on, whose responses are known and were not trained on"
    if command.train_core:
        return f"score it with: {hint('evaluate', command.recording, '--core', saved)}"
    # An adapter knows its core, and a commit of it; not what lies around a core (a LoRA).
    core = [] if command.core == DEFAULT_CORE or command.revision else ["--core", command.core]
    return f"score it with: {hint('evaluate', command.recording, *core, '--session-adapter', saved)}"


def train_command(command: Train) -> Said | None:
    """Pre-train on many recordings."""
    return _report([training.train(command.recipe, **command.take("overrides", "resume"))])


def anneal_command(command: Anneal) -> Said | None:
    """Fork checkpoints of a run and decay them."""
    return _report(training.anneal(command.run, command.at, **command.take("steps", "shape", "power", "overrides")))


def scaling_command(command: Scaling) -> Said:
    """Draw scaling curves from many pre-trainings."""
    report = scaling(command.runs, data_axis=command.data_axis)
    written = [] if command.output is None else report.save(command.output)
    lines = [report.to_markdown().removesuffix("\n"), *(f"Wrote {path}" for path in written)]
    return Said(report.to_json(), "\n".join(lines))


def _report(results: Sequence[training.PretrainingResult]) -> Said | None:
    """Says where the models are, in the main process, and ends the processes' connection."""
    state = PartialState()
    speaks = state.is_main_process
    if state.num_processes > 1:
        state.destroy_process_group()
    if not speaks:
        return None
    summaries = [
        {
            "output": result.output,
            "model": result.model,
            "steps": result.steps,
            "resumed_from": result.resumed_from,
            "processes": result.n_processes,
            "last": result.history[-1] if result.history else None,
        }
        for result in results
    ]
    lines = [
        f"Wrote {result.model} after {result.steps:,} steps; use it with {shlex.join(['--core', str(result.model)])}"
        for result in results
    ]
    return Said(summaries[0] if len(summaries) == 1 else summaries, "\n".join(lines))
