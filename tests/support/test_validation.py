"""Dataclasses from plain values: what is told of an unknown, a missing and a wrong field, and what is let pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from omnimouse.support.validation import check_types, from_mapping, require_counts, to_mapping


@dataclass(frozen=True)
class Rate:
    peak: float
    kind: Literal["constant", "falling", "no"] = "constant"


@dataclass(frozen=True)
class Settings:
    steps: int
    rate: Rate = Rate(0.5, "falling")
    names: tuple[str | Rate, ...] = ()
    pair: tuple[float, float] | None = None
    weights: Mapping[str, int] = field(default_factory=dict)
    quiet: bool = False
    anything: Any = None


def test_plain_values_become_what_the_fields_ask_for():
    values = {
        "steps": "3e4",
        "rate": {"peak": "7e-4"},
        "names": ["a", {"peak": 1}],
        "pair": [1, "2"],
        "weights": {1: 2},
    }
    settings = from_mapping(Settings, {**values, "anything": [1, None]}, where="file")
    assert settings == Settings(
        30_000, Rate(7e-4, "falling"), ("a", Rate(1.0)), (1.0, 2.0), {"1": 2}, anything=[1, None]
    )
    assert isinstance(settings.steps, int) and from_mapping(Settings, to_mapping(settings), where="again") == settings
    assert from_mapping(Settings, {"steps": 1, "rate": {"peak": 1, "kind": False}}, where="file").rate.kind == "no"
    assert from_mapping(Settings, {"steps": 2**60 + 1}, where="file").steps == 2**60 + 1


@pytest.mark.parametrize(
    "values, words",
    [
        ([1], r"^file is \[1\]; expected fields of their own, some of steps, rate, names"),
        ({"step": 1}, r"^file has no field step; it has steps, rate, .*, anything\. Did you mean steps\?$"),
        ({"quiet": True}, "^file lacks steps, which has no default; add it"),
        ({"steps": True}, "^file.steps is True; expected a whole number"),
        ({"steps": "inf"}, "^file.steps is 'inf'; expected a whole number"),
        (
            {"steps": 1, "rate": {"kind": "odd"}},
            "^file.rate.kind is 'odd'; expected one of 'constant', 'falling', 'no'",
        ),
        ({"steps": 1, "names": "a"}, "^file.names is 'a'; expected a list"),
        (
            {"steps": 1, "names": ["a", 3]},
            r"^file.names\[1\] is 3; expected text. Or: file.names\[1\] is 3; expected f",
        ),
        ({"steps": 1, "pair": [1]}, r"^file.pair is \[1\]; expected 2 values"),
        ({"steps": 1, "weights": [1]}, r"^file.weights is \[1\]; expected a mapping"),
        ({"steps": 1, "weights": {"a": 0.5}}, "^file.weights.a is 0.5; expected a whole number"),
        ({"steps": 1, "quiet": "yes"}, "^file.quiet is 'yes'; expected true or false"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(values, words):
    with pytest.raises(ValueError, match=words):
        from_mapping(Settings, values, where="file")


def test_stored_numbers_are_numbers_and_later_fields_are_left_out():
    assert from_mapping(Rate, {"peak": 1, "later": 2}, where="file", exact=True, ignore_unknown=True) == Rate(1.0)
    for value in ("1", float("nan"), None):
        with pytest.raises(ValueError, match=r"^file.peak is .*; expected float, a finite number"):
            from_mapping(Rate, {"peak": value}, where="file", exact=True)
    with pytest.raises(ValueError, match=r"^file.steps is 1\.0; expected int, a whole number"):
        from_mapping(Settings, {"steps": 1.0}, where="file", exact=True)


def test_a_dataclass_may_refuse_what_its_annotations_do_not_allow():
    check_types(Settings(1))
    with pytest.raises(ValueError, match=r"^Settings.steps is 'a'; expected int, a whole number"):
        check_types(Settings("a"))  # type: ignore[arg-type]
    require_counts(Settings(3), 3, "steps")
    require_counts(Settings(3), 1, "pair", optional="null")
    with pytest.raises(ValueError, match=r"^Settings.steps is 3; expected a whole number, 4 or more, or null"):
        require_counts(Settings(3), 4, "steps", optional="null")
