"""Reading published checkpoints: a folder of `rank_<r>.ckpt` files, one per process of the training run.

Rank 0 holds the core and its own sessions, other ranks only theirs; every file also carries training state. Files are
pickles, and nothing in them is ever run: `torch.load(weights_only=True)` builds tensors, numbers, strings and plain
containers, and beyond these only what `ALLOWED` lists, which the random states in the files need. A file that asks for
anything else is refused, and what it asked for is named. Of what was read, only `state_dict` and `session_map` are
looked at. Files are memory-mapped, so that optimizer states are never read from the disk.

Source: the released checkpoints of OmniMouse (ICLR 2026).
"""

from __future__ import annotations

import codecs
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnimouse.hub.sources import RANK_FILE
from omnimouse.model.session_tables.session_specs import SessionSpec
from omnimouse.pretrained.published.published_names import SortedTensors, clean_name, our_name, sort_tensors

_RECONSTRUCT = np.empty(0).__reduce__()[0]

FIRST_RANK = "rank_0.ckpt"
"""Holds the core, and the list of all sessions."""

ALLOWED: tuple[Any, ...] = (
    (_RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
    (_RECONSTRUCT, "numpy.core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    codecs.encode,  # how older pickles write bytes
    *(type(np.dtype(name)) for name in ("u1", "u4", "u8", "i4", "i8", "f4", "f8")),
)
"""What a file may name besides tensors and plain data: NumPy arrays of numbers, and bytes."""


def rank_files(folder: Path) -> dict[int, Path]:
    """Rank -> file of a checkpoint folder; empty when it holds none."""
    matches = {path: RANK_FILE.fullmatch(path.name) for path in folder.iterdir()} if folder.is_dir() else {}
    return dict(sorted((int(match[1]), path) for path, match in matches.items() if match))


def read_rank(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a rank file without running code from it.

    Returns:
        Its memory-mapped tensors by published name, and its `session_map`.

    Raises:
        ValueError: The file is damaged or no checkpoint, or asks for more than tensors and plain data.
    """
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it asks for more than tensors and plain data ({_unsafe_names(path, error)}). Loading "
            "it could run code, so it was not loaded."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error}). Copy or download it again."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a dict with state_dict and session_map.")
    tensors, sessions = content.get("state_dict"), content.get("session_map", {})
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path} has no state_dict of tensors, so it is no published checkpoint.")
    if not isinstance(sessions, dict):
        raise ValueError(f"{path}: session_map is a {type(sessions).__name__}, expected a dict of sessions.")
    named: dict[str, Tensor] = {}
    for published, tensor in tensors.items():
        name = clean_name(str(published))
        if name in named:
            raise ValueError(f"{path} holds {name} twice, with and without `_orig_mod.`; which one is meant?")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
            raise ValueError(f"{path}: {name} is no plain tensor of real numbers ({tensor.layout}, {tensor.dtype}).")
        named[name] = tensor
    return named, sessions


def _unsafe_names(path: Path, error: Exception) -> str:
    """What a refused file asked for. Reading the names does not unpickle."""
    try:
        allowed = {
            f"{item.__module__}.{item.__qualname__}" if not isinstance(item, tuple) else item[1] for item in ALLOWED
        }
        names = [name for name in torch.serialization.get_unsafe_globals_in_checkpoint(path) if name not in allowed]
    except (AttributeError, ValueError, RuntimeError, OSError, pickle.UnpicklingError):
        names = []
    if names:
        return ", ".join(sorted(names))
    reason = re.search(r"Unsupported [^\n]*?(?= was not| by default|$)", str(error))
    return reason[0] if reason else str(error).splitlines()[0]


@dataclass(kw_only=True)
class RankFiles(SortedTensors):
    """What the files of a checkpoint folder hold, memory-mapped; of the sessions' tensors, shapes alone."""

    files: dict[int, Path]  # rank -> file
    tensors: dict[str, Tensor] = field(default_factory=dict)  # all of rank 0 by published names, derived ones included
    rank_of: dict[str, int] = field(default_factory=dict)  # session -> the rank that holds its tensors
    specs: dict[str, SessionSpec] = field(default_factory=dict)  # of all sessions that some file lists

    @property
    def missing_sessions(self) -> list[str]:
        """Sessions that are listed, but whose rank file is not there."""
        return [key for key in self.specs if key not in self.tables]

    def sessions(self) -> Iterator[tuple[SessionSpec, dict[str, Tensor]]]:
        """Sessions with their four tensors, file by file.

        Any tensor of a file keeps all that was read of it in memory: let a session go before asking for the next one.
        Rank 0 stays open for the core, so it comes last.
        """
        for rank in sorted(set(self.rank_of.values()), reverse=True):
            tables = sort_tensors(self.tensors if rank == 0 else read_rank(self.files[rank])[0]).tables
            for key in sorted(tables):
                spec = self.specs[key]
                tensors = {**tables.pop(key), "animal_embedding": self.animals[spec.animal_id]}
                yield spec, {name: tensor.float() for name, tensor in tensors.items()}


def survey(folder: Path) -> RankFiles:
    """Finds out what a checkpoint folder holds.

    Raises:
        ValueError: No such files, or one that cannot be read safely.
    """
    files = rank_files(folder)
    if 0 not in files:
        raise ValueError(f"{folder} holds no rank_0.ckpt, so it is no published checkpoint (folder of rank_<r>.ckpt).")
    found = RankFiles(files=files)
    for rank, path in files.items():
        tensors, session_map = read_rank(path)
        mine = sort_tensors(tensors)
        found.unexpected += [f"{name} in {path.name}" for name in mine.unexpected]
        if rank == 0:
            found.core, found.tensors = mine.core, tensors
        else:
            misplaced = [name for name in tensors if our_name(name) in mine.core]
            found.unexpected += [f"{name} in {path.name}: the core lies in rank_0.ckpt" for name in misplaced]
        for name, vector in mine.animals.items():
            found.animals.setdefault(name, vector.clone())
        for key, table in mine.tables.items():
            if key in found.tables:
                found.unexpected.append(f"session {key} in {path.name}: rank {found.rank_of[key]} holds it too")
            found.tables[key] = {name: tensor.to("meta") for name, tensor in table.items()}
            found.rank_of[key] = rank
        found.specs.update(session_specs(session_map, str(path)))
    return found


def warn_of_missing_sessions(name: str | Path, missing: Sequence[str]) -> None:
    """Tells that sessions are listed whose rank files are not there."""
    if missing:
        more = ", ..." if len(missing) > 1 else ""
        warnings.warn(f"{name}: rank files of {len(missing)} sessions are missing ({missing[0]}{more}).", stacklevel=4)


def session_specs(sessions: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, SessionSpec]:
    """Specs of a `session_map`, `{key: {"n_neurons": ..., "animal_id": ...}}`.

    Raises:
        ValueError: An entry lacks a field or holds what cannot be.
    """
    specs = {}
    for key, entry in sessions.items():
        if not isinstance(entry, Mapping) or not {"n_neurons", "animal_id"} <= set(entry):
            raise ValueError(f"{where}: session {key!r} should have n_neurons and animal_id, got {entry!r}.")
        try:
            specs[str(key)] = SessionSpec(str(key), int(entry["n_neurons"]), str(entry["animal_id"]))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{where}: session {key!r} cannot be: {error}") from None
    return specs
