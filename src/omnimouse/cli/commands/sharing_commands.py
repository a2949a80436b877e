"""The commands about stored models and adapters: `convert`, `push` and `info`."""

from __future__ import annotations

import shlex
from importlib.metadata import version

from omnimouse.cli import describe
from omnimouse.cli.model_options import Convert, Info, Push
from omnimouse.cli.output import Said
from omnimouse.hub.names import PUBLISHED_CORES
from omnimouse.model.configuration_omnimouse import PRESETS
from omnimouse.model.masking.masks import TASKS
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.pretrained.published.conversion import convert as convert_checkpoint
from omnimouse.pretrained.session_files import AdapterConfig, is_adapter
from omnimouse.pretrained.source_kinds import locate
from omnimouse.support.version import __version__


def convert_command(command: Convert) -> Said:
    """Write a published checkpoint as a model folder."""
    convert_checkpoint(command.source, command.out, **command.take("size", "revision"))
    description = describe.describe_path(command.out)
    use = shlex.join(["--core", str(command.out)])
    return Said(description, f"{describe.to_text(description)}\n\nWrote {command.out}; use it with {use}")


def push_command(command: Push) -> Said:
    """Push a model or a session adapter to the Hub."""
    options = command.take("private", "create_pr", "commit_message", "revision", "scores", "license", "tags")
    source, base = locate(command.source), command.base_model
    if is_adapter(source.folder):
        if command.prune or command.sessions != "all":
            raise ValueError(f"{command.source} is a session adapter; --sessions and --prune are for whole models")
        adapter = AdapterConfig.read(source.folder)
        if base is None and adapter.base_model is None:
            raise ValueError(f"{command.source} does not say which core it belongs to; name its repo with --base-model")
        model = OmniMouseModel.from_pretrained(base or command.source)
        if base:  # the adapter may not know its core, or know it by a folder that nobody else has
            model.load_session(command.source)
        key = adapter.session.key
        commit = model.push_session_to_hub(key, command.repo, base_model=base, dtype=command.dtype, **options)
    else:
        if base or command.dtype:
            raise ValueError(f"{command.source} is a whole model; --base-model and --dtype are for session adapters")
        sessions = [] if command.sessions == ["none"] else command.sessions
        model = OmniMouseModel.from_pretrained(command.source, sessions=sessions or None)
        commit = model.push_to_hub(command.repo, prune=command.prune, **options)
    return Said(
        {"commit": commit.oid, "url": commit.commit_url, "pull_request": commit.pr_url},
        f"Pushed {command.source}: {commit.pr_url or commit.commit_url}",
    )


def info_command(command: Info) -> Said:
    """Say what a folder is, or which versions and models there are."""
    if command.target is not None:
        description = describe.describe_path(command.target, revision=command.revision)
        return Said(description, describe.to_text(description))
    libraries = ("torch", "transformers", "accelerate", "numpy")
    versions = {"omnimouse": __version__, **{name: version(name) for name in libraries}}
    shipped = {name: str(folder) for name, folder in describe.shipped_models().items()}
    data = {
        "kind": "package",
        "versions": versions,
        "models": shipped,
        "published_models": dict(PUBLISHED_CORES),
        "presets": list(PRESETS),
        "tasks": list(TASKS),
    }
    lines = [
        *(f"{name} {number}" for name, number in versions.items()),
        f"models that come with the package: {', '.join(shipped) or 'none'}",
        f"models of the authors, on the Hub: {', '.join(PUBLISHED_CORES)}",
        f"presets: {', '.join(PRESETS)}",
        f"tasks: {', '.join(TASKS)}",
    ]
    return Said(data, "\n".join(lines))
