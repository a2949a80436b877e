"""The commands that use a model on a recording: `evaluate` and `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnimouse import evaluation
from omnimouse.cli.model_options import Evaluate, Predict, WithModel
from omnimouse.cli.output import Said
from omnimouse.evaluation.static.evaluate_static import STATIC_TASKS
from omnimouse.hub.sources import HubOptions, find
from omnimouse.model.session_tables.session_names import short_key
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.pretrained.session_files import AdapterConfig, is_adapter
from omnimouse.recordings import Recording, is_static, open_recording
from omnimouse.support.compute_devices import available_devices, resolve_device
from omnimouse.support.outputs import check_output

WINDOWS = ("tier", "stride", "batch_size", "max_windows")
"""Options that say which windows of the recording are used."""


def evaluate_command(command: Evaluate) -> Said:
    """Print the score table of held-out trials; single images have metrics of their own."""
    if command.output is not None:
        check_output(command.output, command.recording)
    model, recording = _load(command)
    scores: evaluation.Scores | evaluation.StaticScores
    if is_static(recording):
        task = _one_static_task(command)
        taken = command.take("tier", "batch_size", "precision")
        scores = evaluation.evaluate_static(model, recording, task=task, **taken)
    else:
        scores = evaluation.evaluate(model, recording, **command.take("tasks", "cache_video", *WINDOWS))
    if command.output is not None:
        scores.save(command.output)
    return Said(scores.to_dict(per_neuron=False), scores.table())


def predict_command(command: Predict) -> Said:
    """Write predictions to an `.npz` file, or those for single images as a submission to a `.csv` file."""
    submission = command.output.suffix == ".csv"
    if command.output.suffix != ".npz" and not submission:
        raise ValueError(f"--output {command.output}: expected a name that ends in .npz")
    check_output(command.output, command.recording)
    model, recording = _load(command)
    if submission:
        return _write_submission(command, model, recording)
    predictions = evaluation.predict(
        model, recording, **command.take("task", "output", "rollout", "resume", "precision", *WINDOWS)
    )
    arrays = {name: list(a.shape) for name, a in vars(predictions).items() if getattr(a, "ndim", 0)}
    task, tier = predictions.task, predictions.tier
    lines = [f"  {name:22} {' x '.join(map(str, shape))}" for name, shape in arrays.items()]
    return Said(
        {"output": command.output, "task": task, "tier": tier, "arrays": arrays},
        "\n".join([f"Wrote {command.output}: task {task}, tier {tier}", *lines]),
    )


def _write_submission(command: Predict, model: OmniMouseModel, recording: Recording) -> Said:
    if not is_static(recording):
        raise ValueError(
            f"--output {command.output}: expected a name that ends in .npz; .csv is for submissions, of single "
            "images (SENSORIUM 2022)"
        )
    _refuse_window_options(command, stride=None)
    if command.rollout > 1:
        raise ValueError(f"{command.recording}: single images are not followed by others; leave out --rollout")
    tier, task = command.tier or "final_test", command.task
    taken = command.take("batch_size", "precision")
    evaluation.write_static_submission(model, recording, command.output, tier, task=task, **taken)
    return Said(
        {"output": command.output, "task": task, "tier": tier},
        f"Wrote {command.output}: a submission for tier {tier}, predicted from {task}",
    )


def _one_static_task(command: Evaluate) -> str:
    """The task that single images are scored by.

    Raises:
        ValueError: An option that single images have no use for, or several tasks.
    """
    _refuse_window_options(command, stride=30)
    if command.cache_video:
        raise ValueError(f"{command.recording}: each of its single images is encoded once; leave out --cache-video")
    if command.tasks == "all":
        return STATIC_TASKS[0]
    if len(command.tasks) != 1:
        raise ValueError(
            f"{command.recording} holds single images, which are scored by one task at a time; pass --tasks with "
            f"{' or '.join(STATIC_TASKS)}"
        )
    return command.tasks[0]


def _refuse_window_options(command: WithModel, *, stride: int | None) -> None:
    """Refuse options that choose among windows, where each image is one."""
    if command.max_windows is not None or command.stride != stride:
        raise ValueError(
            f"{command.recording}: single images are all scored or predicted; leave out --max-windows and --stride"
        )


def _load(command: WithModel) -> tuple[OmniMouseModel, Recording]:
    """The model with the session of the recording, and the recording; the model is where `--device` says.

    Raises:
        ValueError: Neither core nor adapter was named, or what was named does not hold this session.
    """
    device = resolve_device(command.device, cpu=command.cpu)
    recording = open_recording(command.recording)
    key, core, adapter, revision = recording.session_key, command.core, command.session_adapter, command.revision
    if adapter is None:
        if core is None:
            raise ValueError(
                f"nothing that knows session {key}: pass --session-adapter (from omnimouse finetune), or --core with "
                "a model that holds this session"
            )
        model = OmniMouseModel.from_pretrained(core, sessions=[key], revision=revision)
    else:
        _check_adapter(adapter, key, command.recording, revision)
        if core is None:
            model = OmniMouseModel.from_pretrained(adapter, revision=revision)
        else:
            model = OmniMouseModel.from_pretrained(core)
            model.load_session(adapter, revision=revision)
    # Any: the type that transformers gives `to` is that of an unbound method.
    place: Any = device or available_devices()[0]
    model.to(place)
    return model, recording


def _check_adapter(name: str, key: str, recording: Path, revision: str | None) -> None:
    """Refuse what is no session adapter, or that of another session, before a model is loaded for it."""
    folder = find(name, HubOptions(revision=revision)).folder
    if not is_adapter(folder):
        hint = f"pass {folder / 'adapter'}" if is_adapter(folder / "adapter") else "pass a folder that finetune wrote"
        if (folder / "config.json").is_file():
            hint = f"it is a whole model: pass --core {name}"
        raise ValueError(f"{name} is not a session adapter: expected a folder with adapter_config.json; {hint}")
    found = AdapterConfig.read(folder).session.key
    if short_key(found) != short_key(key):
        raise ValueError(
            f"{name} is the adapter of session {found}, but {recording} is session {key}; pass the adapter that was "
            "trained on this recording"
        )
