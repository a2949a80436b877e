"""Frozen dataclasses from plain values and back: the one way recipes, mapping files, settings and stored JSON are read.

Types are those of the fields' annotations. What depends on values is up to `__post_init__`, in the words of `require`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}
_EXACTLY = {
    bool: "bool, true or false",
    int: "int, a whole number",
    float: "float, a finite number",
    str: "str, text",
    dict: "a mapping",
}


def from_mapping(
    kind: Callable[..., T], values: Any, *, where: str, exact: bool = False, ignore_unknown: bool = False
) -> T:
    """Builds a dataclass from plain values as YAML and JSON give them; lists serve as tuples.

    Args:
        kind: a dataclass whose fields are numbers, text, literals, other such dataclasses, and tuples, mappings and
            unions of these; a field of type `Any` is taken as it is.
        values: field -> value; what is missing keeps its default, in sections too.
        where: what error messages call it: a file, and the place in it.
        exact: whether numbers have to be numbers, and finite. Else they may come as text (YAML reads `7e-4` as text,
            and so do shells), and whole ones as `3.0`.
        ignore_unknown: whether fields that `kind` lacks are left out, as where a later version may have written them.

    Raises:
        ValueError: no mapping, an unknown or a missing field (the known ones are listed), a value of another type, or
            whatever the dataclass itself refuses. Fields are named by their dotted path below `where`.
    """
    return _Reader(exact, ignore_unknown).build(kind, values, where)


def check_types(owner: Any) -> None:
    """Refuses a dataclass with a field that is of another type than declared, or a number that is not finite.

    Raises:
        ValueError: naming the field.
    """
    kind: Any = type(owner)
    for name, hint in _hints(kind).items():
        _Reader(exact=True).convert(hint, getattr(owner, name), f"{kind.__name__}.{name}")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Field -> type in the order of definition, with names in annotations looked up."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@dataclasses.dataclass(frozen=True)
class _Reader:
    """See `from_mapping`."""

    exact: bool = False
    ignore_unknown: bool = False

    def build(self, kind: Any, values: Any, where: str) -> Any:
        """A dataclass from its fields."""
        hints = _hints(kind)
        known = ", ".join(hints)
        if not isinstance(values, Mapping):
            raise ValueError(f"{where} is {values!r}; expected fields of their own, some of {known}.")
        unknown = [str(name) for name in values if name not in hints]
        if unknown and not self.ignore_unknown:
            close = [match for name in unknown for match in difflib.get_close_matches(name, hints, n=1)]
            meant = f" Did you mean {', '.join(close)}?" if close else ""
            raise ValueError(f"{where} has no field {', '.join(unknown)}; it has {known}.{meant}")
        built, missing = {}, []
        for field in dataclasses.fields(kind):
            if field.name in values:
                value = _with_defaults(field, values[field.name])
                built[field.name] = self.convert(hints[field.name], value, f"{where}.{field.name}")
            elif field.default is field.default_factory is dataclasses.MISSING:
                missing.append(field.name)
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}, which has no default; add it.")
        return kind(**built)

    def convert(self, hint: Any, value: Any, where: str) -> Any:
        """A value as what the annotation `hint` asks for."""
        origin, arguments = get_origin(hint), get_args(hint)
        if hint is Any:
            return value
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return value if isinstance(value, hint) else self.build(hint, value, where)
        if origin in (Union, types.UnionType):
            return self._either(arguments, value, where)
        words = _EXACTLY if self.exact else _EXPECTED
        expected = words.get(dict if origin is Mapping else origin or hint, str(hint))
        if origin is Literal:
            # YAML reads an unquoted no as False.
            value = "no" if value is False and "no" in arguments else value
            if value in arguments and not isinstance(value, bool):
                return value
            expected = f"one of {', '.join(map(repr, arguments))}"
        elif origin is tuple:
            expected = "a list"
            if isinstance(value, Sequence) and not isinstance(value, str):
                kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
                if len(value) == len(kinds):
                    pairs = enumerate(zip(kinds, value, strict=True))
                    return tuple(self.convert(kind, item, f"{where}[{i}]") for i, (kind, item) in pairs)
                expected = f"{len(kinds)} values"
        elif origin in (dict, Mapping) and isinstance(value, Mapping):
            return {str(name): self.convert(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
        elif hint in (bool, str) and isinstance(value, hint):
            return value
        elif hint in (int, float):
            number = self._number(hint, value)
            if number is not None:
                return number
        raise ValueError(f"{where} is {value!r}; expected {expected}.")

    def _either(self, options: Sequence[Any], value: Any, where: str) -> Any:
        """A value as the first of several types that takes it."""
        if value is None and type(None) in options:
            return None
        problems = []
        for option in options:
            if option is not type(None):
                try:
                    return self.convert(option, value, where)
                except ValueError as error:
                    problems.append(str(error))
        raise ValueError(" Or: ".join(problems))

    def _number(self, kind: type, value: Any) -> int | float | None:
        """A value as a number of that kind, or None where it is none."""
        if isinstance(value, bool) or not isinstance(value, (int, float) if self.exact else (int, float, str)):
            return None
        if kind is int and isinstance(value, int):
            return value  # of any size, which a float has not
        try:
            number = float(value)
            if kind is float:
                return number if math.isfinite(number) or not self.exact else None
            return int(number) if number == int(number) and not self.exact else None
        except (ValueError, OverflowError):
            return None


def _with_defaults(field: dataclasses.Field[Any], value: Any) -> Any:
    """Fills what a section leaves out from the section's default, which may differ from those of its type."""
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if isinstance(value, Mapping) and dataclasses.is_dataclass(default) and not isinstance(default, type):
        return {**{name: getattr(default, name) for name in _hints(type(default))}, **value}
    return value


def to_mapping(value: Any) -> Any:
    """Returns a dataclass as plain values that `from_mapping` builds it from; every field is written out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_mapping(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: to_mapping(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_mapping(item) for item in value]
    return value


def require(condition: bool, owner: object, name: str, value: object, expected: str) -> None:
    """Raises ValueError naming the field of `owner` (a name, or what has the field) that is out of range."""
    if not condition:
        owner = owner if isinstance(owner, str) else type(owner).__name__
        raise ValueError(f"{owner}.{name} is {value!r}; expected {expected}.")


def require_counts(owner: object, minimum: int, *names: str, optional: str | None = None) -> None:
    """Raises ValueError naming a field of `owner` that is no whole number of at least `minimum`.

    Where None is allowed too, `optional` is what it is called ("null" in YAML).
    """
    for name in names:
        value = getattr(owner, name)
        expected = f"a whole number, {minimum} or more" + (f", or {optional}" if optional else "")
        require((optional is not None and value is None) or is_count(value, minimum), owner, name, value, expected)


def require_numbers(owner: object, *names: str, zero: bool = False) -> None:
    """Raises ValueError naming a field of `owner` that is no finite number above 0, or at least `zero`."""
    expected = "a finite number of at least 0" if zero else "a finite number above 0"
    for name in names:
        value = getattr(owner, name)
        require(is_number(value) and (value > 0 or (zero and value == 0)), owner, name, value, expected)


def whole_number(name: str, value: object, or_else: str = "") -> int:
    """An argument that must be a whole number of 1 or more (numpy's too), as an int.

    Raises:
        ValueError: it is something else; `or_else` tells what else is taken, or what the number is.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected a whole number, 1 or more{or_else}")
    return int(value)


def check_flag(name: str, value: object) -> None:
    """Raises ValueError unless an argument is True or False: any text, "no" among them, would count as True."""
    if isinstance(value, str) or value not in (True, False):
        raise ValueError(f"{name} is {value!r}; expected True or False")


def is_number(value: object) -> bool:
    """Whether `value` is a finite int or float (bool excluded)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object, minimum: int) -> TypeGuard[int]:
    """Whether `value` is an int of at least `minimum` (bool excluded)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum
