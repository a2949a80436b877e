"""Where predictions go as they come: into arrays in memory, or into a file beside the output, where a call goes on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from omnimouse.evaluation.predicting.growing_npz import Columns, GrowingNpz
from omnimouse.support.files import explained_writing, make_readable, read_mapping, sync, write_json
from omnimouse.support.outputs import identity_differences, sole_user
from omnimouse.support.validation import is_count

COMMIT_SECONDS = 5.0
"""Time after which what was predicted is put safely on the disk; so much is computed again after a kill."""

PARTIAL = ".partial"
ARRAYS_FILE, PROGRESS_FILE = "arrays.npz", "progress.json"


class Store(Protocol):
    """Takes windows in order.

    Attributes:
        done: windows that were dealt with, those left out among them.
        rows: windows that were predicted.
    """

    done: int
    rows: int

    def add(self, windows: int, block: Mapping[str, np.ndarray]) -> None:
        """Takes so many windows, and the rows of those among them that were predicted."""

    def starts(self) -> np.ndarray:
        """The starts of the windows that were predicted."""


class MemoryStore:
    """Arrays in memory."""

    def __init__(self, columns: Columns, windows: int) -> None:
        self.done = self.rows = 0
        self.whole = {name: np.empty((windows, *shape), dtype) for name, (dtype, shape) in columns.items()}

    def add(self, windows: int, block: Mapping[str, np.ndarray]) -> None:
        """See `Store.add`."""
        self.done += windows
        for name, values in block.items():
            self.whole[name][self.rows : self.rows + len(values)] = values
        self.rows += len(block.get("window_starts", ()))

    def starts(self) -> np.ndarray:
        """See `Store.starts`."""
        return self.whole["window_starts"][: self.rows]


class FileStore:
    """Arrays in a folder beside the output, which becomes the output when all windows are there.

    Args:
        output: the file to be written.
        columns: the arrays that grow.
        windows: how many there are at most.
        identity: what decides the numbers; a folder that was begun with another is refused.
        resume: go on where an earlier call stopped; otherwise what it left is removed.
    """

    def __init__(
        self, output: Path, columns: Columns, windows: int, identity: Mapping[str, Any], *, resume: bool
    ) -> None:
        self.output, self.identity = output, identity
        self.folder = partial_folder(output)
        self.done = self.rows = 0
        arrays, progress = self.folder / ARRAYS_FILE, self.folder / PROGRESS_FILE
        if resume and arrays.exists() and progress.exists():
            self._go_on(progress, windows)
        else:
            arrays.unlink(missing_ok=True)
            progress.unlink(missing_ok=True)
        with self._explained():
            self.file = GrowingNpz(arrays, columns, windows)
        if not self.file.has_rows(self.rows):
            self.file.close()
            raise self._damaged(f"{ARRAYS_FILE} is shorter than the {self.rows} windows that it should hold")
        self._check_room()
        self._committed = time.monotonic()

    def _go_on(self, progress: Path, windows: int) -> None:
        try:
            found = read_mapping(progress, "how far predictions are")
        except ValueError as error:
            raise self._damaged(str(error)) from None
        differences = identity_differences(found.get("identity", {}), self.identity, "when they were begun")
        if differences:
            raise ValueError(
                f"{self.folder} holds predictions that were begun otherwise, so that these cannot go on there:\n"
                + "\n".join(differences)
                + "\nRepeat that call, pass resume=False (--no-resume) to begin anew, or choose another output."
            )
        done, rows = found.get("done"), found.get("rows")
        if not (is_count(done, 0) and is_count(rows, 0) and rows <= done <= windows):
            raise self._damaged(f"{PROGRESS_FILE} tells {done!r} windows done of {windows}, and {rows!r} predicted")
        self.done, self.rows = done, rows

    def _damaged(self, why: str) -> ValueError:
        return ValueError(
            f"{self.folder} is damaged, so that predictions cannot go on there: {why.rstrip('.')}. Pass resume=False "
            "(--no-resume) to begin anew, or choose another output."
        )

    def _check_room(self) -> None:
        there = getattr(os.stat(self.file.path), "st_blocks", 0) * 512
        free, needed = shutil.disk_usage(self.folder).free, self.file.size - there
        if needed > free:
            self.file.close()
            if not self.done:
                self.file.path.unlink()
            raise ValueError(
                f"output {self.output} takes {self.file.size / 1e9:.2f} GB, of which {there / 1e9:.2f} are there, and "
                f"{free / 1e9:.2f} GB are free. Make room, choose another place, or predict fewer windows (stride, "
                "max_windows)"
            )

    def _explained(self) -> Any:
        kept = f"What was predicted so far is in {self.folder}, where the same call goes on."
        return explained_writing(self.output, kept=kept)

    def add(self, windows: int, block: Mapping[str, np.ndarray]) -> None:
        """See `Store.add`."""
        with self._explained():
            for name, values in block.items():
                self.file.write(name, self.rows, values)
            self.done, self.rows = self.done + windows, self.rows + len(block.get("window_starts", ()))
            if time.monotonic() - self._committed >= COMMIT_SECONDS:
                self._commit()

    def _commit(self) -> None:
        """Notes how far the file is, once that is on the disk."""
        self.file.sync()
        content = {"identity": self.identity, "done": self.done, "rows": self.rows}
        write_json(self.folder / PROGRESS_FILE, content)
        self._committed = time.monotonic()

    def starts(self) -> np.ndarray:
        """See `Store.starts`."""
        return self.file.read("window_starts", self.rows)

    def finish(self, facts: Mapping[str, np.ndarray]) -> None:
        """Puts the output in its place, with arrays that do not grow."""
        with self._explained():
            self._commit()
            self.file.finish(self.rows, facts)
            self.file.close()
            make_readable(self.file.path)
            os.replace(self.file.path, self.output)
            sync(self.output.parent)
        (self.folder / PROGRESS_FILE).unlink()


def partial_folder(output: Path) -> Path:
    """Where predictions for an output stand until all are there."""
    return output.with_name(output.name + PARTIAL)


@contextmanager
def growing_store(
    output: Path, columns: Columns, windows: int, identity: Mapping[str, Any], *, resume: bool
) -> Iterator[FileStore]:
    """A `FileStore` that nobody else uses; its folder is gone when it was finished.

    Raises:
        ValueError: another call writes there, what is there was begun otherwise, or there is not enough room.
        OSError: see `explained_writing`.
    """
    folder = partial_folder(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}, where predictions grow, is a file; move it away, or choose another output.")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with sole_user(folder):
            store = FileStore(output, columns, windows, identity, resume=resume)
            try:
                yield store
            finally:
                store.file.close()
                if store.done == windows and not store.rows:  # there is nothing to go on with
                    store.file.path.unlink()
                    (folder / PROGRESS_FILE).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # where it holds what the next call goes on with
            folder.rmdir()
