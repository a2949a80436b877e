"""The card of a folder or repo of recordings in the `datasets` form: which configurations there are, and how to use it.

A text that somebody wrote stays as it is; only the list of configurations is renewed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from omnimouse.files import write_text
from omnimouse.hub import PACKAGED_FOLDER
from omnimouse.recordings.dataset_form import BETWEEN, METADATA, RECORDING, SCREEN, TRIALS

CARD = "README.md"

TEMPLATE = PACKAGED_FOLDER / "cards" / "dataset.md"


def configurations(session: str, files: Iterable[str]) -> list[dict[str, Any]]:
    """The entries of a card for the tables of one recording, that of the responses first."""
    order = {RECORDING: 0, "eye_tracker.arrow": 1, "treadmill.arrow": 2, SCREEN: 3, BETWEEN: 4, TRIALS: 5}
    tables = sorted((name for name in files if name.endswith(".arrow")), key=lambda name: (order.get(name, 9), name))
    return [
        {
            "config_name": session if name == RECORDING else f"{session}.{name.removesuffix('.arrow')}",
            "data_files": [{"split": "recording", "path": f"{session}/{name}"}],
        }
        for name in tables
    ]


def card_text(sessions: Mapping[str, Iterable[str]], *, place: str, old: str | None) -> str:
    """A card for recordings.

    Args:
        sessions: file names of every recording by its session key.
        place: what to open it by.
        old: the card that is there, whose text and other entries are kept.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    if old is None:
        data = DatasetCardData(pretty_name="Recordings of mouse visual cortex", tags=["omnimouse", "neuroscience"])
        template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), keep_trailing_newline=True)
        body = template.render(place=place, session=min(sessions))
        card = DatasetCard(f"---\n{data.to_yaml()}\n---\n{body}")
    else:
        card = DatasetCard(old)
    card.data["configs"] = [entry for key in sorted(sessions) for entry in configurations(key, sessions[key])]
    return str(card)


def write_card(folder: Path) -> None:
    """Write or renew the card of a folder of recordings."""
    file = folder / CARD
    found = {
        entry.parent.name: [path.name for path in entry.parent.iterdir()] for entry in folder.glob(f"*/{METADATA}")
    }
    sessions = {key: names for key, names in found.items() if not key.startswith(".")}
    old = file.read_text(encoding="utf-8") if file.is_file() else None
    write_text(file, card_text(sessions, place=folder.name, old=old))
