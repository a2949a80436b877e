"""Which session and animal an NWB file is of: from what it states, else from names as DANDI and BIDS give them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omnimouse.model.session_tables.session_names import animal_of
from omnimouse.recordings.nwb.nwb_file import name_in

_SUBJECT = re.compile(r"^sub-([^_/]+)", re.IGNORECASE)
_SESSION = re.compile(r"(?:^|_)ses-([^_/]+)", re.IGNORECASE)


def identity_of(file: Any, path: Path, session_key: str | None, animal_id: str | None) -> tuple[str, str, str]:
    """Session key, animal, and a line that says where they come from.

    The animal is the `subject_id`, without a "sub-" before it; else what follows "sub-" in the session's name, the
    file's or its folder's; else what the session key names. The session is the animal and the `session_id`, or what
    follows "ses-" in these names, or when it began. Characters that no file name should have become "_".
    A `session_key` or an `animal_id` of a mapping goes before what the file says.
    """
    subject, session = name_in(file, "general/subject/subject_id"), name_in(file, "general/session_id")
    animal, by = re.sub(r"^sub-", "", subject, flags=re.IGNORECASE), "subject_id"
    if animal_id is not None:
        animal, by = animal_id, "mapping"
    for place, text in (("session_id", session), ("file name", path.stem), ("folder", path.absolute().parent.name)):
        match = _SUBJECT.search(text)
        if not animal and match:
            animal, by = match[1], place
    session = _session(file, path, session, known_animal=bool(animal))
    animal, session = _safe_name(animal), _safe_name(session)
    # "m7-1-2" names its animal already, "m71-2" is another animal's.
    whole = re.match(rf"{re.escape(animal)}($|[^a-zA-Z0-9])", session) if animal else True
    key = session_key or (session if whole else "-".join(filter(None, (animal, session)))) or _safe_name(path.stem)
    if not animal:
        animal = animal_of(key)
        by = "from the key" if animal != key else "the session: none is named; write `animal_id` into a mapping"
    return key, animal, f"{key}, animal {animal} ({by})"


def _session(file: Any, path: Path, stated: str, *, known_animal: bool) -> str:
    """The session without its animal."""
    part = _SESSION.search(stated)
    session = part[1] if part else "" if _SUBJECT.search(stated) else stated
    if session:
        return session
    part = _SESSION.search(path.stem)
    if part:
        return part[1]
    began = re.sub(r"[^\dT]", "", name_in(file, "session_start_time")[:19])
    return began if known_animal and began else _SUBJECT.sub("", path.stem)


def _safe_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text.strip()).strip("._")
