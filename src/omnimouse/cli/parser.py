"""The parser of all commands. Nothing here imports a library, so that help and wrong usage are answered at once."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from omnimouse.cli import model_options, recording_options
from omnimouse.cli.options import Command, add_options
from omnimouse.support.version import __version__

DESCRIPTION = """\
Use OmniMouse, a model of mouse visual cortex, on a recording of your own.

A pretrained core knows mice in general. A session adapter (one vector per neuron, and a few more) makes it know one
recording. The way from a recording to scores:

  omnimouse check my-recording/                          is the folder sound?
  omnimouse finetune my-recording/ --output my-mouse/    train a session adapter, my-mouse/adapter
  omnimouse evaluate my-recording/ --session-adapter my-mouse/adapter
  omnimouse predict my-recording/ --session-adapter my-mouse/adapter --task stimulus --output predictions.npz

No recording at hand? `omnimouse demo` simulates a mouse and does all of that."""

COMMANDS: tuple[type[Command], ...] = (
    model_options.Demo,
    recording_options.Simulate,
    recording_options.List,
    recording_options.Download,
    recording_options.Import,
    recording_options.Check,
    model_options.Finetune,
    model_options.Train,
    model_options.Anneal,
    model_options.Scaling,
    model_options.Evaluate,
    model_options.Predict,
    model_options.Convert,
    recording_options.Export,
    model_options.Push,
    model_options.Info,
)
"""In the order in which help lists them."""


class UsageError(Exception):
    """Wrong usage, which was said on standard error already."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors can be caught, for those who asked for JSON."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong with the arguments."""
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise UsageError(message)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples, and names every default that is worth naming."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:  # 0 is worth naming
            return action.help
        return super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it parses has the class of the command as `command`."""
    parser = Parser(prog="omnimouse", description=DESCRIPTION, formatter_class=_HelpFormatter)
    parser.add_argument("--version", action="version", version=f"omnimouse {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        summary = (command.__doc__ or "").removesuffix(".")
        sub = subparsers.add_parser(
            command.name(),
            help=summary[0].lower() + summary[1:],
            description=f"{summary}.",
            epilog=command.examples,
            formatter_class=_HelpFormatter,
        )
        sub.set_defaults(command=command)
        add_options(sub, command)
    return parser
