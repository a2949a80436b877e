"""Pushing models and session adapters to the Hub, in one commit each.

A push prepares a folder that starts from the small files of the repo (list of sessions, scores, card), saves over it by
the rules for any folder, and uploads what came of it. Nothing that lies in the repo is lost thereby: sessions of the
same core stay listed, a card that somebody edited is kept. Large files travel before the commit: a push that was
interrupted, when called again, sends only what is missing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from omnimouse.hub.sources import PACKAGED_CORES, PUBLISHED_CORES, HubOptions, download, explained, hub_api, locate
from omnimouse.model.core_identity import core_sha256, stored_settings
from omnimouse.pretrained.cards.facts import CARD_FILE, is_public_name
from omnimouse.pretrained.cards.writer import CardOptions, check_scores, write_session_card
from omnimouse.pretrained.measured import SCORES_FILE
from omnimouse.pretrained.model_folder import (
    core_weight_files,
    core_weight_patterns,
    refuse_injected,
    stored_core,
    write_model_folder,
)
from omnimouse.pretrained.session_files import (
    ADAPTER_CONFIG,
    INDEX,
    SESSIONS_FOLDER,
    AdapterConfig,
    read_index,
    select_sessions,
)
from omnimouse.pretrained.session_methods import WithSessions
from omnimouse.support.files import hash_like

SEEDS = (CARD_FILE, SCORES_FILE, INDEX)
"""Files of the repo that a save starts from."""


@dataclass(frozen=True)
class UploadOptions:
    """How to push; the arguments of `push_to_hub` of the same names.

    Args:
        private: Whether a repo that is created is private; the account's own rule by default.
        token: Access token; the stored one by default.
        revision: Branch to push to, made if it does not exist; or `refs/pr/<n>` of an open pull request.
        create_pr: Open a pull request instead of committing.
        commit_message: First line of the commit.
        commit_description: The rest of it.
    """

    private: bool | None = None
    token: str | bool | None = None
    revision: str | None = None
    create_pr: bool = False
    commit_message: str | None = None
    commit_description: str | None = None


@dataclass(frozen=True)
class Target:
    """A repo that is about to be pushed to.

    Args:
        api: The Hub's API.
        repo: The repo.
        head: Commit that the push builds on.
        files: Its files by name.
        options: How to push.
        repo_type: `"dataset"`, or `None` for models and session adapters.
    """

    api: HfApi
    repo: str
    head: str
    files: dict[str, RepoFile]
    options: UploadOptions
    repo_type: str | None = None

    @classmethod
    def open(cls, repo: str, options: UploadOptions, *, repo_type: str | None = None) -> Target:
        """Creates the repo and the branch if needed, and looks at what is there.

        Raises:
            OSError: The Hub refuses, or cannot be reached.
            ValueError: The name cannot be a repo's, or a pull request is asked for on a branch.
        """
        if options.create_pr and options.revision not in (None, constants.DEFAULT_REVISION):
            raise ValueError(
                f"create_pr=True opens a pull request on the main branch, got revision={options.revision!r}. Leave one "
                "of them out; to go on in an open pull request pass revision='refs/pr/<n>' alone."
            )
        api, kind = hub_api(options.token), repo_type
        with explained(repo, options.revision, dataset=kind == "dataset"):
            # A pull request may go to a repo of somebody else, which must not be created.
            if not (options.create_pr and "/" in repo and api.repo_exists(repo, repo_type=kind)):
                repo = api.create_repo(repo, private=options.private, exist_ok=True, repo_type=kind).repo_id
            branch = options.revision or constants.DEFAULT_REVISION
            if not branch.startswith("refs/") and not api.revision_exists(repo, branch, repo_type=kind):
                api.create_branch(repo, branch=branch, repo_type=kind)
            head = api.repo_info(repo, revision=branch, repo_type=kind).sha
            assert head is not None
            entries = api.list_repo_tree(repo, recursive=True, revision=head, repo_type=kind)
            return cls(api, repo, head, {f.path: f for f in entries if isinstance(f, RepoFile)}, options, kind)

    def seed(self, folder: Path, names: Sequence[str] = SEEDS) -> None:
        """Puts the repo's small files into a folder, for a save to start from."""
        for name in names:
            if name in self.files:
                with explained(self.repo, self.head):
                    cached = hf_hub_download(
                        self.repo, name, revision=self.head, token=self.options.token, repo_type=self.repo_type
                    )
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cached, folder / name)

    def holds(self, name: str, path: Path) -> bool:
        """Whether the repo's file `name` has the content of a local file."""
        entry = self.files.get(name)
        if entry is None or entry.size != path.stat().st_size:
            return False
        checksum = entry.blob_id if entry.lfs is None else entry.lfs.sha256
        return hash_like(path, checksum) == checksum

    def holds_core(self, folder: Path, core_hash: Callable[[], str]) -> bool:
        """Whether the repo's core is the one in a folder. Its weights are only fetched where files differ."""
        options = HubOptions(revision=self.head, token=self.options.token)
        if not self.holds("config.json", folder / "config.json"):
            theirs = download(self.repo, options, ["config.json"])
            if not (theirs / "config.json").is_file() or stored_settings(theirs) != stored_settings(folder):
                return False
        ours = core_weight_files(path.name for path in folder.iterdir())
        if all(self.holds(name, folder / name) for name in ours):
            return True
        theirs = download(self.repo, options, core_weight_patterns())
        return core_sha256(stored_core(theirs), stored_settings(folder)) == core_hash()

    def commit(
        self, folder: Path, delete: Sequence[str], what: str, *, others: Mapping[str, Path] | None = None
    ) -> CommitInfo:
        """Uploads all files of a folder, and `others` by their names, and deletes files; one commit on top of `head`.

        Raises:
            OSError: The Hub refuses or cannot be reached, or the repo has changed meanwhile.
        """
        options = self.options
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path.relative_to(folder).as_posix(), path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        operations += [CommitOperationAdd(name, path) for name, path in (others or {}).items()]
        operations += [CommitOperationDelete(name) for name in delete]
        with explained(self.repo, options.revision):
            try:
                return self.api.create_commit(
                    self.repo,
                    operations,
                    repo_type=self.repo_type,
                    commit_message=options.commit_message or f"Upload {what}",
                    commit_description=options.commit_description,
                    revision=None if options.create_pr else options.revision,
                    create_pr=options.create_pr,
                    parent_commit=self.head,
                )
            except HfHubHTTPError as error:
                if getattr(error.response, "status_code", None) == 412:
                    raise OSError(
                        f"{self.repo} was changed by somebody else during the upload; nothing was committed. Push "
                        "again: what was uploaded is not sent again."
                    ) from error
                raise
            except RuntimeError as error:  # how the client reports a large file that did not get through
                raise OSError(
                    f"The upload to {self.repo} broke off; nothing was committed ({error} {error.__cause__ or ''}). "
                    "Push again: what was uploaded is not sent again."
                ) from error


def _split_options(options: dict[str, Any]) -> tuple[CardOptions, UploadOptions]:
    """Sorts the keyword arguments of a push into those for the card and those for the upload."""
    card, upload = CardOptions.__dataclass_fields__, UploadOptions.__dataclass_fields__
    unknown = [name for name in options if name not in card and name not in upload]
    if unknown:
        raise ValueError(f"Unknown arguments {', '.join(unknown)}; known ones are {', '.join((*upload, *card))}.")
    return (
        CardOptions(**{name: value for name, value in options.items() if name in card and value is not None}),
        UploadOptions(**{name: value for name, value in options.items() if name in upload and value is not None}),
    )


def pruned_files(target: Target, index: dict[str, Any]) -> list[str]:
    """Session files of the repo that an index no longer names."""
    kept = {entry["file"] for entry in index.values()}
    stored = (name for name in target.files if name.startswith(f"{SESSIONS_FOLDER}/") and name.endswith(".safetensors"))
    return [name for name in stored if name not in kept]


def outdated_files(target: Target, folder: Path, names: Iterable[str]) -> list[str]:
    """Those of some files of the repo that are no longer in the folder that is about to be pushed."""
    return [name for name in names if name in target.files and not (folder / name).exists()]


class WithSharing(WithSessions):
    """Pushing a model, or one of its sessions."""

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        sessions: str | Sequence[str] = "all",
        prune: bool = False,
        max_shard_size: int | str | None = None,
        **options: Any,
    ) -> CommitInfo:
        """Pushes the model to the Hub: core, chosen sessions, processor and card, in one commit.

        Sessions of the same core that the repo holds already stay. An upload that was interrupted, when called again,
        sends only what is missing.

        Args:
            repo_id: The repo, `"user/name"` or `"name"`; created if it does not exist.
            sessions: Which of the model's sessions to push: `"all"`, or keys, short keys and globs.
            prune: Delete the repo's other sessions (they stay in its history).
            max_shard_size: As for any transformers model; by default the core is one file.
            **options: How to push: `private`, `token`, `revision` (a branch, made if it does not exist), `create_pr`,
                `commit_message`, `commit_description`. For the card: `scores` (what `evaluate` returned; scores of
                other weights than these are refused), `training`, `training_data`, `license`, `tags`.

        Returns:
            The commit; as a string, its address (`.pr_url` is that of the pull request).

        Raises:
            ValueError: A session is not in the model, or the repo holds sessions of another core, or an adapter.
            OSError: The Hub refuses, cannot be reached, or the repo was changed meanwhile.
        """
        card, upload = _split_options(options)
        # Before a repo is made for nothing.
        keys = select_sessions(self.sessions.specs, sessions, "The model")
        check_scores(self, card)
        refuse_injected(self)
        target = Target.open(repo_id, upload)
        if ADAPTER_CONFIG in target.files:
            raise ValueError(f"{target.repo} holds a session adapter. Push the model to a repo of its own.")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            target.seed(folder, [seed for seed in SEEDS if not (prune and seed == INDEX)])
            others = [key for key in read_index(folder) if key not in keys]
            shards: dict[str, Any] = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
            write_model_folder(self, folder, sessions=sessions, card=card, name=target.repo, **shards)
            if others and not target.holds_core(folder, self.core_hash):
                raise ValueError(
                    f"{target.repo} holds sessions of another core ({', '.join(others[:5])}). Pushing this core over "
                    "it would orphan them. Push to another repo, or pass prune=True to delete them (with revision=..., "
                    "on a branch of its own)."
                )
            delete = pruned_files(target, read_index(folder)) if prune else []
            # Scores of other weights, and the core in other files, which would be loaded instead of these.
            delete += outdated_files(target, folder, (*SEEDS, *core_weight_files(target.files)))
            commit = target.commit(folder, delete, "model")
        if not target.options.create_pr:
            # From now on, session adapters name the repo as their core.
            pushed = locate(target.repo, HubOptions(revision=commit.oid, token=target.options.token))
            self._source = replace(pushed, core_sha256=self.core_hash())
        return commit

    def push_session_to_hub(
        self,
        key: str,
        repo_id: str,
        *,
        base_model: str | None = None,
        dtype: torch.dtype | str | None = None,
        **options: Any,
    ) -> CommitInfo:
        """Pushes one session adapter to a repo of its own, with a card.

        Args:
            key: The session; its short key will do.
            repo_id: The repo, `"user/name"` or `"name"`; created if it does not exist.
            base_model: Repo of the core that the session was trained on. Needed when the core was loaded from a folder,
                which nobody else has.
            dtype: Type to store it in, as for `save_session`.
            **options: As for `push_to_hub`.

        Returns:
            The commit; as a string, its address.

        Raises:
            ValueError: No such session, no base model that others could load, or the repo holds something else.
            OSError: The Hub refuses, cannot be reached, or the repo was changed meanwhile.
        """
        spec = self.sessions.check(key)
        card, upload = _split_options(options)
        check_scores(self, card)
        base, commit = self._public_base(base_model, upload.token)
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
            self.save_session(spec.key, folder, dtype=dtype)
            config = replace(AdapterConfig.read(folder), base_model=base, base_commit=commit)
            config.write(folder)
            write_session_card(self, config, folder, card, target.repo)
            return target.commit(folder, outdated_files(target, folder, [SCORES_FILE]), f"session {spec.key}")

    def _checked_base(self, base_model: str, token: str | bool | None) -> str | None:
        """Commit of the core that others will load by a name, which must be this one."""
        base = locate(base_model, HubOptions(token=token))
        base.fetch(core_weight_patterns())
        if not self._is_rounded(stored_core(base.folder), base):
            raise ValueError(
                f"{base_model} holds another core than the one that this session was trained on, so nobody could use "
                "the session with it. Push the core to a repo of its own with model.push_to_hub(repo)."
            )
        return base.commit

    def _public_base(self, base_model: str | None, token: str | bool | None) -> tuple[str, str | None]:
        """Name and commit of the core under which others find it."""
        source = self._source
        if base_model is None and source is not None and self.core_has_changed():
            raise ValueError(
                f"The core has changed since it came from {source.name}: the session fits the core as it is now, which "
                "nobody else has. Push the whole model with model.push_to_hub(repo)."
            )
        if base_model is not None:
            alias = base_model.lower().replace("_", "-")
            base_model = alias if alias in (*PACKAGED_CORES, *PUBLISHED_CORES) else base_model
            if not is_public_name(base_model):
                raise ValueError(
                    f"base_model={base_model!r} is nothing that others can load. Push the core first with "
                    "model.push_to_hub(repo), and pass that repo, user/model."
                )
            return base_model, self._checked_base(base_model, token)
        if source is None or (source.commit is None and not source.is_packaged):
            where = f"was loaded from {source.name}" if source else "was never saved"
            raise ValueError(
                f"Others need the core that this session was trained on, but it {where}. Push the core first with "
                "model.push_to_hub(repo), or name its repo with base_model=..."
            )
        return source.name, source.commit
