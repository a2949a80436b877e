"""Places for results: refused before time is spent on them, used by one at a time, and what was begun there before.

Nothing is ever written into a recording.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK_FILE = ".lock"


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


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Makes sure that no other run is going on in a folder: two would write over each other's checkpoints.

    The system frees the lock of a process that was killed. Where a file system has no locks, this warns and goes on.

    Raises:
        ValueError: another process, or another thread of this one, holds the folder.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"Another run is going on in {folder}. Wait until it has ended, stop it, or choose another output."
        ) from None
    except (OSError, NotImplementedError) as error:
        warnings.warn(
            f"{folder} cannot be locked ({error}). Make sure that no other run is going on in it.", stacklevel=3
        )
    try:
        yield
    finally:
        if lock.is_locked:
            # Before it is freed: whoever waits for the file finds that it has no name any more, and makes a new one.
            (folder / LOCK_FILE).unlink(missing_ok=True)
            lock.release()
        if is_new:
            with suppress(OSError):  # nothing came of it
                folder.rmdir()


def identity_differences(
    found: Mapping[str, Any], expected: Mapping[str, Any], there: str = "in the checkpoint"
) -> list[str]:
    """Returns one line for each entry that differs between a stored identity and that of now, inside mappings too."""
    # A round trip through JSON makes tuples lists, as they are in the stored one.
    return _differences(found, json.loads(json.dumps(expected)), "", there)


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any], within: str, place: str) -> list[str]:
    lines = []
    for name in sorted(found.keys() | expected.keys()):
        there, now = found.get(name), expected.get(name)
        if isinstance(there, dict) and isinstance(now, dict):
            lines += _differences(there, now, f"{within}{name}.", place)
        elif there != now:
            before, after = (text if len(text) <= 120 else f"{text[:117]}..." for text in map(json.dumps, (there, now)))
            lines.append(f"  {within}{name}: {before} {place}, {after} now")
    return lines
