"""Whose recording it is, as far as a session key or the name of a folder tells."""

from __future__ import annotations

import re

_ENTITY = re.compile(
    r"(?:^|[_/])(?:sub|subject|mouse|animal)-(?P<label>[^_/]+?)(?=$|[_/]|-(?:ses|session|day|run|scan)\b)"
)
"""The animal in names made of keys and values, such as "sub-M1_ses-1" (BIDS, DANDI)."""

_NUMBERED = re.compile(r"(?P<animal>[^-]+)-\d+(?:-\d+)+")
"""Animal, session and scan, such as "17797-4-7"."""

_DATE = re.compile(r"(?:19|20)\d\d-?[01]\d-?[0-3]\d")


def animal_of(session_key: str) -> str:
    """The animal that a session key names.

    Keys like ``<animal>-<session>-<scan>`` and ``sub-<animal>_ses-<session>`` name one. Any other key stands for an
    animal of its own: taking one animal for several costs a vector, taking several for one mixes them up.

    Args:
        session_key: the key, or a folder's name.

    Returns:
        Its part that names the animal, or all of it.
    """
    entity = _ENTITY.search(session_key)
    if entity is not None:
        return entity["label"]
    numbered = _NUMBERED.fullmatch(session_key)
    if numbered is None or _DATE.match(session_key):
        return session_key
    return numbered["animal"]
