"""Folders of runs: one user at a time, checkpoints that are complete or absent, and a history of rows.

A checkpoint is a folder `checkpoint-<steps done>`, written under another name, flushed to disk and then renamed, so
whoever finds a folder of that name finds all of it, whenever the writer was killed. `state.json` in it holds checksums
of the other files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimouse.support.files import explained_writing, sync, write_text

STATE_FILE = "state.json"
CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{8})")
PARTIAL = ".partial-"


def complete_checkpoint(partial: Path, target: Path, document: dict[str, Any], *, written: Sequence[Path]) -> None:
    """Writes the state of a checkpoint whose other files are there, and puts its folder in place as a whole.

    Of what is `written`, files and folders in `partial`, it is not certain yet that they are on the disk.
    """
    (partial / STATE_FILE).write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    for path in (*written, partial / STATE_FILE, partial):
        sync(path)
    if target.exists():
        # Callers save a step once, so this is a damaged checkpoint that the run was not resumed from.
        shutil.rmtree(target)
    os.replace(partial, target)
    sync(target.parent)


def checkpoint_name(step: int) -> str:
    """Returns the name of the folder that holds the checkpoint of a step."""
    return f"checkpoint-{step:08d}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, the newest first; whether they are whole shows when they are read."""
    return sorted((path for path in _entries(folder) if CHECKPOINT_NAME.fullmatch(path.name)), reverse=True)


def remove_checkpoints(folder: Path, *, keep: Path | None = None) -> None:
    """Removes checkpoints and the remains of unfinished ones from `folder`, except `keep`."""
    for path in _entries(folder):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def _entries(folder: Path) -> list[Path]:
    """Returns checkpoints and unfinished ones in `folder`."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name) or path.name.startswith(PARTIAL)]


def nothing_whole(folder: Path, reasons: Sequence[str]) -> str:
    """What to do about a run of which no checkpoint can be read."""
    return (
        f"No checkpoint in {folder} is whole ({'; '.join(reasons)}). Copy the folder again from where it is whole; or "
        "pass resume=False (--no-resume) to discard it and begin anew, or choose another output."
    )


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes one JSON object per line, replacing the file only once the new one is complete."""
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def append_history(path: Path, row: Mapping[str, Any]) -> None:
    """Adds one row to a file of `write_history`."""
    with explained_writing(path), path.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(row)}\n")
