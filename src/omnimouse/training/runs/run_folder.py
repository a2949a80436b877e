"""The folder of a pre-training: its layout, checkpoints written by all processes together, and which of them are kept.

| path | content |
|---|---|
| `recipe.yaml` | the resolved recipe |
| `history.jsonl` | losses, rates and speed; evaluations |
| `checkpoint-<steps done>/` | `core.safetensors`, `sessions/<key>.safetensors`, `state.json` |
| `anneal_sources.json` | steps whose checkpoints are kept because forks were made from them |
| `anneals/<name>/` | forks, each a run folder of its own |
| `fork.json` | in a fork: run, step and decay that it was made from |
| `failures/` | batches that gave NaN or an exploding loss |
| `model/` | the finished model with all sessions |

Parameters are stored by name, with their Adam moments as `optimizer/<moment>/<name>`. A session is a file of its own,
written by the process that owns it and readable by any other, so the number of processes may change between save and
resume. All processes have to see the same folder.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from omnimouse.support.files import explained_writing, hash_file, read_json, write_json, write_text
from omnimouse.support.outputs import sole_user
from omnimouse.support.tensor_files import write_tensors
from omnimouse.support.validation import from_mapping
from omnimouse.training.runs.distributed import Processes
from omnimouse.training.shared.checkpoint import (
    CHECKPOINT_NAME,
    PARTIAL,
    STATE_FILE,
    checkpoint_name,
    complete_checkpoint,
    nothing_whole,
)

FORMAT_VERSION = 1
CORE_FILE, SESSIONS_FOLDER = "core.safetensors", "sessions"


@dataclass(frozen=True)
class Fork:
    """What `fork.json` says: folder and step of the run that was forked, and the decay, see `AnnealSchedule`."""

    run: str
    at: int
    steps: int
    shape: str
    power: float


class RunFolder:
    """Where the parts of a run lie, see above; and which checkpoints there are.

    Args:
        path: the folder itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe, self.history, self.model = path / "recipe.yaml", path / "history.jsonl", path / "model"
        self.anneals, self.failures, self.trackers = path / "anneals", path / "failures", path / "trackers"
        self.fork = path / "fork.json"
        self._sources = path / "anneal_sources.json"

    def anneal_sources(self) -> list[int]:
        """Steps whose checkpoints are kept because forks were made from them."""
        if not self._sources.exists():
            return []
        return sorted(int(step) for step in read_json(self._sources, "steps that anneals were forked from"))

    def add_anneal_sources(self, steps: Iterable[int]) -> None:
        """Has the checkpoints of some steps kept from now on."""
        write_json(self._sources, sorted({*self.anneal_sources(), *steps}))

    def forks(self) -> list[RunFolder]:
        """Folders of the anneals, by name."""
        return [RunFolder(path) for path in sorted(self.anneals.glob("*")) if path.is_dir()]

    def fork_of(self) -> Fork | None:
        """What a fork was made from; None of a run of its own."""
        if not self.fork.exists():
            return None
        content = read_json(self.fork, "what a run was forked from")
        return from_mapping(Fork, content, where=str(self.fork), exact=True, ignore_unknown=True)

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint of a step, whether it is there or not."""
        return self.path / checkpoint_name(step)

    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints there are, ascending; whether they are whole shows when they are read."""
        found = (CHECKPOINT_NAME.fullmatch(entry.name) for entry in self.path.glob("*"))
        return sorted(int(match[1]) for match in found if match)

    def remove_checkpoints(self, *, but: Iterable[int] = ()) -> None:
        """Removes checkpoints that are not to be kept, and what earlier attempts left unfinished."""
        for step in set(self.checkpoint_steps()).difference(but):
            # Renamed first, so that a checkpoint half removed is none.
            os.replace(self.checkpoint(step), self.path / f"{PARTIAL}removed-{uuid.uuid4().hex}")
        for entry in self.path.glob(f"{PARTIAL}*"):
            shutil.rmtree(entry, ignore_errors=True)


@dataclass(frozen=True)
class RunCheckpoint:
    """A checkpoint that was found whole.

    Attributes:
        path: its folder.
        state: content of `state.json`: step, seconds, identity, processes, log, sessions, windows, recordings, files.
    """

    path: Path
    state: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> RunCheckpoint:
        """Opens a checkpoint that was found whole before."""
        return cls(path, read_json(path / STATE_FILE, "the state of a checkpoint"))

    @classmethod
    def check(cls, path: Path) -> RunCheckpoint:
        """Opens a checkpoint and makes sure that it is whole.

        Raises:
            ValueError: a file is missing or is not what was written, or the checkpoint is of another format.
        """
        found = cls.open(path)
        if not isinstance(found.state, dict) or found.state.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"{path / STATE_FILE} is not of format version {FORMAT_VERSION}.")
        for name, expected in found.state["files"].items():
            try:
                is_whole = hash_file(path / name) == expected
            except OSError as error:
                raise ValueError(f"{path / name} cannot be read: {error}.") from None
            if not is_whole:
                raise ValueError(f"{path / name} differs from what was written.")
        return found

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.state["step"])

    def core(self) -> dict[str, torch.Tensor]:
        """Tensors of the core, with moments, by stored name."""
        return load_file(self.path / CORE_FILE)

    def session(self, key: str) -> dict[str, torch.Tensor]:
        """Tensors of a session and its animal, with moments, by stored name."""
        return load_file(self.path / SESSIONS_FOLDER / f"{key}.safetensors")


@contextmanager
def alone(folder: RunFolder, processes: Processes) -> Iterator[None]:
    """Holds a run's folder for the processes of one run, see `sole_user`; the main process does it for all."""
    with ExitStack() as held:
        with processes.together("have the folder to themselves"):
            if processes.is_main:
                held.enter_context(sole_user(folder.path))
        yield


def newest_whole(folder: RunFolder, processes: Processes) -> RunCheckpoint | None:
    """Returns the newest whole checkpoint, the same for all processes, or None when there is none at all.

    The main process looks; a damaged checkpoint is passed over for the next older one, with a warning that names it.

    Raises:
        ValueError: there are checkpoints, and none of them is whole: beginning anew is for the caller to say.
    """
    chosen, reasons = -1, []
    with processes.together("find a whole checkpoint"):
        for step in reversed(folder.checkpoint_steps() if processes.is_main else []):
            try:
                chosen = RunCheckpoint.check(folder.checkpoint(step)).step
                break
            except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
                reasons.append(f"{error if str(error) else type(error).__name__} ({folder.checkpoint(step).name})")
                warnings.warn(f"Passing over a damaged checkpoint: {reasons[-1]}", stacklevel=2)
        if reasons and chosen < 0:
            raise ValueError(nothing_whole(folder.path, reasons))
    chosen = processes.from_main(chosen)
    return None if chosen < 0 else RunCheckpoint.open(folder.checkpoint(chosen))


def write_checkpoint(
    folder: RunFolder,
    processes: Processes,
    *,
    core: Mapping[str, torch.Tensor],
    sessions: Mapping[str, Mapping[str, torch.Tensor]],
    windows: Mapping[str, str],
    state: Mapping[str, Any],
    keep_newest: int,
    keep_every: int | None,
    data: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Writes a checkpoint together with the other processes, then removes older ones that need not be kept.

    Every process writes its files into a hidden folder; once all have, the main process renames it. Whoever finds a
    folder of that name finds all of it, whenever any process was killed.

    Args:
        folder, processes: of the run.
        core: stored name -> tensor; written by the main process.
        sessions: key -> stored name -> tensor, of the sessions that this process owns.
        windows: key -> fingerprint of the windows, of the same sessions.
        state: the rest of `state.json`, of the main process.
        keep_newest, keep_every: see `steps_to_keep`.
        data: key -> fingerprint of the recording, of the same sessions.

    Returns:
        The folder written.

    Raises:
        ValueError or OSError: in all processes, when one of them could not write.
    """
    target = folder.checkpoint(int(state["step"]))
    partial = folder.path / f"{PARTIAL}{target.name}"
    tensors = {f"{SESSIONS_FOLDER}/{key}.safetensors": values for key, values in sessions.items()}
    if processes.is_main:
        tensors[CORE_FILE] = core
    try:
        with explained_writing(target):
            with processes.together("begin a checkpoint"):
                if processes.is_main:
                    shutil.rmtree(partial, ignore_errors=True)
                    (partial / SESSIONS_FOLDER).mkdir(parents=True)
            with processes.together("write a checkpoint"):
                for name, values in tensors.items():
                    write_tensors(partial / name, values)
                files = {name: hash_file(partial / name) for name in tensors}
                note = {"files": files, "windows": dict(windows), "recordings": dict(data or {})}
                (partial / f"process-{processes.rank}.json").write_text(json.dumps(note), encoding="utf-8")
            with processes.together("complete a checkpoint"):
                if processes.is_main:
                    _gather(partial, target, processes.count, state)
                    steps, sources = folder.checkpoint_steps(), folder.anneal_sources()
                    kept = steps_to_keep(steps, newest=keep_newest, every=keep_every, sources=sources)
                    folder.remove_checkpoints(but=kept)
    except BaseException:
        if processes.is_main:  # a full disk keeps its room; all processes are past their writing here
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _gather(partial: Path, target: Path, n_processes: int, state: Mapping[str, Any]) -> None:
    """Gathers what the processes noted, writes `state.json` and renames the folder."""
    gathered: dict[str, dict[str, Any]] = {"files": {}, "windows": {}, "recordings": {}}
    for rank in range(n_processes):
        path = partial / f"process-{rank}.json"
        note = read_json(path, "what a process wrote")
        for name, entries in gathered.items():
            entries |= note[name]
        path.unlink()
    found = {name: dict(sorted(entries.items())) for name, entries in gathered.items()}
    document = {"format_version": FORMAT_VERSION, **state, "processes": n_processes, **found}
    complete_checkpoint(partial, target, document, written=[partial / SESSIONS_FOLDER])


def steps_to_keep(steps: Iterable[int], *, newest: int, every: int | None, sources: Iterable[int]) -> set[int]:
    """Returns which checkpoints stay: the newest ones, multiples of `every`, and sources of anneals."""
    steps, wanted = sorted(steps), set(sources)
    return {
        step
        for index, step in enumerate(steps)
        if index >= len(steps) - newest or step in wanted or (every is not None and step % every == 0)
    }


def clear_run(folder: RunFolder) -> None:
    """Removes what a run that is begun anew would be mixed up with: checkpoints, history and model, but no fork.

    Raises:
        ValueError: forks were made from this run; their sources would be lost.
    """
    if folder.anneal_sources():
        raise ValueError(
            f"{folder.path} has anneals that were forked from its checkpoints; they would be lost. Choose another "
            "output, or delete the folder."
        )
    folder.remove_checkpoints()
    folder.history.unlink(missing_ok=True)
    shutil.rmtree(folder.model, ignore_errors=True)


def trim_history(path: Path, step: int) -> None:
    """Removes the rows of steps that are going to be done again, and a last line that was not finished."""
    if path.exists():
        write_text(path, "".join(line for line, row in _history_lines(path) if row["step"] <= step))


def read_history(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a history; a last line that was not finished is left out."""
    return [row for _, row in _history_lines(path)] if path.exists() else []


def _history_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the whole lines of a history with their rows; it is a log, so one that is damaged is said and left out."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                row = json.loads(line)
                row["step"] + 0
            except (ValueError, TypeError, KeyError):
                warnings.warn(f"{path}: line {number} is damaged, and left out of the history.", stacklevel=4)
                continue
            yield line, row
