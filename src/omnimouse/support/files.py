"""Writing files whole or not at all, hashing them, and reading JSON with errors that say what is wrong.

Needs no library.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCK = 1 << 20
"""Bytes that are read at once."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a disk says that is full, over its quota or broken."""


@contextmanager
def explained_writing(path: Path, *, kept: str = "What was there before is still there, whole.") -> Iterator[None]:
    """Says which file could not be written to a full disk, and what was kept.

    Raises:
        OSError: the disk is full, over its quota or broken; with the `errno` it gave.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM or getattr(error, "is_explained", False):
            raise
        explained = OSError(
            f"{path} could not be written: {os.strerror(error.errno)}. {kept} "
            "Make room on the disk (or choose another place) and repeat the call."
        )
        explained.errno = error.errno
        explained.is_explained = True  # type: ignore[attr-defined]
        raise explained from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that replaces it when the block ends without an error.

    The file is on the disk before it gets its name: a machine that fails leaves the old content or the new one.

    Raises:
        OSError: see `explained_writing`.
    """
    with explained_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            make_readable(temporary)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flushes a file or folder to disk; folders cannot be flushed on every system, files can."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some shared file systems refuse
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flushes all files and folders below a folder to disk, and itself; several at a time, which disks do at once."""
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(sync, [path for path in folder.rglob("*") if not path.is_symlink()]):
            pass
    sync(folder)


def expect_no_folder(place: Path) -> None:
    """Raises ValueError where something lies at a place that is not an empty folder."""
    if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
        raise ValueError(f"{place}: exists and is not an empty folder; remove it or choose another folder.")


@contextmanager
def staged_folders(*places: Path) -> Iterator[tuple[Path, ...]]:
    """Yields a folder for each place and one more for scratch; they take their names when all went well, or vanish.

    The first place is renamed last: once it is there, the others are too.

    Raises:
        ValueError: something lies at a place that is not an empty folder, or appeared there meanwhile.
    """
    for place in places:
        expect_no_folder(place)
    parent = places[0].parent
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{places[0].name}.", suffix=".partial", dir=parent))
    try:
        parts = tuple(work / str(number) for number in range(len(places) + 1))
        for part in parts:
            part.mkdir()
        with explained_writing(places[0]):
            yield parts
            for part, _ in zip(parts, places, strict=False):
                sync_tree(part)
        for part, place in reversed(list(zip(parts, places, strict=False))):
            try:
                if place.exists():
                    place.rmdir()
                os.replace(part, place)
            except OSError as error:
                raise ValueError(f"{place}: appeared while it was written ({error}); choose another folder.") from None
            sync(place.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make_readable(path: Path) -> None:
    """Gives a file the permissions of any new file; temporary and safetensors files are private to their owner."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, atomically; names of files that are no text are escaped in it."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))  # line endings stay as they are


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys, atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def hash_file(path: Path, digest: Any = None, *, check_stop: Callable[[], None] = lambda: None) -> str:
    """Feeds a file to a hash of `hashlib`, in pieces, and returns that in hexadecimal; a new SHA-256 by default.

    `check_stop` is called once for every megabyte, and raises to stop.
    """
    digest = hashlib.sha256() if digest is None else digest
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            check_stop()
            digest.update(block)
    return digest.hexdigest()


def hash_like(path: Path, checksum: str, *, check_stop: Callable[[], None] = lambda: None) -> str:
    """The hash of a file, of the kind that a checksum of the Hub is: SHA-256, or of 40 digits git's hash of a blob."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False) if len(checksum) == 40 else None
    return hash_file(path, digest, check_stop=check_stop)


def plain(value: Any) -> Any:
    """A JSON-safe copy of a value: arrays and tensors become lists, NaN and infinity None, what JSON lacks its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays, tensors and numpy's numbers
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def read_json(path: Path, what: str) -> Any:
    """Reads JSON, or raises `ValueError` saying what the file should have been."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; it should hold {what}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} should hold {what} as JSON, but cannot be read: {error}.") from None


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object, or raises `ValueError` saying what the file should have been."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold {what}, a JSON object, but holds a {type(content).__name__}.")
    return content
