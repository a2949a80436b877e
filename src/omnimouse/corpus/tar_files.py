"""Unpacking tar files of strangers: only regular files and folders, only below one folder, all or nothing.

`tarfile` alone takes a damaged header in the middle for the end of the archive, follows links, and overwrites; here
every member is looked at before it is written, and nothing of an archive stays behind if anything is wrong with it.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

CHUNK = 1 << 20
"""Bytes that are copied at once."""

MOST_MEMBERS = 1_000_000
"""Files and folders of an archive; a session has some thousands."""

LONGEST_NAME = 1024
"""Characters of a member's name."""

_WINDOWS_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


LARGEST_HEADER = 1 << 20
"""Bytes of an extended header, e.g. a long name; it is read into memory at once."""


class _Member(tarfile.TarInfo):
    """A member whose header does not claim what cannot be."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if member.size < 0 or (member.size > LARGEST_HEADER and not plain):
            raise tarfile.ReadError(f"the header of {member.name!r} claims {member.size} bytes")
        return member


def extract_tar(tar: Path, folder: Path, *, check_stop: Callable[[], None] = lambda: None) -> None:
    """Unpacks a tar file, not compressed, into a new folder, which is not there afterwards if anything went wrong.

    Permissions, owners and times of the archive are ignored. Files cannot add up to more than the archive's own bytes:
    sparse files, which could, are refused.

    `check_stop` is called once for every member and megabyte, and raises to stop.

    Raises:
        ValueError: the archive is damaged, cut off, or holds what has no place in it: names that are absolute or have
            `..`, links, devices, sparse files, a name twice.
        OSError: the file cannot be read, or the folder not be written, e.g. because the disk is full.
    """
    folder.mkdir(parents=True)
    try:
        with tar.open("rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            end, n_files = 0, 0
            with _refused(), tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as archive:
                for member in _members(archive):
                    check_stop()
                    place = folder.joinpath(*_parts(member))
                    end = member.offset_data
                    if member.isdir():
                        _make_folder(place, member)
                        continue
                    end += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    if end > n_bytes:
                        raise ValueError(f"it is cut off in {member.name!r}")
                    _make_folder(place.parent, member)
                    _copy(archive, member, place, check_stop)
                    n_files += 1
                if not n_files:
                    raise ValueError("it holds no files")
            with _refused():
                _check_end(file, end, check_stop)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ValueError(f"the archive is refused: {error}") from error


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members one by one; none is remembered, and each has to lie behind the one before."""
    last = -1
    for _ in range(MOST_MEMBERS):
        member = archive.next()
        if member is None:
            return
        archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
        if member.offset <= last or member.offset_data <= member.offset or member.size < 0:
            raise ValueError(f"the header of {member.name!r} is damaged")
        last = member.offset
        yield member
    raise ValueError(f"it has more than {MOST_MEMBERS} members")


def _parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    """Parts of a member's name, once it is known that it may be written."""
    name = member.name
    if not (member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) and not member.issparse()):
        kind = "a link" if member.issym() or member.islnk() else "neither a plain file nor a folder"
        raise ValueError(f"{name!r} is {kind}; only plain files and folders are taken")
    parts = PurePosixPath(name).parts
    outside = name.startswith("/") or ".." in parts
    # A backslash or a colon would lead elsewhere on Windows.
    odd = any(char in name for char in "\\:\0") or any(_WINDOWS_NAMES.fullmatch(part) for part in parts)
    if outside or odd or len(name) > LONGEST_NAME or not (parts or member.isdir()):
        raise ValueError(f"{name[:200]!r} {'leads out of the folder' if outside else 'is no name for a file'}")
    return parts


def _make_folder(place: Path, member: tarfile.TarInfo) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{member.name!r} needs a folder where the archive has a file") from None


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path, check_stop: Callable[[], None]) -> None:
    source = archive.extractfile(member)
    assert source is not None
    try:
        file = place.open("xb")
    except (FileExistsError, IsADirectoryError):
        raise ValueError(f"{member.name!r} is in it twice") from None
    left = member.size
    with file:
        while left:
            check_stop()
            content = source.read(min(CHUNK, left))
            if not content:
                raise ValueError(f"it is cut off in {member.name!r}")
            file.write(content)
            left -= len(content)


def _check_end(file: BinaryIO, end: int, check_stop: Callable[[], None]) -> None:
    """An archive ends with zeros, at least a block of them; a header that cannot be read looks like the end too."""
    file.seek(end)
    n_bytes = 0
    while content := file.read(CHUNK):
        check_stop()
        if content.count(0) != len(content):
            raise ValueError("something that is no member follows its last one; it is damaged")
        n_bytes += len(content)
    if n_bytes < tarfile.BLOCKSIZE:
        raise ValueError("its end is missing; it is cut off")
