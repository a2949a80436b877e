"""What the Xet client left in a local content store.

`hf_xet` accepts `local:///folder` as the address of its content store and then needs no server at all: it writes the
chunks and an index into that folder and reads them back from there. The index ("shards") says which Xet hash belongs
to which SHA-256, which is all that the Hub has to know. The layout was read off hf_xet 1.8.0, undocumented.

`hf_xet` locks the folder, so only one process may use it at a time: run clients of a hub in mode "xet" one by one, and
take "lfs" for clients side by side.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

_HEADER = 48
_RECORD = 48
_END_OF_FILES = b"\xff" * 32
_HAS_VERIFICATION = 0x80000000
_HAS_METADATA = 0x40000000

_FETCH = """
import sys, hf_xet
address, xet_hash, size, path = sys.argv[1:]
session = hf_xet.XetSession()
with session.new_file_download_group(endpoint=address, token="loopback", token_expiry_unix_secs=1 << 40) as group:
    group.start_download_file(hf_xet.XetFileInfo(xet_hash, int(size)), path)
"""


class XetStore:
    """The folder that serves as content store, and the index of the files in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._hashes: dict[str, str] = {}
        self._read_shards: set[Path] = set()

    @property
    def address(self) -> str:
        return f"local://{self.folder.resolve()}"

    def find(self, sha256: str) -> str | None:
        """The Xet hash of the content with this SHA-256, or None if no client uploaded it."""
        if sha256 not in self._hashes:
            for shard in set(self.folder.rglob("shards/*.mdb")) - self._read_shards:
                self._hashes.update(_files_of_shard(shard.read_bytes()))
                # Shards are named by their content, so one that was read has nothing new to say.
                self._read_shards.add(shard)
        return self._hashes.get(sha256)

    def fetch(self, xet_hash: str, size: int, path: Path) -> None:
        """Write a content into a file, as the real Hub does for clients without Xet.

        In a process of its own, since only there `hf_xet` can be told to keep its logs out of the home folder.
        """
        done = subprocess.run(
            [sys.executable, "-c", _FETCH, self.address, xet_hash, str(size), str(path.resolve())],
            env={**os.environ, "HF_HOME": str(self.folder / "home")},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise OSError(f"hf_xet could not read {xet_hash} back:\n{done.stderr}")


def _files_of_shard(data: bytes) -> dict[str, str]:
    """{sha256: Xet hash} of the files that a shard describes."""
    files, at = {}, _HEADER
    while (file_hash := data[at : at + 32]) != _END_OF_FILES:
        flags, n_segments = struct.unpack_from("<II", data, at + 32)
        records_per_segment = 2 if flags & _HAS_VERIFICATION else 1
        at += _RECORD * (1 + n_segments * records_per_segment)
        if flags & _HAS_METADATA:
            files[_hexadecimal(data[at : at + 32])] = _hexadecimal(file_hash)
            at += _RECORD
    return files


def _hexadecimal(raw: bytes) -> str:
    """Hashes are stored as four little-endian words, and written out word by word."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))
