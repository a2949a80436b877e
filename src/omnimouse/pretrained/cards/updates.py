"""Writing a card over one that is there, without losing what a person wrote.

A generated card ends with a comment that holds the hashes of its metadata and of its text. Where they still match,
nobody has edited the card and a newer one may replace it.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import yaml
from huggingface_hub import CardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

_MARK = re.compile(r"<!-- omnimouse card: metadata ([0-9a-f]{64}), text ([0-9a-f]{64})\.[^>]*-->\s*\Z")


def sign(data: CardData, text: str) -> str:
    """Joins metadata and text to a card that ends with the mark of a generated one."""
    text, metadata = text.strip(), data.to_dict()
    mark = (
        f"<!-- omnimouse card: metadata {_hash_metadata(metadata)}, text {_hash_text(text)}. Generated when the model "
        "was saved. Edit freely: a text that was edited is never overwritten. -->"
    )
    return f"{_block(metadata)}\n{text}\n\n{mark}\n"


def update_card(existing: str | None, new: str) -> str:
    """Returns the card to write where `existing` stands and `new` was generated.

    A text that is as it was generated is replaced. One that a person edited, or wrote, is kept word for word. Metadata
    that are as they were generated are replaced; of others only the keys that we manage change: `library_name`;
    `tags` (ours are added); `license` (only if there is none); `base_model` and its relation (if we know one); and
    `model-index` and `omnimouse`, which are ours alone, since scores of other weights must not stay.

    Raises:
        ValueError: The existing metadata cannot be read.
    """
    if existing is None or not existing.strip():
        return new
    (metadata, text, line_break), (fresh, fresh_text, _) = _parts(existing), _parts(new)
    mark = _MARK.search(text)
    metadata_hash, text_hash = mark.groups() if mark else (None, None)
    updated = fresh if metadata_hash == _hash_metadata(metadata) else _merged(metadata, fresh)
    if text_hash == _hash_text(_MARK.sub("", text)):
        return _block(updated) + fresh_text
    return existing if updated == metadata else _block(updated, line_break) + text


def _parts(content: str) -> tuple[dict[str, Any], str, str]:
    """Metadata of a card, everything after them, and how their lines end."""
    content = content.removeprefix("\ufeff")
    block = REGEX_YAML_BLOCK.search(content)
    unreadable = (
        "The metadata of the model card (README.md) that is there, between its lines of ---, cannot be read; mend them "
        "or move the file away"
    )
    try:
        metadata = yaml.safe_load(block[2]) if block else None
    except yaml.YAMLError as error:
        raise ValueError(f"{unreadable}: {error}") from None
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict):
        raise ValueError(f"{unreadable}: expected keys with values, got a {type(metadata).__name__}.")
    if block is None:
        return metadata, "\n" + content, "\n"
    return metadata, content[block.end() :], "\r\n" if "\r\n" in block[0] else "\n"


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Metadata that a person edited, with what we manage brought up to date."""
    tags = old.get("tags") or []
    tags = [tags] if isinstance(tags, str) else list(tags)
    merged = {**old, "library_name": new["library_name"], "tags": list(dict.fromkeys([*tags, *new["tags"]]))}
    if old.get("license") is None and "license" in new:
        merged["license"] = new["license"]
    if "base_model" in new:
        merged |= {name: new[name] for name in ("base_model", "base_model_relation")}
    for name in ("model-index", "omnimouse"):
        merged.pop(name, None)
        if name in new:
            merged[name] = new[name]
    return merged


def _block(metadata: dict[str, Any], line_break: str = "\n") -> str:
    dumped = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, line_break=line_break)
    return line_break.join(("---", f"{dumped.strip()}", "---", ""))


def _hash_metadata(metadata: dict[str, Any]) -> str:
    """Hash of the content: neither order nor layout of the YAML counts."""
    return hashlib.sha256(json.dumps(metadata, sort_keys=True, default=str).encode()).hexdigest()


def _hash_text(text: str) -> str:
    """Hash of a text; line endings and white space at line ends do not count."""
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return hashlib.sha256(lines.encode()).hexdigest()
