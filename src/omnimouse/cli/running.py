"""Running one command of the shell: its imports, its errors as one line, its warnings, its JSON."""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any

from omnimouse.cli.options import Command
from omnimouse.cli.output import Said, only_json, print_json
from omnimouse.cli.parser import UsageError, build_parser
from omnimouse.cli.starting import EXIT_ERROR, EXIT_INTERRUPTED, speaks, wants_json


def parse(argv: Sequence[str]) -> tuple[Callable[[Any], Said | None], Command]:
    """Parses arguments, and imports what their command needs.

    Returns:
        What runs the command, and its options.

    Raises:
        SystemExit: Help was asked for (0), or the usage is wrong (2).
    """
    # Characters that the terminal's code page lacks would cost the whole output.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = vars(build_parser().parse_args(argv))
    except UsageError as error:
        if wants_json(argv):
            print_json({"error": str(error)})
        raise SystemExit(EXIT_ERROR) from None
    command = options.pop("command")(**options)
    function = getattr(import_module(f"omnimouse.cli.commands.{command.module}"), f"{command.name()}_command")
    _leave_out_bars_of_libraries()
    return function, command


def run(function: Callable[[Any], Said | None], command: Any) -> int:
    """Runs a command.

    With `--json`, standard output gets one JSON document and nothing else, whatever a library prints: what the command
    says, or `{"error": ...}` when it failed.

    Returns:
        The exit status, as `main` has it.
    """
    as_json = getattr(command, "json", False)
    with ExitStack() as stack:
        if as_json:
            stack.enter_context(only_json())
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _show_warning
        try:
            said = function(command)
            if said is None:
                return 0
            if as_json:
                print_json(said.data)
            elif said.text is not None:
                print(said.text)
            return said.status
        except KeyboardInterrupt:
            status, message, shown = EXIT_INTERRUPTED, "interrupted", "interrupted"
        except SystemExit as end:  # what a run makes of SIGTERM, once its checkpoint is written
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            message = shown = "terminated"
        except Exception as error:
            foreseen = isinstance(error, (ValueError, OSError, ImportError))
            status, message = EXIT_ERROR, str(error) if foreseen else _unforeseen(error)
            shown = f"error: {message}"
            if command.debug:
                traceback.print_exc()
        print(f"omnimouse: {shown}", file=sys.stderr)
        if as_json and speaks():
            print_json({"error": message})
        return status


def _leave_out_bars_of_libraries() -> None:
    """Hides bars for what takes no time, and in logs those that can only redraw themselves."""
    # Imported already, or there is nothing to hide: libraries that a command does without are not loaded for this.
    if "transformers" in sys.modules:  # "Loading weights"; it would take the Hub's downloads with it
        hub = import_module("huggingface_hub.utils.tqdm")
        downloads = not hub.are_progress_bars_disabled()
        import_module("transformers.utils.logging").disable_progress_bar()
        if downloads:
            hub.enable_progress_bars()
    if "datasets" in sys.modules and import_module("omnimouse.support.progress").writes_lines():
        sys.modules["datasets"].disable_progress_bars()


def _unforeseen(error: Exception) -> str:
    """What to say about an error that no check foresaw; PyTorch reports a full memory as a RuntimeError too."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"memory is full ({text}); try a smaller --batch-size"
    return f"{text} (this was not foreseen: --debug shows where it happened, please report it)"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Warnings as one line, without the place in the code that a user of the command cannot act on."""
    print(f"omnimouse: warning: {message}", file=sys.stderr)
