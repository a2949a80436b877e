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

from omnimouse.model.core_identity import core_settings, core_sha256, stored_settings
from omnimouse.model.sessions import without_sessions
from omnimouse.pretrained.cards.writer import CardOptions, write_model_card
from omnimouse.pretrained.session_files import (
    SESSIONS_FOLDER,
    read_index,
    select_sessions,
    write_index,
    write_session,
)
from omnimouse.support.files import explained_writing, make_readable, sync, sync_tree

if TYPE_CHECKING:
    from omnimouse.pretrained.session_methods import WithSessions

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

    One file goes before shards, as it does for transformers. Tables of sessions, which lie beside the core in folders
    that generic code wrote, are left out.
    """
    found = core_weight_files(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [CORE_WEIGHTS] if CORE_WEIGHTS in found else [name for name in found if name.endswith(".safetensors")]
    stored: dict[str, Tensor] = {}
    for name in found:
        stored |= load_file(folder / name)
    return without_sessions(stored)


def write_model_folder(
    model: WithSessions,
    folder: Path,
    *,
    sessions: str | Sequence[str],
    card: CardOptions,
    name: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Writes a model's files into a folder, each whole or not at all, `config.json` last.

    Args:
        model: The model.
        folder: Where to; created if needed.
        sessions: Which of its sessions to write: `"all"`, or keys, short keys and globs.
        card: What the caller says for the card.
        name: The repo that the folder will be, if any.
        state: All of the model's tensors as generic code wants them saved (`whole_state`). They then lie in
            `model.safetensors` together, where such code looks for them, and those of the sessions in `sessions/` too.
        **kwargs: For transformers' own `save_pretrained`.

    Raises:
        ValueError: A session is not in the model, the folder holds sessions of another core, or the model carries
            layers of peft.
    """
    refuse_injected(model)
    keys = select_sessions(model.sessions.specs, sessions, "The model")
    names = {key: model.sessions.parameter_names(key) for key in keys}
    core = model.core_state_dict() if state is None else without_sessions(state)
    weights = core if state is None else core | {n: state[n] for key in keys for n in names[key].values()}
    settings = core_settings(model.config)
    index = other_sessions(core, settings, folder, keys)
    folder.mkdir(parents=True, exist_ok=True)
    with explained_writing(folder), tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as place:
        temporary = Path(place)
        model.save_weights(temporary, weights, **kwargs)
        if model.processor is not None:
            model.processor.save_pretrained(temporary)
        for key in keys:
            tables = model.sessions.state(key) if state is None else {n: state[own] for n, own in names[key].items()}
            index[key] = write_session(temporary, model.sessions.specs[key], tables, settings)
        write_index(temporary, index)
        write_model_card(model, temporary, folder, index, card, name)
        variant = kwargs.get("variant")
        sync_tree(temporary)
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
        for changed in (folder / SESSIONS_FOLDER, folder):
            if changed.is_dir():
                sync(changed)


def refuse_injected(model: WithSessions) -> None:
    """Refuses a model with layers of peft, which a model folder cannot hold."""
    if model.injected_state_dict():
        raise ValueError(
            "The model carries layers that peft added (a LoRA), which a model folder cannot hold. Save them with "
            "save_pretrained of the PeftModel, or add them to the core's weights first: "
            "peft_model.merge_and_unload().save_pretrained(folder)."
        )


def other_sessions(
    core: Mapping[str, Tensor], settings: Mapping[str, Any], folder: Path, written: Sequence[str]
) -> dict[str, Any]:
    """Index entries of a folder's sessions that will not be written; they stay listed.

    Raises:
        ValueError: They belong to another core than the one about to be saved.
    """
    others: Mapping[str, Any] = {key: entry for key, entry in read_index(folder).items() if key not in written}
    stored = stored_core(folder) if others else {}
    if stored and core_sha256(stored, stored_settings(folder)) != core_sha256(core, settings):
        raise ValueError(
            f"{folder} holds sessions of another core ({', '.join(list(others)[:5])}). Saving this core over it "
            "would orphan them. Choose another folder, or delete that one first."
        )
    return dict(others)
