"""The corpus of the release: its manifest of 333 sessions, and its named collections of sessions; no data.

Both lie beside this file: `corpus_manifest.csv` as published, and `collections.json`, where each collection says what
it is made of. Two of the collections' sessions, and the five newer mice of SENSORIUM 2023, are not in the manifest.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omnimouse.model.session_tables.session_names import matches_glob, same_animal, short_key
from omnimouse.support.files import read_mapping
from omnimouse.support.validation import from_mapping

_FOLDER = Path(__file__).parent

CORPUS_REPO = "the-enigma-project/omnimouse-dataset"
"""The authors' dataset on the Hub; gated."""


@dataclass(frozen=True)
class CorpusSession:
    """One session of the corpus, as its manifest describes it.

    Attributes:
        key: short key, `animal-session-scan`, e.g. `"29156-11-10"`.
        published_key: key in full, e.g. `"dynamic29156-11-10-Video-<hash>_30hz"`.
        animal_id: its animal, e.g. `"29156"`.
        n_neurons: neurons of its population.
        scan_rate_hz: rate at which the microscope scanned, rounded to whole Hz.
        response_rate_hz: rate at which responses are stored, in Hz; higher than the scan rate, so interpolated.
        n_samples: samples of each neuron at that rate.
        duration_s: length of the recording in seconds.
        eye_rate_hz: rate of the eye tracker, rounded to whole Hz.
        treadmill_rate_hz: rate of the treadmill, rounded to whole Hz.
        modalities: what was shown, of "blank", "image", "video" and "INVALID".
        sex: "M" or "F"; None if unknown.
        genotype: as written there; None if unknown.
    """

    key: str
    published_key: str
    animal_id: str
    n_neurons: int
    scan_rate_hz: int
    response_rate_hz: int
    n_samples: int
    duration_s: float
    eye_rate_hz: int
    treadmill_rate_hz: int
    modalities: tuple[str, ...]
    sex: str | None
    genotype: str | None


_FIELDS = {
    "session_key": "published_key",
    "original_hz": "scan_rate_hz",
    "response_hz": "response_rate_hz",
    "n_timestamps": "n_samples",
    "eye_hz": "eye_rate_hz",
    "treadmill_hz": "treadmill_rate_hz",
}
"""Columns of the manifest that have another name here."""


@cache
def corpus_sessions() -> tuple[CorpusSession, ...]:
    """Returns the 333 sessions of the manifest, in its order; read once."""
    with (_FOLDER / "corpus_manifest.csv").open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = [
            {_FIELDS.get(name, name): text or None for name, text in row.items()} for row in csv.DictReader(file)
        ]
    for row in rows:
        row |= {"key": short_key(row["published_key"]), "modalities": row["modalities"].split("|")}
    return tuple(from_mapping(CorpusSession, row, where="the manifest", ignore_unknown=True) for row in rows)


def collection_names() -> tuple[str, ...]:
    """Returns the names of all collections, large ones of training first."""
    return tuple(_collections())


def collection(name: str) -> tuple[str, ...]:
    """Returns the short keys of a collection's sessions, each once, in the order of the release's list.

    Args:
        name: one of `collection_names()`, e.g. `"scaling_laws_32"`.

    Raises:
        ValueError: no such collection; those there are, are listed.
    """
    if name not in _collections():
        meant = _meant(str(name), collection_names())
        raise ValueError(
            f"There is no collection {name!r} of sessions{meant} There are {', '.join(collection_names())}."
        )
    return _collections()[name]


def choose_sessions(what: str | Iterable[str], keys: Iterable[str], where: str) -> tuple[list[str], list[str]]:
    """Finds sessions by keys, globs of keys, and names of collections.

    Keys may be short or in full, as may those that there are; globs are compared with both. Errors name `where`.

    Returns:
        The chosen ones of `keys`, each once: those of a collection in its order, all others in the order of `keys`. And
        the short keys of the collections' sessions that are not among them.

    Raises:
        ValueError: nothing is asked for, or something that is neither there nor the name of a collection.
    """
    keys, chosen, missing = list(keys), dict[str, None](), dict[str, None]()
    wanted = [what] if isinstance(what, str) else list(what)
    if not wanted:
        raise ValueError("No sessions are asked for. Name keys, globs of keys ('29515-*') or collections.")
    for name in wanted:
        if name in _collections():
            by_short_key = {short_key(key): key for key in keys}
            for key in collection(name):
                if key in by_short_key:
                    chosen[by_short_key[key]] = None
                else:
                    missing[key] = None
            continue
        names = (name, short_key(name))
        found = [key for key in keys if key in names or short_key(key) in names]
        found = found or [key for key in keys if matches_glob(key, name)]
        if not found:
            meant = _meant(name, [*collection_names(), *map(short_key, keys)])
            raise ValueError(
                f"{where} has no session {name!r}, and there is no collection of that name{meant} `omnimouse list` "
                f"shows the sessions of the corpus; collections are {', '.join(collection_names())}."
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen), list(missing)


def filter_sessions(
    sessions: Iterable[CorpusSession],
    *,
    animals: Iterable[str] = (),
    min_neurons: int | None = None,
    max_neurons: int | None = None,
    modalities: Iterable[str] = (),
) -> list[CorpusSession]:
    """Returns the sessions that fit, in their order.

    Args:
        sessions: any sessions of the corpus.
        animals: ids, `"29515"` or `"dynamic29515"`, one of which is its animal's; any animal by default.
        min_neurons: the fewest neurons.
        max_neurons: the most neurons.
        modalities: what must have been shown, all of it; upper or lower case.

    Raises:
        ValueError: no session of the corpus has such an animal or modality.
    """
    animals, modalities = list(animals), [name.lower() for name in modalities]
    for animal in animals:
        if not any(same_animal(session.animal_id, animal) for session in corpus_sessions()):
            raise ValueError(f"The corpus has no animal {animal!r}. `omnimouse list` shows the animals there are.")
    known = sorted({name.lower() for session in corpus_sessions() for name in session.modalities})
    for modality in modalities:
        if modality not in known:
            raise ValueError(f"The corpus has no modality {modality!r}. There are {', '.join(known)}.")
    return [
        session
        for session in sessions
        if (not animals or any(same_animal(session.animal_id, animal) for animal in animals))
        and (min_neurons is None or session.n_neurons >= min_neurons)
        and (max_neurons is None or session.n_neurons <= max_neurons)
        and {name.lower() for name in session.modalities}.issuperset(modalities)
    ]


def _meant(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about a name that is not known."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "."


@cache
def _collections() -> dict[str, tuple[str, ...]]:
    content = read_mapping(_FOLDER / "collections.json", "collections of sessions")
    return {name: tuple(entry["sessions"]) for name, entry in content.items()}
