"""Writing a whole model to a folder, so that nothing that lies there is lost."""

from __future__ import annotations

import fnmatch
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor

from .card_writer import CardOptions, write_model_card
from .files import hash_tensors, make_readable
from .session_files import read_index, select_sessions, write_index, write_session

if TYPE_CHECKING:
    from .session_methods import WithSessions

CORE_WEIGHTS = "model.safetensors"


def core_weight_patterns(variant: str | None = None) -> list[str]:
    """Names of the files that may hold a core: one file, or shards with their index."""
    middle = f".{variant}" if variant else ""
    return [
        f"model{middle}.safetensors",
        f"model{middle}-?????-of-?????.safetensors",
        f"model.safetensors.index{middle}.json",
    ]


def core_weight_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """Those of some file names that may hold a core, sorted."""
    patterns = core_weight_patterns(variant)
    return sorted(name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns))


def stored_core(folder: Path) -> dict[str, Tensor]:
    """The core's tensors in a model folder, memory-mapped, whether in one file or in shards; empty without any.

    One file goes before shards, as it does for transformers.
    """
    one = folder / CORE_WEIGHTS
    if one.is_file():
        return load_file(one)
    found = core_weight_files(path.name for path in folder.iterdir()) if folder.is_dir() else []
    core: dict[str, Tensor] = {}
    for name in found:
        if name.endswith(".safetensors"):
            core |= load_file(folder / name)
    return core


def write_model_folder(
    model: WithSessions,
    folder: Path,
    *,
    sessions: str | Sequence[str],
    card: CardOptions,
    name: str | None = None,
    **kwargs: Any,
) -> None:
    """Writes a model's files into a folder, each whole or not at all, `config.json` last.

    Args:
        model: The model.
        folder: Where to; created if needed.
        sessions: Which of its sessions to write: `"all"`, or keys, short keys and globs.
        card: What the caller says for the card.
        name: The repo that the folder will be, if any.
        **kwargs: For transformers' own `save_pretrained`.

    Raises:
        ValueError: A session is not in the model, the folder holds sessions of another core, or the model carries
            layers of peft.
    """
    refuse_injected(model)
    keys = select_sessions(model.sessions.specs, sessions, "The model")
    index = other_sessions(model, folder, keys)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as place:
        temporary = Path(place)
        model.save_core(temporary, **kwargs)
        if model.processor is not None:
            model.processor.save_pretrained(temporary)
        for key in keys:
            index[key] = write_session(temporary, model.sessions.specs[key], model.sessions.state(key))
        write_index(temporary, index)
        write_model_card(model, temporary, folder, index, card, name)
        variant = kwargs.get("variant")
        written = core_weight_files((path.name for path in temporary.iterdir()), variant)
        for source in sorted(temporary.rglob("*"), key=lambda path: path.name == "config.json"):
            if source.name == "config.json":  # one file or shards of an earlier core would be loaded instead
                for stale in core_weight_files((path.name for path in folder.iterdir()), variant):
                    if stale not in written:
                        (folder / stale).unlink()
            if source.is_file():  # config.json last: a folder that has it is complete
                target = folder / source.relative_to(temporary)
                target.parent.mkdir(exist_ok=True)
                make_readable(source)
                shutil.move(source, target)


def refuse_injected(model: WithSessions) -> None:
    """Refuses a model with layers of peft, which a model folder cannot hold."""
    if model.injected_state_dict():
        raise ValueError(
            "The model carries layers that peft added (a LoRA), which a model folder cannot hold. Save them with "
            "save_pretrained of the PeftModel, or add them to the core's weights first: "
            "peft_model.merge_and_unload().save_pretrained(folder)."
        )


def other_sessions(model: WithSessions, folder: Path, written: Sequence[str]) -> dict[str, Any]:
    """Index entries of a folder's sessions that will not be written; they stay listed.

    Raises:
        ValueError: They belong to another core than the one about to be saved.
    """
    others: Mapping[str, Any] = {key: entry for key, entry in read_index(folder).items() if key not in written}
    stored = stored_core(folder) if others else {}
    if stored and hash_tensors(stored) != model.core_hash():
        raise ValueError(
            f"{folder} holds sessions of another core ({', '.join(list(others)[:5])}). Saving this core over it "
            "would orphan them. Choose another folder, or delete that one first."
        )
    return dict(others)
