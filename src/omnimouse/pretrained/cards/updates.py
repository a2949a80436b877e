"""Writing a card over one that is there, without losing what a person wrote.

A generated card ends with a comment that holds the hashes of its metadata and of its text. Where they still match,
nobody has edited the card and a newer one may replace it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

_MARK = re.compile(r"<!-- omnimouse card: metadata ([0-9a-f]{64}), text ([0-9a-f]{64})\.[^>]*-->\s*\Z")


def sign(metadata: dict[str, Any], text: str) -> str:
    """Joins metadata and text to a card that ends with the mark of a generated one."""
    text = text.strip()
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

    Args:
        existing: README.md as it is, or None.
        new: A card from `model_card` or `session_card`.

    Raises:
        ValueError: The existing metadata cannot be read.
    """
    if existing is None or not existing.strip():
        return new
    old, fresh = _Card.parse(existing), _Card.parse(new)
    metadata = fresh.metadata if old.has_generated_metadata else _merged(old.metadata, fresh.metadata)
    if old.has_generated_text:
        return _block(metadata) + fresh.text
    if metadata == old.metadata:
        return existing
    return _block(metadata, line_break=old.line_break) + old.text


@dataclass(frozen=True)
class _Card:
    """A card in parts: metadata and how their lines end, everything after them, the hashes of its mark if any."""

    metadata: dict[str, Any]
    line_break: str
    text: str
    metadata_hash: str | None
    text_hash: str | None

    @classmethod
    def parse(cls, content: str) -> _Card:
        content = content.removeprefix("\ufeff")
        block = REGEX_YAML_BLOCK.search(content)
        metadata: Any = {}
        if block:
            try:
                metadata = yaml.safe_load(block.group(2))
            except yaml.YAMLError as error:
                raise ValueError(f"{_UNREADABLE}: {error}") from None
            metadata = {} if metadata is None else metadata
        if not isinstance(metadata, dict):
            raise ValueError(f"{_UNREADABLE}: expected keys with values, got a {type(metadata).__name__}.")
        text = content[block.end() :] if block else "\n" + content
        mark = _MARK.search(text)
        line_break = "\r\n" if block and "\r\n" in block.group() else "\n"
        return cls(metadata, line_break, text, mark[1] if mark else None, mark[2] if mark else None)

    @property
    def has_generated_metadata(self) -> bool:
        return self.metadata_hash == _hash_metadata(self.metadata)

    @property
    def has_generated_text(self) -> bool:
        return self.text_hash == _hash_text(_MARK.sub("", self.text))


_UNREADABLE = (
    "The metadata of the model card (README.md) that is there, between its lines of ---, cannot be read; mend them or "
    "move the file away"
)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Metadata that a person edited, with what we manage brought up to date."""
    merged = dict(old)
    merged["library_name"] = new["library_name"]
    tags = old.get("tags") or []
    tags = [tags] if isinstance(tags, str) else list(tags)
    merged["tags"] = tags + [tag for tag in new["tags"] if tag not in tags]
    if old.get("license") is None and "license" in new:
        merged["license"] = new["license"]
    if "base_model" in new:
        merged["base_model"] = new["base_model"]
        merged["base_model_relation"] = new["base_model_relation"]
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
