"""Names of sessions and animals: the same ones are written in several ways, and keys tell whose session it is."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

_LONG_KEY = re.compile(r"(?:dynamic|static)?(\d+-\d+-\d+)(?:-.*|_.*)?")
_LONG_ANIMAL = re.compile(r"(?:dynamic|static)?(\d+)")

_ENTITY = re.compile(
    r"(?:^|[_/])(?:sub|subject|mouse|animal)-(?P<label>[^_/]+?)(?=$|[_/]|-(?:ses|session|day|run|scan)\b)"
)
"""The animal in names made of keys and values, such as "sub-M1_ses-1" (BIDS, DANDI)."""

_NUMBERED = re.compile(r"(?P<animal>[^-]+)-\d+(?:-\d+)+")
"""Animal, session and scan, such as "17797-4-7"."""

_DATE = re.compile(r"(?:19|20)\d\d-?[01]\d-?[0-3]\d")


def short_key(key: str) -> str:
    """`animal-session-scan` of a key as published, `"dynamic29515-10-12-Video-..._30hz"`; other keys as they are."""
    match = _LONG_KEY.fullmatch(key)
    return match[1] if match else key


def match_keys(wanted: str, keys: Iterable[str]) -> list[str]:
    """The keys meant by `wanted`: itself if it is one, else those of the same `animal-session-scan`, sorted."""
    keys = sorted(keys)
    return [wanted] if wanted in keys else [key for key in keys if short_key(key) == short_key(wanted)]


def matches_glob(key: str, pattern: str) -> bool:
    """Whether a key, as it is or as `animal-session-scan`, is one of those that a glob stands for."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in (key, short_key(key)))


def same_animal(first: str, second: str) -> bool:
    """Whether two ids mean one animal: published weights write `"dynamic29515"` where recordings say `"29515"`."""
    ids = [match[1] if (match := _LONG_ANIMAL.fullmatch(name)) else name for name in (first, second)]
    return ids[0] == ids[1]


def animal_of(session_key: str) -> str:
    """The animal that a session key names.

    Keys like ``<animal>-<session>-<scan>`` and ``sub-<animal>_ses-<session>`` name one. Any other key stands for an
    animal of its own: taking one animal for several costs a vector, taking several for one mixes them up.

    Args:
        session_key: The key, or a folder's name.
    """
    if entity := _ENTITY.search(session_key):
        return entity["label"]
    numbered = _NUMBERED.fullmatch(session_key)
    return session_key if numbered is None or _DATE.match(session_key) else numbered["animal"]
