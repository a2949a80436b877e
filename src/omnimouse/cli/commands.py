"""What the commands of the shell do: parse nothing, call a public function, say what came of it.

Each takes the parsed options of its command (`cli.py`) and returns the exit status. Results go to standard output,
progress to standard error.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnimouse.cli.options import DEFAULT_CORE, hint, print_json
from omnimouse.support.outputs import check_output
from omnimouse.support.version import __version__

if TYPE_CHECKING:
    from omnimouse.evaluation import Scores, StaticScores
    from omnimouse.pretrained.omnimouse_model import OmniMouseModel
    from omnimouse.recordings import Recording


def demo(args: argparse.Namespace) -> int:
    """Simulate a mouse, adapt the shipped core to it, score it, write the report."""
    from omnimouse.cli.demo import DemoSettings, next_steps, run_demo
    from omnimouse.support.compute_devices import resolve_device

    device = resolve_device(args.device, cpu=args.cpu)
    settings = DemoSettings(seed=args.seed, minutes=args.minutes, n_neurons=args.n_neurons, steps=args.steps)
    result = run_demo(args.output, settings=settings, force=args.force, device=device)
    print(f"{result.scores.table()}\n\n{next_steps(result)}")
    return 0


def simulate(args: argparse.Namespace) -> int:
    """Write a simulated recording."""
    from omnimouse.recordings.simulation.simulated import simulate_recording

    simulate_recording(
        args.folder, args.seed, n_neurons=args.n_neurons, minutes=args.minutes, animal=args.animal, progress=True
    )
    print(f"Wrote {args.folder}; look at it with: {hint('check', args.folder)}")
    return 0


def finetune(args: argparse.Namespace) -> int:
    """Train a session adapter, or the whole model, and save it."""
    from omnimouse import training
    from omnimouse.recordings import open_recording
    from omnimouse.support.compute_devices import resolve_device

    device = resolve_device(args.device, cpu=args.cpu)
    recording = open_recording(args.recording)
    check_output(args.output_dir, recording.path, folder=True)
    model = _load_core(args.core, sessions=_sessions_to_start_from(args, recording), revision=args.revision)
    others = [key for key in model.session_keys if key != recording.session_key]
    result = training.finetune(
        model, recording, output_dir=args.output_dir, steps=args.steps, batch_size=args.batch_size,
        session_learning_rate=args.session_learning_rate, train_core=args.train_core,
        core_learning_rate=args.core_learning_rate, masks=args.masks, train_tiers=args.train_tiers,
        validation_tier=args.validation_tier, patience=args.patience, seed=args.seed, resume=args.resume,
        mixed_precision=args.mixed_precision, device=device, start_from=args.start_from,
    )  # fmt: skip
    key = recording.session_key
    if args.train_core:
        for other in others:  # they no longer fit this core
            model.remove_session(other)
        # An adapter alone would be of no use: it fits this core only, which is stored nowhere else.
        saved = args.output_dir / "model"
        model.save_pretrained(saved)
    else:
        saved = model.save_session(key, args.output_dir / "adapter")
    summary = {
        "session": key,
        "saved": str(saved),
        "best_step": result.best_step,
        "best_validation_loss": result.best_validation_loss,
        "initial_validation_loss": result.initial_validation_loss,
        "stopped_early": result.stopped_early,
        "resumed_from": result.resumed_from,
        "left_out_masks": result.left_out_masks,
        "selected_on": result.tiers.selected_on,
        "held_out_trials": result.tiers.held_out,
        "seconds": result.seconds,
    }
    if args.json:
        print_json(summary)
        return 0
    losses = ""
    if result.best_validation_loss is not None:
        losses = f", validation loss {result.initial_validation_loss:.4f} -> {result.best_validation_loss:.4f}"
    print(f"Session {key}: kept the weights of step {result.best_step}{losses}; {result.seconds:.0f} s of training")
    print(f"Wrote {saved}; {_how_to_score(args, recording, model.session_spec(key).training, saved)}")
    return 0


def _how_to_score(
    args: argparse.Namespace, recording: Recording, training: Mapping[str, Any] | None, saved: Path
) -> str:
    """The command that scores what `finetune` saved, if there is anything to score it on."""
    from omnimouse.evaluation.tiers import choose_tier

    try:
        choose_tier(recording, training)
    except ValueError:
        return "there is no tier left to score it on, whose responses are known and were not trained on"
    if args.train_core:
        return f"score it with: {hint('evaluate', args.recording, '--core', saved)}"
    # An adapter knows its core, and a commit of it; not what lies around a core (a LoRA).
    core = [] if args.core == DEFAULT_CORE or args.revision else ["--core", args.core]
    return f"score it with: {hint('evaluate', args.recording, *core, '--session-adapter', saved)}"


def evaluate(args: argparse.Namespace) -> int:
    """Print the score table of held-out trials; single images have metrics of their own."""
    from omnimouse import evaluation
    from omnimouse.recordings import is_static

    if args.output is not None:
        check_output(args.output, args.recording)
    model, recording = _load(args)
    scores: Scores | StaticScores
    if is_static(recording):
        task = _one_static_task(args)
        scores = evaluation.evaluate_static(model, recording, args.tier, task=task, batch_size=args.batch_size)
    else:
        scores = evaluation.evaluate(
            model, recording, tasks=args.tasks, tier=args.tier, stride=args.stride, batch_size=args.batch_size,
            max_windows=args.max_windows,
        )  # fmt: skip
    if args.output is not None:
        scores.save(args.output)
    if args.json:
        print_json(scores.to_dict(per_neuron=False))
    else:
        print(scores.table())
    return 0


def predict(args: argparse.Namespace) -> int:
    """Write predictions to an `.npz` file, or those for single images as a submission to a `.csv` file."""
    from omnimouse import evaluation
    from omnimouse.recordings import is_static

    submission = args.output.suffix == ".csv"
    if args.output.suffix != ".npz" and not submission:
        raise ValueError(f"--output {args.output}: expected a name that ends in .npz")
    check_output(args.output, args.recording)
    model, recording = _load(args)
    if submission:
        if not is_static(recording):
            raise ValueError(
                f"--output {args.output}: expected a name that ends in .npz; .csv is for submissions, of single "
                "images (SENSORIUM 2022)"
            )
        _refuse_window_options(args, stride=None)
        tier = args.tier or "final_test"
        evaluation.write_static_submission(
            model, recording, args.output, tier, task=args.task, batch_size=args.batch_size
        )
        if args.json:
            print_json({"output": str(args.output), "task": args.task, "tier": tier})
        else:
            print(f"Wrote {args.output}: a submission for tier {tier}, predicted from {args.task}")
        return 0
    predictions = evaluation.predict(
        model, recording, args.task, tier=args.tier, stride=args.stride, batch_size=args.batch_size,
        max_windows=args.max_windows, output=args.output,
    )  # fmt: skip
    arrays = {name: list(a.shape) for name, a in vars(predictions).items() if getattr(a, "ndim", 0)}
    if args.json:
        print_json({"output": str(args.output), "task": predictions.task, "tier": predictions.tier, "arrays": arrays})
    else:
        print(f"Wrote {args.output}: task {predictions.task}, tier {predictions.tier}")
        for name, shape in arrays.items():
            print(f"  {name:22} {' x '.join(map(str, shape))}")
    return 0


def convert(args: argparse.Namespace) -> int:
    """Write a published checkpoint as a model folder."""
    from omnimouse.cli.describe import describe, to_text
    from omnimouse.pretrained.published.conversion import convert as convert_checkpoint

    convert_checkpoint(args.source, args.out, size=args.size, revision=args.revision)
    description = describe(args.out)
    if args.json:
        print_json(description)
    else:
        print(f"{to_text(description)}\n\nWrote {args.out}; use it with {shlex.join(['--core', str(args.out)])}")
    return 0


def push(args: argparse.Namespace) -> int:
    """Push a model or a session adapter to the Hub."""
    from omnimouse.pretrained.locating import locate
    from omnimouse.pretrained.session_files import AdapterConfig, is_adapter

    options: dict[str, Any] = {
        name: getattr(args, name) for name in ("private", "create_pr", "commit_message", "revision")
    }
    options |= {"scores": args.scores, "license": args.license, "tags": args.tags}
    source = locate(args.source)
    if is_adapter(source.folder):
        if args.prune or args.sessions != "all":
            raise ValueError(f"{args.source} is a session adapter; --sessions and --prune are for whole models")
        adapter = AdapterConfig.read(source.folder)
        if args.base_model is None and adapter.base_model is None:
            raise ValueError(f"{args.source} does not say which core it belongs to; name its repo with --base-model")
        key, model = adapter.session.key, _load_core(args.base_model or args.source)
        if args.base_model:  # the adapter may not know its core, or know it by a folder that nobody else has
            model.load_session(args.source)
        commit = model.push_session_to_hub(key, args.repo, base_model=args.base_model, dtype=args.dtype, **options)
    else:
        if args.base_model or args.dtype:
            raise ValueError(f"{args.source} is a whole model; --base-model and --dtype are for session adapters")
        sessions = [] if args.sessions == ["none"] else args.sessions
        model = _load_core(args.source, sessions=sessions or None)
        commit = model.push_to_hub(args.repo, prune=args.prune, **options)
    if args.json:
        print_json({"commit": commit.oid, "url": commit.commit_url, "pull_request": commit.pr_url})
    else:
        print(f"Pushed {args.source}: {commit.pr_url or commit.commit_url}")
    return 0


def info(args: argparse.Namespace) -> int:
    """Say what a folder is, or which versions and models there are."""
    from omnimouse.cli.describe import describe, shipped_models, to_text

    if args.target is not None:
        description = describe(args.target, revision=args.revision)
        text = to_text(description)
    else:
        from omnimouse.hub.sources import PUBLISHED_CORES
        from omnimouse.model.configuration_omnimouse import PRESETS
        from omnimouse.model.masks import TASKS

        libraries = ("torch", "transformers", "accelerate", "numpy")
        versions = {"omnimouse": __version__, **{name: version(name) for name in libraries}}
        description = {
            "kind": "package",
            "versions": versions,
            "models": {name: str(folder) for name, folder in shipped_models().items()},
            "published_models": dict(PUBLISHED_CORES),
            "presets": list(PRESETS),
            "tasks": list(TASKS),
        }
        text = "\n".join(
            [
                *(f"{name} {number}" for name, number in versions.items()),
                f"models that come with the package: {', '.join(description['models']) or 'none'}",
                f"models of the authors, on the Hub: {', '.join(PUBLISHED_CORES)}",
                f"presets: {', '.join(PRESETS)}",
                f"tasks: {', '.join(TASKS)}",
            ]
        )
    if args.json:
        print_json(description)
    else:
        print(text)
    return 0


def _one_static_task(args: argparse.Namespace) -> str:
    """The task that single images are scored by.

    Raises:
        ValueError: An option that single images have no use for, or several tasks.
    """
    from omnimouse.evaluation.static.evaluate_static import STATIC_TASKS

    _refuse_window_options(args, stride=30)
    if args.tasks == "all":
        return STATIC_TASKS[0]
    if len(args.tasks) != 1:
        raise ValueError(
            f"{args.recording} holds single images, which are scored by one task at a time; pass --tasks with "
            f"{' or '.join(STATIC_TASKS)}"
        )
    return args.tasks[0]


def _refuse_window_options(args: argparse.Namespace, *, stride: int | None) -> None:
    """Refuse options that choose among windows, where each image is one."""
    if args.max_windows is not None or args.stride != stride:
        raise ValueError(
            f"{args.recording}: single images are all scored or predicted; leave out --max-windows and --stride"
        )


def _load(args: argparse.Namespace) -> tuple[OmniMouseModel, Recording]:
    """The model with the session of the recording, and the recording; the model is where `--device` says.

    Raises:
        ValueError: Neither core nor adapter was named, or what was named does not hold this session.
    """
    import torch

    from omnimouse.recordings import open_recording
    from omnimouse.support.compute_devices import resolve_device

    device = resolve_device(args.device, cpu=args.cpu)
    recording = open_recording(args.recording)
    key, adapter = recording.session_key, args.session_adapter
    if args.core is None and adapter is None:
        raise ValueError(
            f"nothing that knows session {key}: pass --session-adapter (from omnimouse finetune), or --core with a "
            "model that holds this session"
        )
    revision = {"revision": args.revision}
    if adapter is not None:
        _check_adapter(adapter, key, args.recording, args.revision)
    if adapter is None:
        model = _load_core(args.core, sessions=[key], **revision)
    elif args.core is None:
        model = _load_core(adapter, **revision)
    else:
        model = _load_core(args.core)
        model.load_session(adapter, **revision)
    # Any: the type that transformers gives `to` is that of an unbound method.
    place: Any = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(place)
    return model, recording


MOST_STARTING_SESSIONS = 16
"""Sessions of a core that new neurons may begin at; more would cost memory and hardly find better matches."""


def _sessions_to_start_from(args: argparse.Namespace, recording: Recording) -> list[str] | None:
    """The recording's own session if the core has it, and a few others, evenly spread over those there are."""
    import numpy as np

    from omnimouse import session_keys
    from omnimouse.model.session_names import match_keys

    keys = session_keys(args.core, revision=args.revision)
    own = match_keys(recording.session_key, keys)
    if args.start_from == "mean":
        return own[:1] or None
    chosen = np.linspace(0, len(keys) - 1, min(len(keys), MOST_STARTING_SESSIONS)).round().astype(int)
    return sorted({*own[:1], *(keys[i] for i in chosen)}) or None


def _check_adapter(name: str, key: str, recording: Path, revision: str | None) -> None:
    """Refuse what is no session adapter, or that of another session, before a model is loaded for it."""
    from omnimouse.hub.sources import HubOptions, find
    from omnimouse.model.session_names import short_key
    from omnimouse.pretrained.session_files import AdapterConfig, is_adapter

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


def _load_core(name: str, **options: Any) -> OmniMouseModel:
    from omnimouse import OmniMouseModel

    return OmniMouseModel.from_pretrained(name, **options)
