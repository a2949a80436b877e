"""Repositories: commits with parents, branches, tags and pull requests, as far as the clients can see them.

Everything is kept in memory except the contents of files. Commit ids follow from what is committed, as they do in git,
so a server that is started again with the same files answers with the same ids and a client's cache stays warm.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone

from .storage import Blob


class HubError(Exception):
    """An answer that refuses: status, the `X-Error-Code` the clients look at, and a message."""

    def __init__(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


def revision_not_found(revision: str) -> HubError:
    return HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")


@dataclass(frozen=True)
class Entry:
    """A file in a commit."""

    blob: Blob
    lfs: bool

    @property
    def oid(self) -> str:
        """Git id of the file, or of the pointer that stands in for it."""
        if not self.lfs:
            return self.blob.git_sha1
        pointer = self.blob.pointer
        return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()

    @property
    def content_id(self) -> str:
        """Name of the content itself: the clients take it for ETag and to see whether a file changed."""
        return self.blob.sha256 if self.lfs else self.blob.git_sha1


@dataclass(frozen=True)
class Commit:
    oid: str
    files: dict[str, Entry]
    parent: str | None
    title: str
    description: str
    author: str
    date: datetime

    @property
    def date_text(self) -> str:
        return self.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass
class PullRequest:
    num: int
    title: str
    description: str
    author: str
    base: str
    date: datetime
    status: str = "draft"

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"


@dataclass
class Repository:
    """One model or dataset repository."""

    repo_type: str
    repo_id: str
    private: bool = False
    gated: str | bool = False
    granted: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: list[PullRequest] = field(default_factory=list)
    pull_request_tips: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def namespace(self) -> str:
        return self.repo_id.partition("/")[0]

    @property
    def web_path(self) -> str:
        """Where the repository lies below the address of the hub."""
        return self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"

    def find(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request or (abbreviated) id names."""
        name = revision.removeprefix("refs/heads/")
        oid = self.branches.get(name) or self.tags.get(revision) or self.pull_request_tips.get(revision)
        if oid is None and len(revision) >= 7:
            matching = [oid for oid in self.commits if oid.startswith(revision)]
            oid = matching[0] if len(matching) == 1 else None
        if oid is None:
            raise revision_not_found(revision)
        return self.commits[oid]

    def history(self, commit: Commit) -> Iterator[Commit]:
        """The commit and its ancestors."""
        yield commit
        while commit.parent is not None:
            commit = self.commits[commit.parent]
            yield commit

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The newest commit, from this one back, that gave the file its present content."""
        entry, found = commit.files[path], commit
        for ancestor in self.history(commit):
            if ancestor.files.get(path) != entry:
                break
            found = ancestor
        return found

    def add_commit(
        self, files: dict[str, Entry], *, parent: str | None, title: str, description: str = "", author: str
    ) -> Commit:
        """Store a commit that no branch names yet."""
        content = sorted((path, entry.lfs, entry.blob.identity) for path, entry in files.items())
        what = json.dumps([self.repo_type, self.repo_id, parent, title, description, author, content])
        oid = hashlib.sha1(what.encode()).hexdigest()
        date = datetime.now(timezone.utc)
        return self.commits.setdefault(oid, Commit(oid, files, parent, title, description, author, date))

    def tip(self, ref: str) -> str:
        """The commit at the end of a branch or pull request: what a push adds to."""
        tip = self.branches.get(ref.removeprefix("refs/heads/")) or self.pull_request_tips.get(ref)
        if tip is None:
            raise revision_not_found(ref)
        return tip

    def advance(self, ref: str, commit: Commit) -> None:
        if ref in self.pull_request_tips:
            self.pull_request_tips[ref] = commit.oid
        else:
            self.branches[ref.removeprefix("refs/heads/")] = commit.oid

    def open_pull_request(self, *, title: str, description: str, author: str, base: str, tip: str) -> PullRequest:
        num, date = len(self.pull_requests) + 1, datetime.now(timezone.utc)
        pull_request = PullRequest(num, title, description, author, base, date)
        self.pull_requests.append(pull_request)
        self.pull_request_tips[pull_request.ref] = tip
        return pull_request

    def find_pull_request(self, num: str) -> PullRequest:
        for pull_request in self.pull_requests:
            if str(pull_request.num) == num:
                return pull_request
        raise HubError(404, None, f"Discussion {num} not found")

    def merge(self, pull_request: PullRequest, author: str) -> Commit:
        """Put what the pull request changed on top of its base branch."""
        changed = self.commits[self.pull_request_tips[pull_request.ref]].files
        base = self.commits[self.tip(pull_request.base)]
        origin = next(
            commit.files
            for commit in self.history(self.find(pull_request.ref))
            if commit.oid in {ancestor.oid for ancestor in self.history(base)}
        )
        files = {path: entry for path, entry in base.files.items() if path in changed or path not in origin}
        files.update({path: entry for path, entry in changed.items() if origin.get(path) != entry})
        commit = self.add_commit(
            files, parent=base.oid, title=f"{pull_request.title} (#{pull_request.num})", author=author
        )
        self.advance(pull_request.base, commit)
        pull_request.status = "merged"
        return commit
