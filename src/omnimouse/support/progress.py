"""Progress on standard error: a bar where somebody looks on, else a line every few seconds; and where time went."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as terminal_tqdm

LINE_SECONDS = 5.0
"""Time between lines, where there is no terminal."""

_LINE = "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class ProgressLines(terminal_tqdm):
    """A bar of tqdm that writes whole lines, for logs; the last one tells where it ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._last_line, self._n_lines = time.time(), 0
        options = {"mininterval": LINE_SECONDS, "miniters": 1, "bar_format": _LINE, "file": sys.stderr}
        super().__init__(*args, **{**kwargs, **options})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Writes a line, unless the last one is recent."""
        if time.time() - self._last_line >= LINE_SECONDS:
            self._write_line()

    def clear(self, nolock: bool = False) -> None:
        """Nothing to clear: lines stay."""

    def close(self) -> None:
        """Ends the progress; one that is to leave no trace says how it ended only if it said something before."""
        if not self.disable and self.n != self.initial and (self.leave or self._n_lines):
            self._write_line()
        self.leave, self._last_line = False, float("inf")
        super().close()

    def _write_line(self) -> None:
        self._last_line, self._n_lines = time.time(), self._n_lines + 1
        self.fp.write(f"{self}\n")
        self.fp.flush()


def progress_bar(iterable: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm:
    """A progress bar for a terminal or a notebook, lines for anything else.

    Without anything to count, call `update`. Options are tqdm's: `total`, `initial`, `desc`, `unit`, `leave`, ...
    """
    return (ProgressLines if writes_lines() else tqdm)(iterable, disable=not shown, **options)


def writes_lines() -> bool:
    """Whether standard error is neither a terminal nor a notebook, so that bars would only fill a log."""
    in_notebook = any(kind.__name__ == "tqdm_notebook" for kind in tqdm.__mro__)
    return not in_notebook and not sys.stderr.isatty()


def say(line: str) -> None:
    """Writes a line to standard error, above a bar if there is one."""
    tqdm.write(line, file=sys.stderr)


class PartClock:
    """Seconds by part, in the order in which parts were first entered; a part within a part counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the block for a part."""
        self._pass_on()
        self.seconds.setdefault(name, 0.0)
        self._open.append(name)
        try:
            yield
        finally:
            self._pass_on()
            self._open.pop()

    def _pass_on(self) -> None:
        """Credits the part that is open with the time since the last change."""
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def sentence(self) -> str:
        """All parts and their sum in words."""
        parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return f"{parts}; {sum(self.seconds.values()):.0f} s in all"
