"""Downloading the authors' recordings: one tar file per session on the Hub, one session folder on this machine.

A tar is fetched into the hidden folder `.omnimouse-download` of the target, checked against the Hub's checksum and
unpacked there; the session folder then takes its name in one step. What is not whole is only ever found in the hidden
folder, which the same command goes on from, and which vanishes when nothing is left in it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not listed in __all__
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)
from tqdm.auto import tqdm

from omnimouse.corpus.download_plan import (
    WORK_FOLDER,
    DownloadPlan,
    RemoteSession,
    plan_download,
    size_on_disk,
    size_text,
    tar_place,
)
from omnimouse.corpus.manifest import CORPUS_REPO
from omnimouse.corpus.tar_files import CHUNK, extract_tar
from omnimouse.hub.errors import explained
from omnimouse.hub.sources import hub_api
from omnimouse.recordings.formats.experanto.session_folder import looks_like_experanto
from omnimouse.support.files import hash_like
from omnimouse.support.progress import progress_bar

RETRIES = 5
"""How often a transfer is taken up again before it has brought anything new."""

RETRY_SECONDS = 1.0
"""Wait before the first of them; it doubles."""

TIMEOUT_SECONDS = 30.0
"""Silence of the server after which a connection is given up."""

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass(frozen=True)
class DownloadResult:
    """What came of a download."""

    repo: str  # the dataset
    commit: str  # the commit that all files come from
    downloaded: tuple[Path, ...]  # session folders that are new
    present: tuple[Path, ...]  # session folders that were there already
    failed: Mapping[str, str]  # name of a session -> what went wrong and what to do
    missing: tuple[str, ...]  # short keys of sessions of the collections that the dataset does not have
    n_bytes: int  # bytes that were transferred


class _Stopped(Exception):
    """Another session's error, or the user, ended the download."""


class _Unusable(ValueError):
    """A tar that was fetched whole and is of no use."""


def download_sessions(
    what: str | int | Iterable[str],
    folder: str | os.PathLike[str],
    *,
    count: int | None = None,
    repo: str = CORPUS_REPO,
    revision: str | None = None,
    workers: int = 4,
    keep_tars: bool = False,
    token: str | bool | None = None,
    progress: bool = True,
) -> DownloadResult:
    """Downloads sessions of the authors' dataset as session folders, one after the other whole.

    Interrupted, the same call goes on where it was. Session folders that are there already are left as they are.
    Nothing in the files is run, and nothing outside `folder` is written.

    Args:
        what: session keys (short or in full), globs of keys, names of collections (`omnimouse.corpus`), or a number
            for so many of all sessions.
        folder: where the session folders go, `folder/<key in full>`; it is made if needed.
        count: only the first so many of those, in the order of a collection or of the manifest.
        repo: dataset on the Hub with the tar files in `experiments/`.
        revision: branch, tag or commit; the main branch by default.
        workers: sessions that are fetched and unpacked at the same time.
        keep_tars: keep the tar files, beside the session folders; otherwise each goes when its folder is whole.
        token: access token, `True` for the stored one, `False` for none; the stored one if there is one by default.
        progress: show a bar on standard error.

    Returns:
        What came of it. A session that failed, e.g. for a damaged tar, is in `failed` and does not stop the others.

    Raises:
        ValueError: `what` names something that is not there, or `folder` is a file or a session folder.
        OSError: the Hub has no such dataset or revision, does not give it to this token (then the message says how to
            get access), or cannot be reached; the disk is full, or would be; another download goes on in the folder.
    """
    plan = plan_download(
        what, folder, count=count, repo=repo, revision=revision, workers=workers, keep_tars=keep_tars, token=token
    )
    return carry_out(plan, token=token, progress=progress)


def carry_out(plan: DownloadPlan, *, token: str | bool | None = None, progress: bool = True) -> DownloadResult:
    """Downloads what was planned; arguments, result and errors are those of `download_sessions`."""
    if plan.sessions and plan.needed_bytes > plan.free_bytes:
        raise OSError(
            f"{len(plan.sessions)} sessions need {size_text(plan.needed_bytes)} in {plan.folder}, and only "
            f"{size_text(plan.free_bytes)} are free. Free some space, ask for fewer sessions or use fewer workers."
        )
    failed, done = dict(plan.blocked), dict[str, Path]()
    with _work_folder(plan.folder) if plan.sessions else nullcontext(), progress_bar(
        total=plan.n_bytes, initial=plan.fetched_bytes, desc="downloading", unit="B", unit_scale=True,
        shown=progress and bool(plan.sessions),
    ) as bar:  # fmt: skip
        job = _Job(plan, hub_api(token), bar)
        _run(job, done, failed)
    return DownloadResult(
        repo=plan.repo,
        commit=plan.commit,
        downloaded=tuple(done[session.name] for session in plan.sessions if session.name in done),
        present=plan.present,
        failed=failed,
        missing=plan.missing,
        n_bytes=job.n_bytes,
    )


def _run(job: _Job, done: dict[str, Path], failed: dict[str, str]) -> None:
    """Downloads all sessions of a plan; an error that the others would meet as well ends it."""
    with ThreadPoolExecutor(job.plan.workers, thread_name_prefix="omnimouse-download") as pool:
        waiting: dict[Future[Path], str] = {pool.submit(job.bring, s): s.name for s in job.plan.sessions}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    name = waiting.pop(future)
                    try:
                        done[name] = future.result()
                    except (ValueError, OSError) as error:
                        if _concerns_all(error):
                            raise OSError(_ended(error, job.plan, len(done))) from error
                        failed[name] = str(error)
        finally:  # Ctrl-C too
            job.stop.set()
            for future in waiting:
                future.cancel()


def _ended(error: Exception, plan: DownloadPlan, n_done: int) -> str:
    """What to say when the whole download ends."""
    what = str(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        what = f"The disk with {plan.folder} is full ({error.strerror}). Free some space."
    return (
        f"{what} {n_done + len(plan.present)} of {len(plan.sessions) + len(plan.present)} sessions are whole in "
        f"{plan.folder}; the same command goes on from there."
    )


def _concerns_all(error: BaseException) -> bool:
    """Whether other sessions would fail too: the disk is full, or the Hub does not let us in or cannot be reached."""
    cause = error.__cause__
    if isinstance(cause, RepositoryNotFoundError):  # a closed gate is one, too
        return True
    if isinstance(cause, HfHubHTTPError):
        return getattr(cause.response, "status_code", None) in (401, 403)
    if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):
        return True
    return isinstance(error, OSError) and error.errno in _FULL


class _Job:
    """A download that is going on, in several threads."""

    def __init__(self, plan: DownloadPlan, api: HfApi, bar: tqdm) -> None:
        self.plan, self.api, self.bar = plan, api, bar
        self.stop = threading.Event()
        self.n_bytes = 0
        self._lock = threading.Lock()

    def check_stop(self) -> None:
        if self.stop.is_set():
            raise _Stopped

    def bring(self, session: RemoteSession) -> Path:
        """Makes the folder of one session."""
        self.check_stop()
        tar, target = tar_place(self.plan.folder, session), self.plan.folder / session.name
        partial = tar.parent / f"{session.name}.partial"
        _remove(partial)
        try:
            with explained(self.plan.repo, None, dataset=True):
                self._fetch(session, tar)
            extract_tar(tar, partial, check_stop=self.check_stop)
            found = _session_folder(partial)
            if found is None:
                raise ValueError("the archive is refused: it holds no session folder, or more than one")
        except ValueError as error:
            tar.unlink(missing_ok=True)
            hint = "" if isinstance(error, _Unusable) else " Please report it to the authors of the dataset."
            _remove(partial)
            raise ValueError(f"{error}. Nothing of it was kept.{hint}") from error
        except BaseException:
            if not size_on_disk(tar):
                tar.unlink(missing_ok=True)
            _remove(partial)
            raise
        try:
            if os.path.lexists(target):
                raise FileExistsError(f"{target} has appeared meanwhile and is left as it is.")
            os.rename(found, target)
        finally:
            _remove(partial)
        if self.plan.keep_tars:
            os.replace(tar, self.plan.folder / f"{session.name}.tar")
        else:
            tar.unlink()
        return target

    def _fetch(self, session: RemoteSession, tar: Path) -> None:
        """Brings a tar, or the rest of it, and compares its hash with the Hub's."""
        for stale in tar.parent.iterdir():  # of another commit
            if re.fullmatch(rf"{re.escape(session.name)}\.[0-9a-f]{{16}}\.tar", stale.name) and stale != tar:
                stale.unlink()
        if tar.is_symlink() or size_on_disk(tar) > session.n_bytes:
            tar.unlink()
        with tar.open("a+b") as file:
            failures = 0
            while (size := os.fstat(file.fileno()).st_size) < session.n_bytes:
                self.check_stop()
                try:
                    self._transfer(session, file, size)
                except Exception as error:
                    failures = 1 if os.fstat(file.fileno()).st_size > size else failures + 1
                    if not _passes(error) or failures > RETRIES:
                        raise
                    if self.stop.wait(RETRY_SECONDS * 2 ** (failures - 1)):
                        raise _Stopped from None
        found = hash_like(tar, session.checksum, check_stop=self.check_stop)
        if found != session.checksum:
            raise _Unusable(
                f"{session.path} arrived damaged: its hash is {found}, on the Hub {session.checksum}. Give the command "
                "again to fetch it anew"
            )

    def _transfer(self, session: RemoteSession, file: BinaryIO, start: int) -> None:
        """Appends what is missing of a tar to its file."""
        url = hf_hub_url(
            self.plan.repo, session.path, repo_type="dataset", revision=self.plan.commit, endpoint=self.api.endpoint
        )
        headers = build_hf_headers(
            token=self.api.token, library_name=self.api.library_name, library_version=self.api.library_version
        )
        headers |= {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response:
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            if start and response.status_code != 206:  # all of it comes again
                file.truncate(0)
                self._count(-start, transferred=False)
                start = 0
            try:
                for content in response.iter_bytes(CHUNK):
                    self.check_stop()
                    start += len(content)
                    if start > session.n_bytes:
                        raise _Unusable(f"{session.path} arrived larger than the Hub says it is")
                    file.write(content)
                    self._count(len(content))
            finally:
                file.flush()  # the next attempt begins where the file ends
        if start < session.n_bytes:
            raise ConnectionError(
                f"{session.path}: the connection ended after {start} of {session.n_bytes} bytes. Give the "
                "command again: it goes on from there."
            )

    def _count(self, n_bytes: int, *, transferred: bool = True) -> None:
        with self._lock:
            self.n_bytes += n_bytes if transferred else 0
            self.bar.update(n_bytes)


def _passes(error: Exception) -> bool:
    """Whether a transfer may succeed when it is tried again."""
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", 0)
        return status in (408, 429) or status >= 500
    # Which library the client speaks HTTP with depends on its version.
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, ConnectionError) or library in ("httpx", "httpx2", "httpcore", "httpcore2")


def _session_folder(folder: Path, depth: int = 3) -> Path | None:
    """The session folder in what was unpacked: that itself, or the only folder in it."""
    if looks_like_experanto(folder):
        return folder
    inner = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name != "__MACOSX"]
    return _session_folder(inner[0], depth - 1) if len(inner) == 1 and depth else None


def _remove(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


@contextmanager
def _work_folder(folder: Path) -> Iterator[None]:
    """Makes the hidden folder, for one download at a time, and removes it if nothing is left in it."""
    work = folder / WORK_FOLDER
    if work.is_symlink():
        raise ValueError(f"{work} is a link; remove it and give the command again.")
    made = not folder.exists()
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock", timeout=0)
    try:
        with lock:
            try:
                yield
            finally:
                if [entry.name for entry in work.iterdir()] == ["lock"]:
                    shutil.rmtree(work, ignore_errors=True)
                    if made and not any(folder.iterdir()):
                        folder.rmdir()
    except Timeout:
        raise OSError(f"Another download goes on in {folder}; wait for it, or choose another folder.") from None
