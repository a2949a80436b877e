"""Opening a recording of whatever format lies in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from omnimouse.recordings.base import Finding, Recording
from omnimouse.recordings.experanto import SessionParts, looks_like_experanto
from omnimouse.recordings.experanto import load_parts as load_experanto
from omnimouse.recordings.files import Findings
from omnimouse.recordings.sensorium import load_sensorium, looks_like_sensorium
from omnimouse.recordings.zipped import unpacked_session

ARCHIVES = (".tar", ".gz", ".tgz", ".zip")


def find_session_folder(path: str | os.PathLike[str], findings: Findings) -> Path | None:
    """The absolute folder of a session; None and a fatal finding when `path` is not one.

    Of a zipped SENSORIUM session, that is its unpacked copy in the cache (`zipped`).
    """
    folder = Path(path).expanduser().absolute()
    if not folder.exists():
        findings.fatal(folder, "folder", expected="a session folder", found="nothing", do="Check the path.")
        return None
    if folder.suffix.lower() == ".zip" and folder.is_file():
        return unpacked_session(folder, findings)
    if not folder.is_dir():
        hint = "Unpack the archive" if folder.suffix in ARCHIVES else "Choose the session's folder"
        if folder.suffix.lower() == ".nwb":
            hint = f"Make a session folder of it with `omnimouse import {folder.name} FOLDER`"
        findings.fatal(
            folder, "folder", expected="a session folder", found="a file", do=f"{hint} and pass that folder."
        )
        return None
    if looks_like_session(folder):
        return folder
    inner = sorted(entry for entry in folder.iterdir() if entry.name != "__MACOSX" and looks_like_session(entry))
    if inner:
        found = f"{len(inner)} session folder{'s' if len(inner) > 1 else ''} one level deeper"
        do = f"Pass {str(inner[0])!r}{' or one of its neighbours' if len(inner) > 1 else ''}."
    else:
        names = sorted(entry.name for entry in folder.iterdir())
        found = f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" if names else "an empty folder"
        do = (
            "Pass a folder in the layout of experanto or SENSORIUM 2023; see the documentation of "
            "omnimouse.recordings.experanto and omnimouse.recordings.sensorium."
        )
    findings.fatal(
        folder,
        "folder",
        expected="meta.json, responses/, eye_tracker/, treadmill/ and screen/, or data/videos/, data/responses/, ...",
        found=found,
        do=do,
    )
    return None


def looks_like_session(path: Path) -> bool:
    """Whether a folder has any of the parts of a session folder of a known format."""
    return looks_like_experanto(path) or looks_like_sensorium(path)


def load_parts(folder: Path, findings: Findings) -> SessionParts:
    """Open the parts of a session folder of whatever format from their metadata; faults go to `findings`."""
    return (load_sensorium if looks_like_sensorium(folder) else load_experanto)(folder, findings)


def name_archive(findings: Iterable[Finding], folder: Path | None, path: Path) -> list[Finding]:
    """Findings about the unpacked copy of an archive as findings about the archive, which is what users know."""
    if folder is None or not path.expanduser().is_file():
        return list(findings)
    archive, copy = str(path.expanduser().absolute()), str(folder)
    return [
        replace(finding, path=archive + finding.path[len(copy) :]) if finding.path.startswith(copy) else finding
        for finding in findings
    ]


def open_recording(path: str | os.PathLike[str]) -> Recording:
    """Open a session folder: reads metadata only, maps arrays when they are first used, never writes.

    Args:
        path: a session folder in the layout of experanto or SENSORIUM 2023, which is detected; a SENSORIUM session may
            also be the `.zip` as distributed, which is unpacked into the cache on first use.

    Returns:
        The recording. `recording.findings` holds what was noticed, `recording.validate()` looks deeper.

    Raises:
        ValueError: the folder cannot be read correctly; the message lists every fatal finding.
    """
    findings = Findings()
    folder = find_session_folder(path, findings)
    recording = None if folder is None else load_parts(folder, findings).recording(findings)
    if recording is None:
        fatal = [finding for finding in name_archive(findings, folder, Path(path)) if finding.severity == "fatal"]
        lines = "\n".join(f"  {finding}" for finding in fatal[:20])
        more = f"\n  ... and {len(fatal) - 20} more" if len(fatal) > 20 else ""
        raise ValueError(f"{os.fspath(path)} cannot be opened as a recording:\n{lines}{more}")
    given = Path(path).expanduser().absolute()
    if not given.is_file():
        return recording
    return replace(recording, path=given, findings=tuple(name_archive(recording.findings, folder, given)))
