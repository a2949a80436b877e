"""YAML files of fields: reading them, setting single fields by dotted names, writing dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from omnimouse.support.validation import to_mapping


def read_yaml(path: Path, what: str, *, example: str) -> dict[str, Any]:
    """Reads the fields of a YAML file; an empty file has none.

    Messages call it `what`, e.g. "recipe", and show the `example`, one field with its value as it may stand there.

    Raises:
        ValueError: no such file, no YAML, or something other than fields.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The {what} {path} cannot be read ({error}). Pass the path of a YAML file.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"The {what} {path} is not YAML: {error}") from None
    if values is not None and not isinstance(values, dict):
        found = type(values).__name__
        raise ValueError(f"The {what} {path} should hold fields such as `{example}`, found {found}.")
    return values or {}


def to_yaml(value: Any) -> str:
    """Returns a dataclass as YAML with fields in the order of their definition."""
    return yaml.safe_dump(to_mapping(value), sort_keys=False, allow_unicode=True, width=120)


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Returns nested values with some of them replaced.

    Assignments are `name=value` or `section.name=value`, values written as in YAML (`null`, `[a, b]`, `1e-3`).

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
