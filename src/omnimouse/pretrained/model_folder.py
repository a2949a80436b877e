"""Writing a whole model to a folder, so that nothing that lies there is lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from omnimouse.hub.sources import Source
from omnimouse.model.core_identity import core_settings, core_sha256, stored_settings
from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
from omnimouse.model.session_tables.session_surgery import without_sessions
from omnimouse.pretrained.cards.card_writer import CardOptions, write_model_card
from omnimouse.pretrained.session_files import (
    SESSIONS_FOLDER,
    read_index,
    select_sessions,
    write_index,
    write_session,
)
from omnimouse.pretrained.stored_core import CORE_WEIGHTS, core_weight_files, stored_core
from omnimouse.support.files import explained_writing, make_readable, sync, sync_tree
from omnimouse.support.tensor_files import write_tensors

FACE = "OmniMouseModel"
"""The class that opens the folder of a network that was saved without it (by a conversion)."""


def write_model_folder(
    model: OmniMouseNetwork,
    folder: Path,
    *,
    source: Source | None,
    sessions: str | Sequence[str],
    card: CardOptions,
    name: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    **kwargs: Any,
) -> None:
    """Writes a model's files into a folder, each whole or not at all, `config.json` last; the folder is made if needed.

    `source` is where the model came from and `name` the repo that the folder will be, if any; `state` are all of the
    model's tensors as generic code wants them saved (`whole_state`): in `model.safetensors`, and those of sessions in
    `sessions/` too. More arguments are for transformers' own `save_pretrained`.

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
    index = _other_sessions(core, settings, folder, keys)
    folder.mkdir(parents=True, exist_ok=True)
    with explained_writing(folder), tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as place:
        temporary = Path(place)
        _write_weights(model, temporary, weights, **kwargs)
        if model.processor is not None:
            model.processor.save_pretrained(temporary)
        for key in keys:
            tables = model.sessions.state(key) if state is None else {n: state[own] for n, own in names[key].items()}
            index[key] = write_session(temporary, model.sessions.specs[key], tables, settings)
        write_index(temporary, index)
        write_model_card(model, source, temporary, folder, index, card, name)
        _put_in_place(temporary, folder, kwargs.get("variant"))


def _put_in_place(temporary: Path, folder: Path, variant: str | None) -> None:
    """Moves written files to where they belong, `config.json` last: a folder that has it is complete."""
    sync_tree(temporary)
    written = core_weight_files((path.name for path in temporary.iterdir()), variant)
    for path in sorted(temporary.rglob("*"), key=lambda path: path.name == "config.json"):
        if path.name == "config.json":  # one file or shards of an earlier core would be loaded instead
            for stale in core_weight_files((path.name for path in folder.iterdir()), variant):
                if stale not in written:
                    (folder / stale).unlink()
        if path.is_file():
            target = folder / path.relative_to(temporary)
            target.parent.mkdir(exist_ok=True)
            make_readable(path)
            shutil.move(path, target)
    for changed in (folder / SESSIONS_FOLDER, folder):
        if changed.is_dir():
            sync(changed)


def whole_state(model: OmniMouseNetwork, given: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """All tensors that generic code wants saved, core and sessions: the given ones, else the model's.

    Raises:
        ValueError: The given ones are not those of this model, name by name.
    """
    own = model.state_dict()
    if given is None:
        return own
    lacking, unknown = (sorted(a.keys() - b.keys()) for a, b in ((own, given), (given, own)))
    if lacking or unknown:
        said = [f"{what} {', '.join(names[:4])}{', ...' * (len(names) > 4)} ({len(names)} tensors)" for what, names
                in (("it lacks", lacking), ("the model has no", unknown)) if names]  # fmt: skip
        raise ValueError(
            f"The state_dict to save is not one of this model: {'; '.join(said)}. Pass all of model.state_dict(), "
            "with values of your own, or remove sessions that are not to be saved (model.remove_session) first."
        )
    return {name: given[name] for name in own}


def _write_weights(model: OmniMouseNetwork, folder: Path, weights: Mapping[str, Tensor], **kwargs: Any) -> None:
    """Writes the configuration and `model.safetensors`, and no file of a session.

    With any options of transformers (shards, a variant, ...), it writes the files, which takes twice the memory.
    """
    if kwargs or any(tensor.is_meta for tensor in weights.values()):
        PreTrainedModel.save_pretrained(model, folder, state_dict=dict(weights), **kwargs)
        for path in sorted(folder.glob("*.safetensors")):
            write_tensors(path, load_file(path))
        return
    model.config.dtype = str(model.identity.neuron.weight.dtype).removeprefix("torch.")
    name = type(model).__name__
    model.config.architectures = [FACE if type(model) is OmniMouseNetwork else name]
    model.config.save_pretrained(folder)
    write_tensors(folder / CORE_WEIGHTS, weights)


def refuse_injected(model: OmniMouseNetwork) -> None:
    """Refuses a model with layers of peft, which a model folder cannot hold."""
    if model.injected_state_dict():
        raise ValueError(
            "The model carries layers that peft added (a LoRA), which a model folder cannot hold. Save them with "
            "save_pretrained of the PeftModel, or add them to the core's weights first: "
            "peft_model.merge_and_unload().save_pretrained(folder)."
        )


def _other_sessions(
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
