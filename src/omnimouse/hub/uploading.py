"""Uploading to a repo of the Hub: what it holds, and one commit on top of that.

Large files travel before the commit: a push that was interrupted, when called again, sends only what is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from omnimouse.hub.errors import explained
from omnimouse.hub.sources import hub_api
from omnimouse.support.files import hash_like


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
    """A repo that is about to be pushed to, and its files by name."""

    api: HfApi
    repo: str
    head: str  # commit that the push builds on
    files: dict[str, RepoFile]
    options: UploadOptions
    repo_type: str | None = None  # "dataset", or None for models and session adapters

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

    def seed(self, folder: Path, names: Sequence[str]) -> None:
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

    def commit(
        self, folder: Path, delete: Sequence[str], what: str, *, others: Mapping[str, Path] | None = None
    ) -> CommitInfo:
        """Uploads all files of a folder, and `others` by their names, and deletes files; one commit on top of `head`.

        Raises:
            OSError: The Hub refuses or cannot be reached, or the repo has changed meanwhile.
        """
        options = self.options
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, path) for name, path in {**files, **(others or {})}.items()
        ]
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
