"""What to download of the authors' recordings: which tar files the Hub has, which are wanted, and their sizes."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from omnimouse.corpus.manifest import CORPUS_REPO, choose_sessions, corpus_sessions
from omnimouse.hub.errors import explained
from omnimouse.hub.sources import hub_api
from omnimouse.model.session_tables.session_names import short_key
from omnimouse.recordings.formats.experanto.session_folder import looks_like_experanto

CORPUS_FOLDER = "experiments"
"""Its folder with the tar files."""

WORK_FOLDER = ".omnimouse-download"
"""Hidden folder of the target for what is not whole yet."""

_NAME = re.compile(r"[\w+-][\w.+-]*", re.ASCII)


@dataclass(frozen=True)
class RemoteSession:
    """One session of the dataset on the Hub."""

    name: str  # name of its tar without `.tar`, and of the folder it becomes
    path: str  # path of the tar in the repo
    n_bytes: int  # size of the tar; the folder is about as large
    checksum: str  # SHA-256 of the tar in hexadecimal, or its git hash (SHA-1) if it is not stored as a large file

    @property
    def key(self) -> str:
        """Short key, `animal-session-scan`."""
        return short_key(self.name)


@dataclass(frozen=True)
class DownloadPlan:
    """What a download would do."""

    repo: str  # the dataset
    commit: str  # the commit that all files come from
    folder: Path  # for the session folders
    sessions: tuple[RemoteSession, ...]  # what is to be downloaded
    present: tuple[Path, ...]  # session folders that are there already
    blocked: Mapping[str, str]  # name of a session -> why its folder cannot be made
    missing: tuple[str, ...]  # short keys of sessions of the collections that the dataset does not have
    n_bytes: int  # bytes of the tar files of `sessions`
    fetched_bytes: int  # how many of these an earlier download has left behind
    needed_bytes: int  # free space that is needed: the folders, and the tar files that lie beside them meanwhile
    free_bytes: int  # free space there is
    workers: int  # sessions that are fetched and unpacked at the same time
    keep_tars: bool  # whether tar files are kept beside the session folders


def plan_download(
    what: str | int | Iterable[str],
    folder: str | os.PathLike[str],
    *,
    count: int | None = None,
    repo: str = CORPUS_REPO,
    revision: str | None = None,
    workers: int = 4,
    keep_tars: bool = False,
    token: str | bool | None = None,
) -> DownloadPlan:
    """Finds out what a download would fetch, and how much space it needs; nothing is fetched or written.

    Arguments and errors are those of `download_sessions`; a lack of space is no error here.
    """
    folder = Path(folder).expanduser().absolute()
    _check_folder(folder)
    if isinstance(what, int):
        count = what if count is None else min(what, count)
        what = "*"
    if count is not None and count < 1:
        raise ValueError(f"A count of {count} sessions was asked for; it must be 1 or more.")
    if workers < 1:
        raise ValueError(f"{workers} workers were asked for; there must be 1 or more.")
    commit, remote = _remote_sessions(repo, revision, token)
    chosen, missing = choose_sessions(what, remote, repo)
    present: list[Path] = []
    sessions: list[RemoteSession] = []
    blocked: dict[str, str] = {}
    for name in chosen[:count]:
        place = folder / name
        if looks_like_experanto(place):
            present.append(place)
        elif os.path.lexists(place):
            blocked[name] = f"{place} is there, but is no session folder; move it away and give the command again."
        elif keep_tars and os.path.lexists(folder / f"{name}.tar"):
            blocked[name] = f"{place}.tar is there already; move it away and give the command again."
        else:
            sessions.append(remote[name])
    sizes = sorted((session.n_bytes for session in sessions), reverse=True)
    fetched = sum(min(size_on_disk(tar_place(folder, session)), session.n_bytes) for session in sessions)
    return DownloadPlan(
        repo=repo,
        commit=commit,
        folder=folder,
        sessions=tuple(sessions),
        present=tuple(present),
        blocked=blocked,
        missing=tuple(missing),
        n_bytes=sum(sizes),
        fetched_bytes=fetched,
        needed_bytes=max(0, sum(sizes) + sum(sizes if keep_tars else sizes[:workers]) - fetched),
        free_bytes=shutil.disk_usage(_existing(folder)).free,
        workers=workers,
        keep_tars=keep_tars,
    )


def size_text(n_bytes: int) -> str:
    """A size as people read it, in powers of 1000."""
    size, units = float(n_bytes), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.3g} {units[0]}"


def _remote_sessions(repo: str, revision: str | None, token: str | bool | None) -> tuple[str, dict[str, RemoteSession]]:
    """The commit, and what tar files it has by name, in the order of the manifest; others follow, sorted."""
    api = hub_api(token)
    with explained(repo, revision, dataset=True):
        commit = api.dataset_info(repo, revision=revision).sha
        assert commit is not None
        try:
            entries = list(api.list_repo_tree(repo, CORPUS_FOLDER, repo_type="dataset", revision=commit))
        except EntryNotFoundError:
            entries = []
    files = [entry for entry in entries if isinstance(entry, RepoFile) and entry.path.endswith(".tar")]
    if not files:
        raise ValueError(f"{repo} has no tar files in {CORPUS_FOLDER}/; expected a dataset like {CORPUS_REPO}.")
    order = {session.key: position for position, session in enumerate(corpus_sessions())}
    found = {}
    for file in files:
        name = file.path.rpartition("/")[2].removesuffix(".tar")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{repo} has a file {file.path!r}, whose name cannot be that of a session.")
        checksum = file.blob_id if file.lfs is None else file.lfs.sha256
        found[name] = RemoteSession(name, file.path, file.size, checksum)
    names = sorted(found, key=lambda name: (order.get(short_key(name), len(order)), name))
    return commit, {name: found[name] for name in names}


def _check_folder(folder: Path) -> None:
    if looks_like_experanto(folder):
        raise ValueError(f"{folder} is itself a session folder, which is never written to; choose another folder.")
    existing = _existing(folder)
    if not existing.is_dir():
        raise ValueError(f"{folder} cannot be made: {existing} is a file. Choose another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{folder} cannot be written: no permission to write in {existing}. Choose another folder.")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if os.path.exists(place))


def size_on_disk(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def tar_place(folder: Path, session: RemoteSession) -> Path:
    """Where a tar lies until its folder is whole; another version of it has another name."""
    return folder / WORK_FOLDER / f"{session.name}.{session.checksum[:16]}.tar"
