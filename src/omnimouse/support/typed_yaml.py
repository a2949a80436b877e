"""Frozen dataclasses from YAML and back: typed fields, no unknown keys, single fields overridden by dotted names."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")


def from_mapping(kind: Callable[..., T], values: Mapping[str, Any], *, where: str) -> T:
    """Builds a dataclass from plain values as YAML gives them.

    Numbers may come as text (YAML reads `7e-4` as text, and so do shells), lists serve as tuples.

    Args:
        kind: a dataclass whose fields are numbers, text, other such dataclasses, tuples and mappings of these.
        values: field -> value; what is missing keeps its default, in sections too.
        where: what error messages call it.

    Raises:
        ValueError: an unknown or a missing field (the known ones are listed), or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}; expected fields of their own, some of {', '.join(_fields(kind))}.")
    unknown = [str(name) for name in values if name not in _fields(kind)]
    if unknown:
        raise ValueError(f"{where} has no field {', '.join(unknown)}; it has {', '.join(_fields(kind))}.")
    hints = _hints(kind)
    whole = {name: _complete(_fields(kind)[name], value) for name, value in values.items()}
    built = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in whole.items()}
    missing = [name for name, field in _fields(kind).items() if name not in built and _is_required(field)]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}, which has no default; add it.")
    return kind(**built)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Returns field -> type, with names in annotations looked up."""
    return get_type_hints(kind)


@functools.cache
def _fields(kind: Any) -> dict[str, dataclasses.Field[Any]]:
    """Returns name -> field, in the order of definition."""
    return {field.name: field for field in dataclasses.fields(kind)}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _complete(field: dataclasses.Field[Any], value: Any) -> Any:
    """Fills what a section leaves out from the section's default, which may differ from those of its type."""
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if isinstance(value, Mapping) and dataclasses.is_dataclass(default) and not isinstance(default, type):
        return {**{name: getattr(default, name) for name in _fields(type(default))}, **value}
    return value


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Returns `value` as what the annotation `hint` asks for."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_mapping(hint, value, where=where)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value in arguments and not isinstance(value, bool):
            return value
        # YAML reads an unquoted no as False.
        if value is False and "no" in arguments:
            return "no"
        raise ValueError(f"{where} is {value!r}; expected one of {', '.join(map(repr, arguments))}.")
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}; expected a mapping.")
        return {str(name): _convert(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    return _convert_plain(hint, value, where)


def _convert_union(arguments: Sequence[Any], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    problems = []
    for option in arguments:
        if option is type(None):
            continue
        try:
            return _convert(option, value, where)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(" Or: ".join(problems))


def _convert_tuple(arguments: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{where} is {value!r}; expected a list.")
    if arguments[-1] is Ellipsis:
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise ValueError(f"{where} is {value!r}; expected {len(arguments)} values.")
    pairs = zip(arguments, value, strict=True)
    return tuple(_convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(pairs))


def _convert_plain(kind: Any, value: Any, where: str) -> Any:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    if kind in (int, float) and not isinstance(value, bool) and isinstance(value, (int, float, str)):
        try:
            number = float(value)
            if kind is float:
                return number
            if number == int(number):
                return int(number)
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"{where} is {value!r}; expected {names.get(kind, kind)}.")


def to_mapping(value: Any) -> Any:
    """Returns a dataclass as plain values that `from_mapping` builds it from; every field is written out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_mapping(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: to_mapping(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_mapping(item) for item in value]
    return value


def to_yaml(value: Any) -> str:
    """Returns a dataclass as YAML with fields in the order of their definition."""
    return yaml.safe_dump(to_mapping(value), sort_keys=False, allow_unicode=True, width=120)


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Returns nested values with some of them replaced.

    Args:
        values: as read from YAML.
        assignments: `name=value` or `section.name=value`, values written as in YAML (`null`, `[a, b]`, `1e-3`).

    Raises:
        ValueError: an assignment without `=`, with a value that is no YAML, or into something that has no fields.
    """
    result = {name: dict(item) if isinstance(item, Mapping) else item for name, item in values.items()}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        path = name.strip().split(".")
        if not equals or not all(path):
            raise ValueError(f"{assignment!r} sets nothing; write section.name=value, e.g. optimizer.core.eps=1e-6.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{assignment!r}: the value is not YAML ({error}); put text in quotes.") from None
        place = result
        for part in path[:-1]:
            inner = place.get(part)
            if inner is not None and not isinstance(inner, Mapping):
                raise ValueError(f"{assignment!r}: {part} is {inner!r}, which has no fields to set.")
            place[part] = dict(inner or {})
            place = place[part]
        place[path[-1]] = value
    return result
