"""Names of sessions and animals: the same ones are written in several ways."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

_LONG_KEY = re.compile(r"(?:dynamic|static)?(\d+-\d+-\d+)(?:-.*|_.*)?")
_LONG_ANIMAL = re.compile(r"(?:dynamic|static)?(\d+)")


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
