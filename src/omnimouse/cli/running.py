"""Running one command of the shell: its imports, its errors as one line, its warnings, its JSON."""

from __future__ import annotations

import argparse
import io
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any

from omnimouse.cli.main import EXIT_INTERRUPTED
from omnimouse.cli.options import EXIT_ERROR, UsageError, only_json, print_json
from omnimouse.cli.parser import build_parser
from omnimouse.cli.starting import speaks, wants_json


def prepare(argv: Sequence[str]) -> argparse.Namespace:
    """Parses arguments, and imports what their command needs.

    Raises:
        SystemExit: Help was asked for (0), or the usage is wrong (2).
    """
    _escape_what_cannot_be_shown()
    try:
        args = build_parser().parse_args(argv)
    except UsageError as error:
        if wants_json(argv):
            print_json({"error": str(error)})
        raise SystemExit(EXIT_ERROR) from None
    for name in args.imports:
        import_module(name)
    _leave_out_bars_of_libraries()
    return args


def run(args: argparse.Namespace) -> int:
    """Runs a command.

    With `--json`, standard output gets one JSON document and nothing else, whatever a library prints: what the command
    says, or `{"error": ...}` when it failed.

    Returns:
        The exit status, as `main` has it.
    """
    as_json = getattr(args, "json", False)
    with ExitStack() as stack:
        if as_json:
            stack.enter_context(only_json())
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _show_warning
        try:
            return args.function(args)
        except KeyboardInterrupt:
            status, message, shown = EXIT_INTERRUPTED, "interrupted", "interrupted"
        except SystemExit as end:  # what a run makes of SIGTERM, once its checkpoint is written
            status, message, shown = _status(end), "terminated", "terminated"
        except (ValueError, OSError, ImportError) as error:
            status, message = EXIT_ERROR, str(error)
            shown = f"error: {message}"
            if args.debug:
                traceback.print_exc()
        except Exception as error:
            status, message = EXIT_ERROR, _unforeseen(error)
            shown = f"error: {message}"
            if args.debug:
                traceback.print_exc()
        print(f"omnimouse: {shown}", file=sys.stderr)
        if as_json and speaks():
            print_json({"error": message})
        return status


def _status(end: SystemExit) -> int:
    """The exit status that an exception stands for, as Python has it."""
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def _leave_out_bars_of_libraries() -> None:
    """Hides bars for what takes no time, and in logs those that can only redraw themselves."""
    if "transformers" in sys.modules:  # "Loading weights"; it would take the Hub's downloads with it
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
        from transformers.utils.logging import disable_progress_bar

        downloads = not are_progress_bars_disabled()
        disable_progress_bar()
        if downloads:
            enable_progress_bars()
    if "datasets" in sys.modules:
        from datasets import disable_progress_bars

        from omnimouse.support.progress import writes_lines

        if writes_lines():
            disable_progress_bars()


def _escape_what_cannot_be_shown() -> None:
    """Has characters that the terminal's code page lacks written as escapes; they would cost the whole output."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _unforeseen(error: Exception) -> str:
    """What to say about an error that no check foresaw; PyTorch reports a full memory as a RuntimeError too."""
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"memory is full ({text}); try a smaller --batch-size"
    return f"{text} (this was not foreseen: --debug shows where it happened, please report it)"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Warnings as one line, without the place in the code that a user of the command cannot act on."""
    print(f"omnimouse: warning: {message}", file=sys.stderr)
