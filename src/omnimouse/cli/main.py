"""The command `omnimouse`, from its first moment: little is imported before `main` can answer to Ctrl-C.

`parser.py` has the commands, `running.py` runs one.
"""

from __future__ import annotations

import sys

from omnimouse.cli.starting import EXIT_INTERRUPTED, ending_at_once, leave_in_peace

TYPE_CHECKING = False  # what type checkers take for True, without importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the entry point of `omnimouse`.

    Args:
        argv: Arguments after the program's name; those of the process by default.

    Returns:
        0 when all went well, 1 when `check` found something fatal, 2 when the command failed, 130 after Ctrl-C, 143
        after SIGTERM.
    """
    try:
        with ending_at_once(enabled=argv is None):
            # Here, because from here on Ctrl-C ends the process at once.
            from omnimouse.cli.running import parse, run

            function, command = parse(sys.argv[1:] if argv is None else list(argv))
        status = run(function, command)
        if argv is None:
            leave_in_peace()
        return status
    except KeyboardInterrupt:
        print("omnimouse: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
