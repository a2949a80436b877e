"""Which session and animal an NWB file is of: from what it states, else from names as DANDI and BIDS give them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omnimouse.recordings.nwb_file import name_in

_SUBJECT = re.compile(r"^sub-([^_/]+)", re.IGNORECASE)
_SCAN = re.compile(r"(?P<animal>[^-]+)-\d+-\d+")
_SESSION = re.compile(r"(?:^|_)ses-([^_/]+)", re.IGNORECASE)


def identity_of(file: Any, path: Path, session_key: str | None, animal_id: str | None) -> tuple[str, str, str]:
    """Session key, animal, and a line that says where they come from.

    The animal is the `subject_id`, without a "sub-" before it; else what follows "sub-" in the session's name, the
    file's or its folder's. The session is the animal and the `session_id`, or what follows "ses-" in these names, or
    when it began. Characters that no file name should have become "_".

    Args:
        file: the open file.
        path: where it lies.
        session_key: as a mapping has it, None for what the file says.
        animal_id: the same.

    Returns:
        The key, the animal, the line.
    """
    subject, session = name_in(file, "general/subject/subject_id"), name_in(file, "general/session_id")
    animal, by = re.sub(r"^sub-", "", subject, flags=re.IGNORECASE), "subject_id"
    if animal_id is not None:
        animal, by = animal_id, "mapping"
    for place, text in (("session_id", session), ("file name", path.stem), ("folder", path.absolute().parent.name)):
        match = _SUBJECT.search(text)
        if not animal and match:
            animal, by = match[1], place
    part = _SESSION.search(session)
    if part or _SUBJECT.search(session):
        session = part[1] if part else ""
    if not session:
        part = _SESSION.search(path.stem)
        began = name_in(file, "session_start_time")
        session = part[1] if part else began if animal else path.stem
        session = re.sub(r"[^\dT]", "", began[:19]) if session == began else session
    animal, session = _named(animal), _named(session)
    # "m7-1-2" names its animal already, "m71-2" is another animal's.
    whole = animal and re.match(rf"{re.escape(animal)}($|[^a-zA-Z0-9])", session)
    key = session if not animal or whole else f"{animal}-{session}" if session else animal
    key = session_key or key or _named(path.stem)
    if not animal:
        # Sessions of which nobody says whose they are share no animal, unless their keys are animal-session-scan.
        scan = _SCAN.fullmatch(key)
        animal, by = (
            (scan["animal"], "from the key") if scan else (key, "none is named; write `animal_id` into a mapping")
        )
    return key, animal, f"{key}, animal {animal} ({by})"


def _named(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text.strip()).strip("._")
