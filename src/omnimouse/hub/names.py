"""Cores that are known by name: those that ship with the package, and those that the authors published."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

PACKAGED_CORES = ("omnimouse-tiny",)
PACKAGED_FOLDER = Path(__file__).parent / "cores"

PUBLISHED_CORES: MappingProxyType[str, str] = MappingProxyType(
    {f"omnimouse-{size.lower()}": f"the-enigma-project/omnimouse-{size}" for size in ("1M", "5M", "20M", "80M", "300M")}
)
"""Names of the authors' cores -> their repos, which hold one pickle per process of the training run."""


def core_name(name: object) -> str | None:
    """The packaged or published core that a name means (case and underscores do not matter), or `None`."""
    alias = str(name).lower().replace("_", "-")
    return alias if alias in PACKAGED_CORES or alias in PUBLISHED_CORES else None


def is_core_name(name: object) -> bool:
    """Whether something is the name of a packaged or published core, and no folder here."""
    return core_name(name) is not None and not Path(str(name)).exists()


def missing_note(repo: str) -> str:
    """What to say of a published repo that may well be missing; a sentence and a space, or nothing."""
    if repo == PUBLISHED_CORES["omnimouse-300m"]:
        return "The 300M weights were announced, but had not been uploaded when the other sizes were released. "
    return ""
