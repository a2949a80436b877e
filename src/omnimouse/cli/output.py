"""What commands print: JSON that is alone on standard output, and commands that can be pasted into a shell."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from omnimouse.support.files import plain

_json_output: ContextVar[TextIO | None] = ContextVar("json_output", default=None)
"""Where JSON goes; standard output, unless that is kept from everything else."""


class Said(NamedTuple):
    """What came of a command: data for `--json`, or text for people; an exit status."""

    data: Any
    text: str | None
    status: int = 0


def hint(*words: str | os.PathLike[str]) -> str:
    """A command of this program as one can paste it into the shell it was started from, with names quoted.

    Args:
        words: The command and its arguments, without the program.
    """
    beside = Path(sys.executable).parent / Path("omnimouse").with_suffix(".exe" if os.name == "nt" else "")
    found = shutil.which("omnimouse")
    if found is not None and (not beside.exists() or os.path.samefile(found, beside)):
        program = ["omnimouse"]
    elif beside.exists():  # an environment that was not activated
        program = [str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)]
    else:
        program = [sys.executable, "-m", "omnimouse"]
    return shlex.join([*program, *(os.fspath(word) for word in words)])


def print_json(value: Any) -> None:
    """Prints a value as JSON; NaN and infinity, which it lacks, as null."""
    print(json.dumps(plain(value), indent=2, allow_nan=False), file=_json_output.get(), flush=True)


@contextmanager
def only_json() -> Iterator[None]:
    """While the block runs, `print_json` alone reaches standard output; prints of libraries go to standard error."""
    output = sys.stdout
    try:
        descriptor = output.fileno()
    except (OSError, ValueError):  # no file: somebody else's object, which only Python writes to
        descriptor = None
    output.flush()
    saved = None if descriptor is None else os.dup(descriptor)
    token = _json_output.set(output if saved is None else os.fdopen(saved, "w", encoding="utf-8", closefd=False))
    try:
        if descriptor is not None:
            os.dup2(sys.stderr.fileno(), descriptor)  # what is written by C code, and by child processes
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _json_output.reset(token)
        if descriptor is not None and saved is not None:
            os.dup2(saved, descriptor)
            os.close(saved)
