"""The card of a folder or repo of recordings in the `datasets` form: which configurations there are, and how to use it.

A text that somebody wrote stays as it is; only the list of configurations is renewed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.reading import read_fields
from omnimouse.recordings.formats.dataset_form.dataset_tables import BETWEEN, METADATA, RECORDING, SCREEN, TRIALS
from omnimouse.support.files import write_text

CARD = "README.md"


def configurations(session: str, files: Iterable[str], content: str | None) -> list[dict[str, Any]]:
    """The entries of a card for the tables of one recording, that of the responses first.

    `load_dataset` caches a table under what its entry says, not under what is in its file: so the entry has to change
    with the content.
    """
    first = [RECORDING, "eye_tracker.arrow", "treadmill.arrow", SCREEN, BETWEEN, TRIALS]
    tables = sorted(name for name in files if name.endswith(".arrow"))
    tables.sort(key=lambda name: first.index(name) if name in first else len(first))
    return [
        {
            "config_name": session if name == RECORDING else f"{session}.{name.removesuffix('.arrow')}",
            "data_files": [{"split": "recording", "path": f"{session}/{name}"}],
            **({} if content is None else {"description": content}),
        }
        for name in tables
    ]


def card_text(
    sessions: Mapping[str, Iterable[str]], contents: Mapping[str, str | None], *, place: str, old: str | None
) -> str:
    """A card for recordings, whose file names `sessions` has by session key; `place` is what to open them by.

    `contents` tell the content of each from others (`content_of`); of those that are not named, the old card says it,
    whose text and other entries are kept.
    """
    if old is None:
        data = DatasetCardData(pretty_name="Recordings of mouse visual cortex", tags=["omnimouse", "neuroscience"])
        template = str(Path(__file__).with_name("dataset_card.md"))
        card = DatasetCard.from_template(data, template, place=place, session=min(sessions))
    else:
        card = DatasetCard(old)
    known = {
        str(entry.get("config_name")): entry.get("description")
        for entry in card.data.get("configs") or []
        if isinstance(entry, dict)
    }
    card.data["configs"] = [
        entry
        for key in sorted(sessions)
        for entry in configurations(key, sessions[key], contents.get(key, known.get(key)))
    ]
    return str(card)


def content_of(session: Path) -> str | None:
    """What changes with the content of a recording's tables; None where its writer did not say."""
    content = read_fields(session / METADATA, Findings())
    fingerprint = None if content is None else content.get("fingerprint")
    return f"content {fingerprint}" if isinstance(fingerprint, str) else None


def write_card(folder: Path) -> None:
    """Write or renew the card of a folder of recordings."""
    file = folder / CARD
    found = {
        entry.parent.name: [path.name for path in entry.parent.iterdir()] for entry in folder.glob(f"*/{METADATA}")
    }
    sessions = {key: names for key, names in found.items() if not key.startswith(".")}
    old = file.read_text(encoding="utf-8") if file.is_file() else None
    contents = {key: content_of(folder / key) for key in sessions}
    write_text(file, card_text(sessions, contents, place=folder.name, old=old))
