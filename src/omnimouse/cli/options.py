"""Options of commands as fields of dataclasses: a field's name, type and default are those of the option.

Of a command, the docstring is what help says of it, and `examples` what stands below the options. `NAME_command` of its
`module` in `cli/commands` runs it; that is imported when the command runs and not before. Here and in the modules of
options, nothing is imported that would make `omnimouse --help` wait.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints


def option(help: str, metavar: str | None = None, default: Any = None, *, flag: str | None = None, **more: Any) -> Any:
    """An option.

    Args:
        help: what it is for.
        metavar: what stands for its value.
        default: value without it.
        flag: its name, if not that of the field.
        more: of `argparse`, where the field's type does not say it: `type`, `action`, `nargs`, `required`.
    """
    return _field(default, {"help": help, "metavar": metavar, "flag": flag, **more})


def switch(help: str, default: bool | None = False) -> Any:
    """An option without a value; one that is on by default is turned off with `--no-...`."""
    return _field(default, {"help": help})


def repeated(help: str, metavar: str, *, flag: str) -> Any:
    """An option that may be given several times."""
    return _field([], {"help": help, "metavar": metavar, "flag": flag, "action": "append"})


def argument(help: str, metavar: str, *, nargs: str | None = None, default: Any = None) -> Any:
    """A positional argument; with `nargs` "?" or "*" it may be left out."""
    return _field(default, {"help": help, "metavar": metavar, "nargs": nargs, "positional": True})


def _field(default: Any, settings: dict[str, Any]) -> Any:
    settings = {name: value for name, value in settings.items() if value is not None}
    if isinstance(default, list):
        return dataclasses.field(default_factory=list, metadata=settings)
    return dataclasses.field(default=default, metadata=settings)


@dataclass(frozen=True, kw_only=True)
class Command:
    """What all commands have; its subclasses are dataclasses that cannot be changed."""

    module: ClassVar[str]
    examples: ClassVar[str]

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def name(cls) -> str:
        """What it is called in the shell."""
        return cls.__name__.lower()

    def take(self, *names: str) -> dict[str, Any]:
        """Some of the options, as arguments of the function that they are named after."""
        return {name: getattr(self, name) for name in names}


class Debugged(Command):
    """A command of the shell."""

    debug: bool = switch("show the traceback of an error")


class WithJson(Debugged):
    """A command whose result can be read by programs."""

    json: bool = switch('print one JSON document and nothing else; {"error": ...} after an error')


class OnDevice(Command):
    """A command that computes; `--cpu` is older than `--device cpu`, and the same."""

    device: str | None = option("where to compute: cpu, cuda, cuda:1, mps; a GPU if there is one by default", "NAME")
    cpu: bool = switch("the same as --device cpu")


class OnRecording(Command):
    """A command about one recording."""

    recording: Path = argument("folder of the recording; never written to", "RECORDING")


_LAST = ("device", "cpu", "json", "debug")
"""Options that help names last; those that have to be given come first."""


def add_options(parser: argparse.ArgumentParser, command: type[Command]) -> None:
    """Adds the fields of a command to its parser."""
    hints = get_type_hints(command)

    def place(field: dataclasses.Field[Any]) -> tuple[bool, bool]:
        return field.name in _LAST, not (field.metadata.get("positional") or field.metadata.get("required"))

    for field in sorted(dataclasses.fields(command), key=place):
        settings = {**_of_type(hints[field.name], field.default), **field.metadata}
        settings["default"] = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if settings.pop("positional", False):
            parser.add_argument(field.name, **settings)
        else:
            parser.add_argument(settings.pop("flag", f"--{field.name.replace('_', '-')}"), dest=field.name, **settings)


def _of_type(hint: Any, default: Any) -> dict[str, Any]:
    """What `argparse` has to know of an annotation; text is taken as it is."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is list:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction if default else "store_true"}
    return {} if hint is str else {"type": hint}


def count(text: str) -> int:
    """A whole number, 1 or more; others are refused here, before anything is loaded."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def names(text: str) -> list[str]:
    """Names with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]


def names_or_all(text: str) -> str | list[str]:
    """Names with commas between, or all."""
    return text if text == "all" else names(text)


def name_or_none(text: str) -> str | None:
    """A name; none stands for `None`."""
    return None if text == "none" else text


def auto_or_flag(text: str) -> str | bool:
    """`auto`, or true or false as they are."""
    known: dict[str, str | bool] = {"auto": "auto", "true": True, "false": False}
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor true nor false")
    return known[text]
