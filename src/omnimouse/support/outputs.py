"""Refusing a place for results before time is spent on them, and any place inside a recording."""

from __future__ import annotations

import os
from pathlib import Path


def check_output(path: str | os.PathLike[str], recording: Path, *, folder: bool = False) -> Path:
    """Check that results can be written to `path`; nothing is created.

    It is a file, or with `folder` a folder to write into, and may exist or not; `recording` is the folder of what the
    results are about. Returns the path.

    Raises:
        ValueError: `path` lies in the recording, is a folder where a file is expected or the other way round, or lies
            where this process may not write.
    """
    path = Path(path)
    if path.resolve().is_relative_to(recording.resolve()):
        raise ValueError(
            f"output {path} lies in the recording {recording}, which is never written to; choose a place outside it"
        )
    if path.exists() and path.is_dir() != folder:
        found, expected = ("a folder", "the name of a file") if path.is_dir() else ("a file", "a folder")
        raise ValueError(f"output {path} is {found}, expected {expected}; choose another output")
    # os.path.exists, because Path.exists raises where a folder above may not be looked into.
    existing = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.exists(place))
    holder = existing if existing.is_dir() else existing.parent
    if not existing.is_dir() and existing != path.absolute():
        raise ValueError(f"output {path} cannot be written: {existing} is a file, expected a folder; choose another")
    if not os.access(holder, os.W_OK | os.X_OK):
        raise ValueError(f"output {path} cannot be written: no permission to write in {holder}; choose another output")
    return path
