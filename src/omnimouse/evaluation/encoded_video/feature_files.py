"""Video features on disk: a file per window that is checked when read, in a folder of bounded size.

They lie in `video-features-1/` of the folder that `OMNIMOUSE_CACHE` names, or of `omnimouse/` beside the Hub cache,
take as many GB as `OMNIMOUSE_VIDEO_CACHE_GB` says (20 by default), and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from omnimouse.hub.sources import cache_folder

FOLDER = "video-features-1"
LIMIT_VARIABLE = "OMNIMOUSE_VIDEO_CACHE_GB"
DEFAULT_GB = 20.0

RESERVE = 2**30
"""Bytes that are left free on the disk."""

_DIGEST = 64
"""Characters of the SHA-256 that a file begins with: that of its name and of the safetensors bytes behind it."""


class FeatureFiles:
    """Tensors by name on disk, of which those that were used longest ago make room for new ones.

    Several processes may use one folder. A file that is damaged, or was renamed, counts as absent; where nothing can be
    written, that is said once, and everything is absent.

    Args:
        folder: where they lie; default: in the cache of this package.
        limit: bytes; default: what the environment says.

    Raises:
        ValueError: the environment's limit is no number of GB.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = cache_folder() / FOLDER if folder is None else folder
        self.limit = _limit() if limit is None else limit
        self._writes = True
        self._bytes = self._since = 0  # found when last looked and written since; written since
        self._make_room()

    def read(self, name: str) -> Tensor | None:
        """The tensor of that name, None where there is none that is whole."""
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if _digest(name, content[_DIGEST:]) != content[:_DIGEST]:
            return None
        with suppress(OSError):
            os.utime(path)  # used last now
        return load(content[_DIGEST:])["features"]

    def write(self, name: str, features: Tensor) -> None:
        """Stores a tensor, whole or not at all."""
        if not self._writes:
            return
        content, path = save({"features": features.detach().cpu().contiguous()}), self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
            if free < RESERVE + len(content):
                raise OSError(f"only {free / 1e9:.1f} GB are free on its disk")
            descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_digest(name, content))
                    file.write(content)
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            self._writes = False
            warnings.warn(
                f"Video features are not stored in {self.folder} any more ({error}); they are computed instead. Make "
                "room there, or set OMNIMOUSE_CACHE to another folder.",
                stacklevel=2,
            )
            return
        written = _DIGEST + len(content)
        self._bytes += written
        self._since += written
        if self._bytes > self.limit or self._since > self.limit / 10:  # other processes write there too
            self._make_room()

    def _entries(self) -> list[tuple[float, int, Path]]:
        """When it was used last, bytes and path of every file, also of what processes that were killed left behind."""
        found = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):  # another process may have removed it
                    status = path.stat()
                    found.append((status.st_mtime, status.st_size, path))
        return found

    def _make_room(self) -> None:
        """Looks how much there is, and where it is too much removes what was used longest ago."""
        entries = sorted(self._entries())
        self._bytes, self._since = sum(size for _, size, _ in entries), 0
        most = self.limit if self._bytes <= self.limit else 0.9 * self.limit
        for _, size, path in entries:
            if self._bytes <= most:
                return
            with suppress(OSError):
                path.unlink(missing_ok=True)
                self._bytes -= size


def _digest(name: str, content: bytes) -> bytes:
    """Of the name too: features of other frames, under a name that is not theirs, are as wrong as damaged ones."""
    digest = hashlib.sha256(name.encode())
    digest.update(content)
    return digest.hexdigest().encode()


def _limit() -> int:
    given = os.environ.get(LIMIT_VARIABLE, "") or str(DEFAULT_GB)
    try:
        limit = float(given)
    except ValueError:
        limit = -1.0
    if not 0 < limit < float("inf"):
        raise ValueError(f"{LIMIT_VARIABLE} is {given!r}; expected the GB that video features may take on disk, as 20.")
    return int(limit * 1e9)
