"""Pushing models and session adapters to the Hub, in one commit each.

A push prepares a folder that starts from the small files of the repo (list of sessions, scores, card), saves over it by
the rules for any folder, and uploads what came of it. Nothing that lies in the repo is lost thereby: sessions of the
same core stay listed, a card that somebody edited is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo

from omnimouse.hub.names import core_name
from omnimouse.hub.sources import HubOptions, Source, fetch_files
from omnimouse.hub.uploading import Target, UploadOptions
from omnimouse.model.core_identity import core_sha256, stored_settings
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.pretrained.cards.card_writer import CardOptions, check_scores, write_session_card
from omnimouse.pretrained.cards.facts import CARD_FILE, is_public_name
from omnimouse.pretrained.measured import SCORES_FILE
from omnimouse.pretrained.model_folder import refuse_injected, write_model_folder
from omnimouse.pretrained.session_adapters import save_adapter
from omnimouse.pretrained.session_files import (
    ADAPTER_CONFIG,
    INDEX,
    SESSIONS_FOLDER,
    AdapterConfig,
    read_index,
    select_sessions,
)
from omnimouse.pretrained.source_kinds import locate
from omnimouse.pretrained.stored_core import (
    core_has_changed,
    core_weight_files,
    core_weight_patterns,
    is_core_of,
    stored_core,
)

SEEDS = (CARD_FILE, SCORES_FILE, INDEX)
"""Files of the repo that a save starts from."""


def push_model(
    model: OmniMouseNetwork,
    source: Source | None,
    repo_id: str,
    sessions: str | Sequence[str],
    prune: bool,
    max_shard_size: int | str | None,
    options: Mapping[str, Any],
) -> tuple[CommitInfo, Source | None]:
    """Pushes a model, as `OmniMouseModel.push_to_hub` says.

    Returns:
        The commit, and the model's new source: what was pushed, or as it was for a pull request.
    """
    card, upload = _split_options(options)
    # Before a repo is made for nothing.
    keys = select_sessions(model.sessions.specs, sessions, "The model")
    check_scores(model, source, card)
    refuse_injected(model)
    target = Target.open(repo_id, upload)
    if ADAPTER_CONFIG in target.files:
        raise ValueError(f"{target.repo} holds a session adapter. Push the model to a repo of its own.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target.seed(folder, [seed for seed in SEEDS if not (prune and seed == INDEX)])
        others = [key for key in read_index(folder) if key not in keys]
        shards: dict[str, Any] = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        write_model_folder(model, folder, source=source, sessions=sessions, card=card, name=target.repo, **shards)
        if others and not _holds_core(target, folder, model.core_hash):
            raise ValueError(
                f"{target.repo} holds sessions of another core ({', '.join(others[:5])}). Pushing this core over "
                "it would orphan them. Push to another repo, or pass prune=True to delete them (with revision=..., "
                "on a branch of its own)."
            )
        delete = _pruned_files(target, read_index(folder)) if prune else []
        # Scores of other weights, and the core in other files, which would be loaded instead of these.
        delete += _outdated_files(target, folder, (*SEEDS, *core_weight_files(target.files)))
        commit = target.commit(folder, delete, "model")
    if upload.create_pr:
        return commit, source
    # From now on, session adapters name the repo as their core.
    pushed = locate(target.repo, HubOptions(revision=commit.oid, token=upload.token))
    return commit, replace(pushed, core_sha256=model.core_hash())


def push_session(
    model: OmniMouseNetwork,
    source: Source | None,
    key: str,
    repo_id: str,
    *,
    base_model: str | None,
    dtype: torch.dtype | str | None,
    options: Mapping[str, Any],
) -> CommitInfo:
    """Pushes one session adapter, as `OmniMouseModel.push_session_to_hub` says; `source` is the model's."""
    spec = model.sessions.check(key)
    card, upload = _split_options(options)
    check_scores(model, source, card)
    base, commit = _public_base(model, source, base_model, upload.token)
    target = Target.open(repo_id, upload)
    if "config.json" in target.files:
        raise ValueError(f"{target.repo} holds a model. Push the session adapter to a repo of its own.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target.seed(folder, (ADAPTER_CONFIG, CARD_FILE, SCORES_FILE))
        if ADAPTER_CONFIG in target.files and (other := AdapterConfig.read(folder).session.key) != spec.key:
            raise ValueError(
                f"{target.repo} holds the adapter of session {other!r}. Push {spec.key!r} to another repo."
            )
        save_adapter(model, source, spec.key, folder, dtype)
        config = replace(AdapterConfig.read(folder), base_model_name_or_path=base, base_commit=commit)
        config.write(folder)
        write_session_card(model, source, config, folder, card, target.repo)
        return target.commit(folder, _outdated_files(target, folder, [SCORES_FILE]), f"session {spec.key}")


def _split_options(options: Mapping[str, Any]) -> tuple[CardOptions, UploadOptions]:
    """Sorts the keyword arguments of a push into those for the card and those for the upload."""
    card, upload = CardOptions.__dataclass_fields__, UploadOptions.__dataclass_fields__
    unknown = [name for name in options if name not in card and name not in upload]
    if unknown:
        raise ValueError(f"Unknown arguments {', '.join(unknown)}; known ones are {', '.join((*upload, *card))}.")
    return (
        CardOptions(**{name: value for name, value in options.items() if name in card and value is not None}),
        UploadOptions(**{name: value for name, value in options.items() if name in upload and value is not None}),
    )


def _pruned_files(target: Target, index: dict[str, Any]) -> list[str]:
    """Session files of the repo that an index no longer names."""
    kept = {entry["file"] for entry in index.values()}
    stored = (name for name in target.files if name.startswith(f"{SESSIONS_FOLDER}/") and name.endswith(".safetensors"))
    return [name for name in stored if name not in kept]


def _outdated_files(target: Target, folder: Path, names: Iterable[str]) -> list[str]:
    """Those of some files of the repo that are no longer in the folder that is about to be pushed."""
    return [name for name in names if name in target.files and not (folder / name).exists()]


def _holds_core(target: Target, folder: Path, core_hash: Callable[[], str]) -> bool:
    """Whether a repo's core is the one in a folder. Its weights are only fetched where files differ."""
    options = HubOptions(revision=target.head, token=target.options.token)
    if not target.holds("config.json", folder / "config.json"):
        theirs = fetch_files(target.repo, options, ["config.json"])
        if not (theirs / "config.json").is_file() or stored_settings(theirs) != stored_settings(folder):
            return False
    ours = core_weight_files(path.name for path in folder.iterdir())
    if all(target.holds(name, folder / name) for name in ours):
        return True
    theirs = fetch_files(target.repo, options, core_weight_patterns())
    return core_sha256(stored_core(theirs), stored_settings(folder)) == core_hash()


def _public_base(
    model: OmniMouseNetwork, source: Source | None, base_model: str | None, token: str | bool | None
) -> tuple[str, str | None]:
    """Name and commit of the core under which others find it."""
    if base_model is not None:
        base_model = core_name(base_model) or base_model
        if not is_public_name(base_model):
            raise ValueError(
                f"base_model={base_model!r} is nothing that others can load. Push the core first with "
                "model.push_to_hub(repo), and pass that repo, user/model."
            )
        return base_model, _checked_base(model, base_model, token)
    if source is not None and core_has_changed(model, source):
        raise ValueError(
            f"The core has changed since it came from {source.name}: the session fits the core as it is now, which "
            "nobody else has. Push the whole model with model.push_to_hub(repo)."
        )
    if source is None or (source.commit is None and not source.is_packaged):
        where = f"was loaded from {source.name}" if source else "was never saved"
        raise ValueError(
            f"Others need the core that this session was trained on, but it {where}. Push the core first with "
            "model.push_to_hub(repo), or name its repo with base_model=..."
        )
    return source.name, source.commit


def _checked_base(model: OmniMouseNetwork, base_model: str, token: str | bool | None) -> str | None:
    """Commit of the core that others will load by a name, which must be this one."""
    base = locate(base_model, HubOptions(token=token))
    base.fetch(core_weight_patterns())
    if not is_core_of(model, base):
        raise ValueError(
            f"{base_model} holds another core than the one that this session was trained on, so nobody could use "
            "the session with it. Push the core to a repo of its own with model.push_to_hub(repo)."
        )
    return base.commit
