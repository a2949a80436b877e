"""File contents on disk, named by their SHA-256, and the reading of request bodies.

A blob is either a file under the root (pushed by a client) or a file somewhere else that is served in place. The hash
of the latter is worked out when something first asks for it, and remembered under the root, so that a server of a
corpus of many gigabytes starts at once and starts again without reading it twice.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20

# (Xet hash, size, where to write the content)
Fetch = Callable[[str, int, Path], None]


class Blob:
    """The content of one file: where its bytes are, how many, and what they hash to.

    `path` is None while the content lies in the Xet store only; the first who wants to read it has it fetched.
    """

    def __init__(
        self,
        size: int,
        *,
        store: BlobStore,
        path: Path | None = None,
        sha256: str | None = None,
        xet_hash: str | None = None,
        fetch: Fetch | None = None,
    ):
        self.size = size
        self.path = path
        self.xet_hash = xet_hash
        # Changes when the content does, and costs no reading: commit ids are made of it.
        self.identity = _stamp(path) if sha256 is None else sha256
        self._sha256 = sha256
        self._git_sha1: str | None = None
        self._store = store
        self._fetch = fetch
        self._lock = threading.RLock()

    @property
    def sha256(self) -> str:
        if self._sha256 is None:
            with self._lock:
                self._sha256 = self._store.hash_of(self, "sha256")
                self._store.remember(self)
        return self._sha256

    @property
    def git_sha1(self) -> str:
        """The id git gives to a file of this content."""
        if self._git_sha1 is None:
            with self._lock:
                self._git_sha1 = self._store.hash_of(self, "sha1")
        return self._git_sha1

    @property
    def pointer(self) -> bytes:
        """The text that git stores in place of an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    def open(self) -> BinaryIO:
        if self.path is None:
            with self._lock:
                if self.path is None:
                    self.path = self._store.keep(self, self._fetch)
        return self.path.open("rb")

    def read(self) -> bytes:
        with self.open() as file:
            return file.read()


class BlobStore:
    """All contents of a hub: `root/blobs/<sha256>`, plus references to files elsewhere."""

    def __init__(self, root: Path):
        self.root = root
        self._blobs = root / "blobs"
        self._partial = root / "partial"
        for folder in (self._blobs, self._partial):
            folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Blob] = {}
        self._hash_file = root / "hashes.jsonl"
        self._hashes: dict[tuple[str, str], str] = {}
        self._lock = threading.RLock()
        if self._hash_file.exists():
            for line in self._hash_file.read_text(encoding="utf-8").splitlines():
                identity, kind, digest = json.loads(line)
                self._hashes[identity, kind] = digest

    def add_bytes(self, data: bytes) -> Blob:
        sha256 = hashlib.sha256(data).hexdigest()
        if (blob := self.find(sha256)) is None:
            partial = self._partial / uuid.uuid4().hex
            partial.write_bytes(data)
            blob = self._settle(partial, sha256, len(data))
        return blob

    def add_file(self, path: Path) -> Blob:
        """Refer to a file where it is. It must not change while the hub serves it."""
        path = path.resolve(strict=True)
        return Blob(path.stat().st_size, path=path, store=self)

    def add_xet(self, sha256: str, size: int, *, xet_hash: str, fetch: Fetch) -> Blob:
        """Name content that a client put into the Xet store, and say how to get it from there."""
        return self.remember(Blob(size, store=self, sha256=sha256, xet_hash=xet_hash, fetch=fetch))

    def receive(self, chunks: Iterator[bytes], sha256: str) -> bool:
        """Store streamed content under its hash; False, and nothing stored, if it hashes to something else."""
        digest, size = hashlib.sha256(), 0
        partial = self._partial / uuid.uuid4().hex
        try:
            with partial.open("wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                return False
            self._settle(partial, sha256, size)
            return True
        finally:
            partial.unlink(missing_ok=True)

    def find(self, sha256: str) -> Blob | None:
        """The content with this hash, if it is known; files served in place are known once they were hashed."""
        with self._lock:
            if sha256 in self._known:
                return self._known[sha256]
        path = self._blobs / sha256
        if path.exists():
            return self.remember(Blob(path.stat().st_size, path=path, sha256=sha256, store=self))
        return None

    def remember(self, blob: Blob) -> Blob:
        with self._lock:
            return self._known.setdefault(blob.sha256, blob)

    def hash_of(self, blob: Blob, kind: str) -> str:
        """SHA-256, or the SHA-1 that git takes, of a content; read once per state of the file."""
        if (blob.identity, kind) not in self._hashes:
            digest = hashlib.new(kind, b"blob %d\0" % blob.size if kind == "sha1" else b"")
            with blob.open() as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
            with self._lock, self._hash_file.open("a", encoding="utf-8") as lines:
                self._hashes[blob.identity, kind] = digest.hexdigest()
                lines.write(json.dumps([blob.identity, kind, digest.hexdigest()]) + "\n")
        return self._hashes[blob.identity, kind]

    def keep(self, blob: Blob, fetch: Fetch) -> Path:
        """Have content fetched into a file of this store."""
        partial, path = self._partial / uuid.uuid4().hex, self._blobs / blob.sha256
        try:
            fetch(blob.xet_hash, blob.size, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _settle(self, partial: Path, sha256: str, size: int) -> Blob:
        path = self._blobs / sha256
        partial.replace(path)
        return self.remember(Blob(size, path=path, sha256=sha256, store=self))


class Body:
    """The body of one request, with or without a length given beforehand. It is read once, in pieces."""

    def __init__(self, stream: BinaryIO, headers):
        self._stream = stream
        self._chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else int(headers.get("Content-Length") or 0)
        self._ended = not self._chunked and self._left == 0
        self.received = 0

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces()

    def pieces(self, limit: int | None = None) -> Iterator[bytes]:
        """What arrives, as it arrives; with a limit, up to that byte and not one more."""
        while not self._ended and (limit is None or self.received < limit):
            if self._left == 0:
                self._begin_chunk()
                continue
            wanted = min(self._left, CHUNK, CHUNK if limit is None else limit - self.received)
            data = self._stream.read1(wanted)
            if not data:
                self._ended = True
                raise ConnectionError(f"the client closed the connection with {self._left} bytes of its body unsent")
            self._left -= len(data)
            self.received += len(data)
            if self._left == 0:
                self._end_piece()
            yield data

    def read(self) -> bytes:
        return b"".join(self)

    def lines(self) -> Iterator[bytes]:
        """Lines of the body as they arrive."""
        rest = b""
        for data in self:
            *whole, rest = (rest + data).split(b"\n")
            yield from filter(None, whole)
        if rest:
            yield rest

    def drain(self) -> None:
        for _ in self:
            pass

    def _begin_chunk(self) -> None:
        self._left = int(self._stream.readline().split(b";")[0].strip() or b"0", 16)
        if self._left == 0:
            while self._stream.readline().strip():
                pass
            self._ended = True

    def _end_piece(self) -> None:
        if self._chunked:
            self._stream.readline()
        else:
            self._ended = True


def _stamp(path: Path) -> str:
    state = path.stat()
    return f"{path}:{state.st_size}:{state.st_mtime_ns}"
