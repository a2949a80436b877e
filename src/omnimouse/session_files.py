"""Stored forms of sessions: files of a model folder, and stand-alone adapter folders."""

from __future__ import annotations

import fnmatch
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .sessions import TENSORS, SessionSpec, SessionTables

SESSIONS_FOLDER = "sessions"
INDEX_FILE = "index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_TYPE = "OMNIMOUSE_SESSION"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that replaces it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        make_readable(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_readable(path: Path) -> None:
    """Gives a file the permissions of any new file; temporary and safetensors files are private to their owner."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON with sorted keys, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Reads JSON, or raises `ValueError` saying what the file should have been."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; it should hold {what}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} should hold {what} as JSON, but cannot be read: {error}.") from None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a safetensors file, atomically."""
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a session's tensors, or raises `ValueError` saying what is wrong with the file."""
    try:
        with safe_open(path, framework="pt") as file:
            missing = [name for name in TENSORS if name not in file.keys()]  # noqa: SIM118 (not a mapping)
            if missing:
                raise ValueError(f"{path} lacks the tensors {', '.join(missing)}; is it a session adapter?")
            return {name: file.get_tensor(name) for name in TENSORS}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}). Copy or download it again.") from None


def save_sessions(folder: Path, sessions: SessionTables, keep: dict[str, Any]) -> None:
    """Writes `sessions/<key>.safetensors` for every session, then `sessions/index.json`.

    Args:
        folder: The model folder.
        sessions: Sessions to write.
        keep: Index entries of other sessions in the folder that stay listed.
    """
    index = dict(keep)
    for key, spec in sessions.specs.items():
        file = f"{SESSIONS_FOLDER}/{key}.safetensors"
        write_tensors(folder / file, sessions.state(key))
        index[key] = {"animal": spec.animal_id, "neurons": spec.n_neurons, "file": file}
        if spec.unit_ids_hash:
            index[key]["unit_ids_sha256"] = spec.unit_ids_hash
    if index:
        write_json(folder / SESSIONS_FOLDER / INDEX_FILE, index)


def read_index(folder: Path) -> dict[str, Any]:
    """Reads `sessions/index.json` of a model folder; empty when there is none.

    Raises:
        ValueError: The index is no mapping of keys to entries with `animal`, `neurons` and `file`.
    """
    path = folder / SESSIONS_FOLDER / INDEX_FILE
    if not path.exists():
        return {}
    index = read_json(path, "the list of sessions")
    for key, entry in index.items() if isinstance(index, dict) else [("?", None)]:
        if not isinstance(entry, dict) or not {"animal", "neurons", "file"} <= set(entry):
            raise ValueError(f"{path}: the entry of session {key!r} should have animal, neurons and file.")
        if Path(entry["file"]).is_absolute() or ".." in Path(entry["file"]).parts:
            raise ValueError(f"{path}: session {key!r} names a file outside the model folder, {entry['file']!r}.")
    return index


def select_sessions(index: Iterable[str], wanted: str | Sequence[str] | None, where: str) -> list[str]:
    """Resolves `None`, `"all"` or a list of keys and globs against the sessions there are.

    Raises:
        ValueError: A key or glob matches no session; those there are, are listed.
    """
    keys = sorted(index)
    if wanted is None:
        return []
    if wanted == "all":
        return keys
    chosen: set[str] = set()
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        matches = [key for key in keys if key == pattern] or fnmatch.filter(keys, pattern)
        if not matches:
            listing = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "") if keys else "no sessions at all"
            raise ValueError(f"{where} has no session {pattern!r}. It has: {listing}.")
        chosen.update(matches)
    return sorted(chosen)


def read_session(folder: Path, key: str, entry: dict[str, Any]) -> tuple[SessionSpec, dict[str, Tensor]]:
    """Reads one session of a model folder."""
    spec = SessionSpec(key, entry["neurons"], entry["animal"], entry.get("unit_ids_sha256"))
    return spec, read_tensors(folder / entry["file"])


@dataclass(frozen=True)
class AdapterConfig:
    """`adapter_config.json` of a stand-alone session adapter.

    Args:
        session: The session.
        base_model: Name or folder of the core it was trained on, if known.
        base_commit: Commit of that core, if it came from a Hub.
        core_sha256: Hash of the core's weights.
        package_version: Version of omnimouse that wrote it.
    """

    session: SessionSpec
    base_model: str | None
    base_commit: str | None
    core_sha256: str
    package_version: str

    def write(self, folder: Path) -> None:
        session = asdict(self.session)
        content = {
            "adapter_type": ADAPTER_TYPE,
            "peft_type": ADAPTER_TYPE,
            "session_key": session["key"],
            "animal_id": session["animal_id"],
            "n_neurons": session["n_neurons"],
            "unit_ids_sha256": session["unit_ids_hash"],
            "base_model_name_or_path": self.base_model,
            "base_commit": self.base_commit,
            "core_sha256": self.core_sha256,
            "omnimouse_version": self.package_version,
        }
        write_json(folder / ADAPTER_CONFIG, content)

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Reads an adapter's configuration; fields that this version does not know are ignored.

        Raises:
            ValueError: The folder holds no session adapter, or a field is missing.
        """
        path = folder / ADAPTER_CONFIG
        content = read_json(path, "a session adapter's configuration")
        if not isinstance(content, dict) or content.get("adapter_type") != ADAPTER_TYPE:
            raise ValueError(f"{path} is not the configuration of an OmniMouse session adapter.")
        missing = [name for name in ("session_key", "animal_id", "n_neurons", "core_sha256") if name not in content]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}. Save the adapter again with model.save_session.")
        return cls(
            session=SessionSpec(
                content["session_key"], content["n_neurons"], content["animal_id"], content.get("unit_ids_sha256")
            ),
            base_model=content.get("base_model_name_or_path"),
            base_commit=content.get("base_commit"),
            core_sha256=content["core_sha256"],
            package_version=content.get("omnimouse_version", "unknown"),
        )


def is_adapter(folder: Path) -> bool:
    """Whether a local folder is a session adapter of ours (and not, say, a LoRA of peft)."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return False
    content = read_json(path, "an adapter's configuration")
    return isinstance(content, dict) and content.get("adapter_type") == ADAPTER_TYPE
