"""Stored forms of sessions: files of a model folder, and stand-alone adapter folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from omnimouse.model.core_identity import settings_hash
from omnimouse.model.session_tables.session_names import match_keys, matches_glob
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.model.session_tables.session_surgery import TENSORS
from omnimouse.support.files import read_json, read_mapping, write_json
from omnimouse.support.spreading import listed
from omnimouse.support.tensor_files import open_tensors, write_tensors
from omnimouse.support.validation import from_mapping

SESSIONS_FOLDER = "sessions"
INDEX = "sessions/index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_TYPE = "OMNIMOUSE_SESSION"

_GLOB = re.compile(r"[*?\[]")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a session's tensors, or raises `ValueError` saying what is wrong with the file."""
    with open_tensors(path) as file:
        missing = [name for name in TENSORS if name not in file.keys()]  # noqa: SIM118 (not a mapping)
        if missing:
            raise ValueError(f"{path} lacks the tensors {', '.join(missing)}; is it a session adapter?")
        return {name: file.get_tensor(name) for name in TENSORS}


def write_session(
    folder: Path, spec: SessionSpec, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes `sessions/<key>.safetensors` of a model folder; `settings` are those of its core (`core_settings`).

    Returns:
        The session's entry for `sessions/index.json`, which `write_index` writes when all sessions are there.
    """
    file = f"{SESSIONS_FOLDER}/{spec.key}.safetensors"
    write_tensors(folder / file, tensors)
    entry = {"animal": spec.animal_id, "neurons": spec.n_neurons, "file": file}
    notes = {"training": dict(spec.training or {}), "processor": dict(spec.processor or {})}
    known = {"unit_ids_sha256": spec.unit_ids_hash, **notes}
    return {**entry, "core_config_sha256": settings_hash(settings), **{n: value for n, value in known.items() if value}}


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Writes `sessions/index.json` of a model folder; nothing for a model without sessions."""
    if index:
        write_json(folder / INDEX, dict(index))


def read_index(folder: Path) -> dict[str, Any]:
    """Reads `sessions/index.json` of a model folder; empty when there is none.

    Raises:
        ValueError: The index is no mapping of keys to entries with `animal`, `neurons` and `file`.
    """
    path = folder / INDEX
    if not path.exists():
        return {}
    index = read_mapping(path, "the list of sessions")
    for key, entry in index.items():
        if not isinstance(entry, dict) or not {"animal", "neurons", "file"} <= set(entry):
            raise ValueError(f"{path}: the entry of session {key!r} should have animal, neurons and file.")
        file = Path(str(entry["file"]))
        if file.is_absolute() or ".." in file.parts:
            raise ValueError(f"{path}: session {key!r} names a file outside the model folder, {entry['file']!r}.")
        entry_spec(key, entry)
    return index


def entry_spec(key: str, entry: Mapping[str, Any]) -> SessionSpec:
    """The session that an entry of the index describes."""
    return SessionSpec(
        key, entry["neurons"], entry["animal"], entry.get("unit_ids_sha256"), entry.get("training"),
        entry.get("processor"),
    )  # fmt: skip


def select_sessions(index: Iterable[str], wanted: str | Sequence[str] | None, where: str) -> list[str]:
    """Resolves `None`, `"all"` or a list of keys, short keys and globs (of either) against the sessions there are.

    Raises:
        ValueError: A key or glob matches no session (those there are, are listed), or a short key matches several.
    """
    keys = sorted(index)
    if wanted is None:
        return []
    if wanted == "all":
        return keys
    chosen: set[str] = set()
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        if pattern in keys:
            matches = [pattern]
        elif _GLOB.search(pattern):
            matches = [key for key in keys if matches_glob(key, pattern)]
        else:
            matches = match_keys(pattern, keys)
            if len(matches) > 1:
                raise ValueError(f"{where} has several sessions {pattern!r}: {', '.join(matches)}. Name one in full.")
        if not matches:
            there = listed(keys) or "no sessions at all"
            raise ValueError(f"{where} has no session {pattern!r}. It has: {there}.")
        chosen.update(matches)
    return sorted(chosen)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """`adapter_config.json` of a stand-alone session adapter, field by field: the session, and the core it needs."""

    session_key: str
    animal_id: str
    n_neurons: int
    core_sha256: str  # `model.core_hash()`; earlier versions took the core's tensors alone
    base_model_name_or_path: str | None = None  # name or folder of the core, if known
    base_commit: str | None = None  # of the core, if it came from a Hub
    core_config: Mapping[str, Any] | None = None  # what the core computes with (`core_settings`), if known
    injected_sha256: str | None = None  # of what peft had added to the core (a LoRA)
    unit_ids_sha256: str | None = None
    training: Mapping[str, Any] | None = None
    processor: Mapping[str, Any] | None = None
    omnimouse_version: str = "unknown"  # that wrote it

    def __post_init__(self) -> None:
        assert self.session.key  # what can be no session is refused

    @property
    def base_model(self) -> str | None:
        """Name or folder of the core that the session was trained on, if known."""
        return self.base_model_name_or_path

    @property
    def session(self) -> SessionSpec:
        """The session."""
        return SessionSpec(
            self.session_key, self.n_neurons, self.animal_id, self.unit_ids_sha256, self.training, self.processor
        )

    def write(self, folder: Path) -> None:
        write_json(folder / ADAPTER_CONFIG, {"adapter_type": ADAPTER_TYPE, "peft_type": ADAPTER_TYPE, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Reads an adapter's configuration; fields that this version does not know are ignored.

        Raises:
            ValueError: The folder holds no session adapter, or a field is missing or cannot be.
        """
        path = folder / ADAPTER_CONFIG
        if not is_adapter(folder):
            raise ValueError(f"{path} is not the configuration of an OmniMouse session adapter.")
        content = read_json(path, "a session adapter's configuration")
        try:
            return from_mapping(cls, content, where=str(path), exact=True, ignore_unknown=True)
        except ValueError as error:
            raise ValueError(f"{error} Save the adapter again with model.save_session.") from None


def is_adapter(folder: Path) -> bool:
    """Whether a local folder is a session adapter of ours (and not, say, a LoRA of peft)."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return False
    content = read_json(path, "an adapter's configuration")
    return isinstance(content, dict) and content.get("adapter_type") == ADAPTER_TYPE
