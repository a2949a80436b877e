"""Finding the session folder behind a path, an archive or the name of a repo, and opening its parts by its format."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from omnimouse.hub.sources import HubOptions
from omnimouse.recordings.data.findings import Finding, Findings
from omnimouse.recordings.data.recording_data import SessionParts
from omnimouse.recordings.formats.dataset_form.dataset_repo import fetch_metadata, fetch_session, names_repo
from omnimouse.recordings.formats.dataset_form.dataset_tables import (
    load_dataset_form,
    looks_like_dataset,
    sessions_in,
)
from omnimouse.recordings.formats.experanto.session_folder import load_experanto, looks_like_experanto
from omnimouse.recordings.formats.sensorium.folder import load_sensorium, looks_like_sensorium
from omnimouse.recordings.formats.zipped import unpacked_session

ARCHIVES = (".tar", ".gz", ".tgz", ".zip")

ARRAY_FILES = (".npy", ".npz", ".h5", ".hdf5", ".mat", ".csv")
OF_ARRAYS = "Make a recording of arrays with recording_from_arrays, save_recording it in a folder"


def find_session_folder(
    path: str | os.PathLike[str], findings: Findings, session: str | None = None, options: HubOptions | None = None
) -> Path | None:
    """The absolute folder of a session; None and a fatal finding when `path` is not one.

    Of a zipped SENSORIUM session, that is its unpacked copy in the cache (`zipped`); of several recordings in the
    `datasets` form, or of a Hub repo with them, that of `session`.
    """
    if names_repo(path):
        repo, options = os.fspath(path), options or HubOptions()
        snapshot = fetch_metadata(repo, options, findings)
        chosen = None if snapshot is None else choose_session(Path(repo), sessions_in(snapshot), session, findings)
        return None if snapshot is None or chosen is None else fetch_session(repo, snapshot, chosen.name, options)
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
        elif folder.suffix.lower() in ARRAY_FILES:
            hint = f"{OF_ARRAYS},"
        findings.fatal(
            folder, "folder", expected="a session folder", found="a file", do=f"{hint} and pass that folder."
        )
        return None
    if looks_like_session(folder):
        return folder
    stored = sessions_in(folder)
    if stored:
        return choose_session(folder, stored, session, findings)
    inner = sorted(entry for entry in folder.iterdir() if entry.name != "__MACOSX" and looks_like_session(entry))
    if inner:
        found = f"{len(inner)} session folder{'s' if len(inner) > 1 else ''} one level deeper"
        do = f"Pass {str(inner[0])!r}{' or one of its neighbours' if len(inner) > 1 else ''}."
    else:
        names = sorted(entry.name for entry in folder.iterdir())
        found = f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" if names else "an empty folder"
        do = (
            "Pass a folder in the layout of experanto or SENSORIUM, or one that `recording.to_dataset` wrote; see the "
            "documentation of omnimouse.recordings.formats.experanto, .sensorium and .dataset_form."
        )
        if any(Path(name).suffix.lower() in ARRAY_FILES for name in names):
            do += f" {OF_ARRAYS}, and pass that folder."
    findings.fatal(
        folder,
        "folder",
        expected="meta.json, responses/, eye_tracker/, treadmill/ and screen/, or data/responses/, data/videos/, ...",
        found=found,
        do=do,
    )
    return None


def choose_session(folder: Path, stored: list[str], session: str | None, findings: Findings) -> Path | None:
    """The folder of a session among several in the `datasets` form; None and a fatal finding when it is unclear."""
    if session is None and len(stored) == 1:
        return folder / stored[0]
    if session in stored:
        return folder / str(session)
    listed = ", ".join(stored[:20]) + (f" and {len(stored) - 20} more" if len(stored) > 20 else "")
    findings.fatal(
        folder,
        "session",
        expected="the key of one of its recordings",
        found=f"none; there are {len(stored)}" if session is None else repr(session),
        do=f"Pass session=..., or the session's own folder, of: {listed}.",
    )
    return None


def looks_like_session(path: Path) -> bool:
    """Whether a folder has any of the parts of a session folder of a known format."""
    return looks_like_dataset(path) or looks_like_experanto(path) or looks_like_sensorium(path)


def open_parts(folder: Path, findings: Findings) -> SessionParts:
    """Open the parts of a session folder of whatever format from their metadata; faults go to `findings`."""
    if looks_like_dataset(folder):
        return load_dataset_form(folder, findings)
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
