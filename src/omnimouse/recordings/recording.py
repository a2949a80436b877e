"""Recordings as users meet them: opening one of whatever format, checking it, saving and sharing it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import CommitInfo

from omnimouse.hub.sources import HubOptions
from omnimouse.recordings.checks.check import check_recording
from omnimouse.recordings.data.findings import Finding, Findings
from omnimouse.recordings.data.recording_data import RecordingData
from omnimouse.recordings.formats.dataset_form.dataset_repo import push_recording
from omnimouse.recordings.formats.dataset_form.dataset_writer import to_dataset
from omnimouse.recordings.formats.detecting import find_session_folder, name_archive, open_parts
from omnimouse.recordings.formats.experanto.session_writer import write_session_folder


@dataclass(repr=False)
class Recording(RecordingData):
    __doc__ = RecordingData.__doc__

    def validate(self) -> list[Finding]:
        """Everything that is wrong or noteworthy, found by reading the arrays in pieces; never raises for bad data."""
        return check_recording(self.path)

    def to_dataset(self, folder: str | os.PathLike[str]) -> Dataset:
        """Write the recording into a folder in a form of the library `datasets`, for mapping and sharing.

        It appears as ``<folder>/<session_key>/``, whole or not at all, beside others that lie there, and is written in
        pieces of bounded size. `open_recording` opens it; windows cut from it are those of this recording, bit for bit,
        under every profile. Findings of opening are not carried over.

        Args:
            folder: where recordings in this form are collected; it may exist or not.

        Returns:
            The rows of the responses as a memory-mapped `datasets.Dataset`: one per sample, with trial, tier, video
            frame and behaviour beside. `omnimouse.recordings.formats.dataset_form` describes all tables.

        Raises:
            ValueError: the session lies there already, its key cannot name a folder, stimuli differ in size or are
                incomplete, or a type that Arrow lacks.
        """
        return to_dataset(self, folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Push the recording to a dataset repo on the Hub, beside those that the repo holds, in one commit.

        A recording that is not in the `datasets` form is first written in it, in a temporary folder. Others open it by
        ``open_recording(repo_id, session=session_key)``, or with `datasets.load_dataset(repo_id, session_key)`.

        Args:
            repo_id: The repo, `"user/name"` or `"name"`; created if it does not exist.
            **options: `private`, `token`, `revision` (a branch, made if it does not exist), `create_pr`,
                `commit_message`, `commit_description`.

        Returns:
            The commit; as a string, its address.

        Raises:
            ValueError: As `to_dataset` says; or an unknown option.
            OSError: The Hub refuses, cannot be reached, or the repo was changed meanwhile.
        """
        return push_recording(self, repo_id, options)


def open_recording(path: str | os.PathLike[str], session: str | None = None, **hub: Any) -> Recording:
    """Open a session folder: reads metadata only, maps arrays when they are first used, never writes.

    Args:
        path: a session folder in the layout of experanto or SENSORIUM (2023 or 2022), which is detected; a SENSORIUM
            session may also be the `.zip` as distributed, which is unpacked into the cache on first use. Or a folder
            that `Recording.to_dataset` wrote into, or the name of a Hub repo, `"user/name"`, that
            `Recording.push_to_hub` pushed to: of a repo, the files of one session are brought into the Hub cache, and
            mapped there.
        session: key of the session, where a folder or repo holds several; of any, a check that it is this one.
        **hub: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`, as for models.

    Returns:
        The recording. `recording.findings` holds what was noticed, `recording.validate()` looks deeper.

    Raises:
        ValueError: the folder cannot be read correctly, the message lists every fatal finding; or no `session` is named
            where there are several.
        OSError: the Hub has no such repo or revision, does not give it to this token, or cannot be reached.
    """
    findings = Findings()
    options = _hub_options(hub)
    folder = find_session_folder(path, findings, session, options)
    data = None if folder is None else open_parts(folder, findings).recording(findings)
    if data is None:
        fatal = [finding for finding in name_archive(findings, folder, Path(path)) if finding.severity == "fatal"]
        lines = "\n".join(f"  {finding}" for finding in fatal[:20])
        more = f"\n  ... and {len(fatal) - 20} more" if len(fatal) > 20 else ""
        raise ValueError(f"{os.fspath(path)} cannot be opened as a recording:\n{lines}{more}")
    recording = Recording(**vars(data))
    if session is not None and session != recording.session_key:
        raise ValueError(f"{os.fspath(path)} is the recording of session {recording.session_key!r}, not of {session!r}")
    given = Path(path).expanduser().absolute()
    if not given.is_file():
        return recording
    return replace(recording, path=given, findings=tuple(name_archive(recording.findings, folder, given)))


def save_recording(
    recording: Recording,
    folder: str | os.PathLike[str],
    *,
    frame_size: tuple[int, int] | None = None,
    progress: bool = False,
    notes: Sequence[Finding] = (),
) -> Recording:
    """Saves a recording as an experanto session folder, from which `open_recording` cuts the same windows.

    Arrays keep their type and clock. Statistics are stored as the recording has them, computed from the train tier
    where it has none. Devices that were not recorded, the names of behaviour channels and withheld tiers are written
    down; time in no trial becomes trials of the tier "unused", which no profile takes. The folder appears when it is
    whole, or not at all.

    Args:
        recording: an open recording, whatever it was made of.
        folder: where to save it; must not exist, or be empty.
        frame_size: height and width of the frames; default: the model's 36 x 64, or those of the stored stimuli where
            the recording does not resize them.
        progress: whether to show a progress bar.
        notes: findings about the source that the folder cannot show any more; they become findings of the folder.

    Returns:
        The saved recording, opened.

    Raises:
        ValueError: something lies there already, or the recording has what the format cannot hold.
    """
    target = Path(os.path.abspath(Path(folder).expanduser()))
    write_session_folder(recording, target, frame_size=frame_size, progress=progress, notes=notes)
    return open_recording(target)


def _hub_options(given: dict[str, Any]) -> HubOptions:
    """Keyword arguments for the Hub; those that a recording has no use for are refused."""
    known = ("revision", "token", "cache_dir", "local_files_only", "force_download")
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"unknown arguments {', '.join(unknown)}; those for a Hub repo are {', '.join(known)}")
    return HubOptions.take(dict(given))
