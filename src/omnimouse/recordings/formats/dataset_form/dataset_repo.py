"""Recordings in the `datasets` form on the Hub: fetching one session of a repo, and pushing one beside others.

A repo has the layout of a folder that `Recording.to_dataset` writes into, so that a session's files are mapped where
the Hub cache keeps them.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from omnimouse.hub.sources import HubOptions, fetch_files, quiet
from omnimouse.hub.uploading import Target, UploadOptions
from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.recording_data import RecordingData
from omnimouse.recordings.formats.dataset_form.dataset_card import CARD, card_text, content_of
from omnimouse.recordings.formats.dataset_form.dataset_tables import METADATA, looks_like_dataset, sessions_in
from omnimouse.recordings.formats.dataset_form.dataset_writer import to_dataset
from omnimouse.support.files import write_text

REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def names_repo(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the name of a Hub repo: `user/name`, where neither that nor a folder `user` is there."""
    text = Path(path).as_posix()
    return bool(REPO.fullmatch(text)) and not Path(text).exists() and not Path(text).parent.exists()


def fetch_metadata(repo: str, options: HubOptions, findings: Findings) -> Path | None:
    """Brings what tells the sessions of a dataset repo into the Hub cache; None and a fatal finding without any.

    Raises:
        OSError: the Hub has no such repo or revision, does not give it to this token, or cannot be reached.
    """
    try:
        with quiet():
            snapshot = fetch_files(repo, options, [f"*/{METADATA}"], dataset=True)
    except OSError as error:
        raise OSError(f"There is no folder {repo!r}, and as a dataset on the Hub: {error}") from error
    if sessions_in(snapshot):
        return snapshot
    findings.fatal(
        Path(repo),
        "dataset",
        expected=f"recordings in the `datasets` form (<session>/{METADATA} and tables)",
        found="none",
        do="Recordings get there by `recording.push_to_hub`; the authors' corpus, by `omnimouse download`.",
    )
    return None


def fetch_session(repo: str, snapshot: Path, session: str, options: HubOptions) -> Path:
    """Brings one session of a dataset repo into the Hub cache, of the commit whose metadata lie in `snapshot`."""
    # A revision is resolved once: from here on, it is this commit.
    fetch_files(repo, replace(options, revision=snapshot.name), [f"{session}/*"], dataset=True)
    return snapshot / session


def push_recording(recording: RecordingData, repo: str, options: dict[str, Any]) -> CommitInfo:
    """Push a recording to a dataset repo; see `Recording.push_to_hub`."""

    known = UploadOptions.__dataclass_fields__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"unknown arguments {', '.join(unknown)}; known ones are {', '.join(known)}")
    upload = UploadOptions(**{name: value for name, value in options.items() if value is not None})
    key = recording.session_key
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        source = recording.path
        if not looks_like_dataset(source):
            # Before a repo is made for nothing.
            to_dataset(recording, work / "written")
            source = work / "written" / key
        target = Target.open(repo, upload, repo_type="dataset")
        card = work / "card"
        target.seed(card, [CARD])
        old = (card / CARD).read_text(encoding="utf-8") if (card / CARD).is_file() else None
        ours = {path.name: path for path in sorted(source.iterdir()) if path.is_file()}
        sessions = _sessions_of(target.files)
        gone = [f"{key}/{file}" for file in sessions.get(key, []) if file not in ours]
        text = card_text({**sessions, key: list(ours)}, {key: content_of(source)}, place=target.repo, old=old)
        write_text(card / CARD, text)
        return target.commit(
            card, gone, f"session {key}", others={f"{key}/{file}": path.resolve() for file, path in ours.items()}
        )


def _sessions_of(files: Iterable[str]) -> dict[str, list[str]]:
    """File names of every recording by its session, of the names of all files of a repo."""
    folders: dict[str, list[str]] = {}
    for name in files:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append(file)
    return {folder: found for folder, found in folders.items() if METADATA in found and "/" not in folder}
