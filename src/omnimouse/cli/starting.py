"""How the program ends: its exit statuses, and Ctrl-C while it is starting and while it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

EXIT_UNSOUND = 1
"""Exit status of `check` when a recording has a fatal finding."""

EXIT_ERROR = 2
"""Exit status when a command could not do what was asked (also argparse's own)."""

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


@contextmanager
def ending_at_once(*, enabled: bool = True) -> Iterator[None]:
    """Ctrl-C ends the process while the block runs, without a traceback; there is nothing to save yet.

    An exception would not do: it comes up in the middle of some library's import, which may catch it.

    Args:
        enabled: False leaves everything as it is, for callers whose process this is not.
    """

    def end(_: int, __: FrameType | None) -> None:
        os.write(2, b"omnimouse: interrupted\n")
        if wants_json(sys.argv):
            os.write(1, b'{"error": "interrupted"}\n')
        os._exit(EXIT_INTERRUPTED)

    # Who has another handler, or is no main thread, knows what to do with the signal.
    usual = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not enabled or not usual:
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def wants_json(argv: Sequence[str]) -> bool:
    """Whether arguments that are not parsed yet, or cannot be, ask this process for JSON."""
    return speaks() and any(len(word) > 2 and "--json".startswith(word) for word in argv)


def speaks() -> bool:
    """Whether this process prints JSON: of several, one does."""
    return os.environ.get("RANK", "0") == "0"


def leave_in_peace() -> None:
    """Has the process end as it is about to: more Ctrl-C and SIGTERM would only add a traceback, or another status."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
