"""What makes a fine-tune the run that it is: a checkpoint goes on only with the same data, model, masks and recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from omnimouse.model.processing_omnimouse import processor_fields
from omnimouse.model.sessions import TENSORS, hash_unit_ids
from omnimouse.recordings import Windows
from omnimouse.recordings.views.fingerprint import fingerprint
from omnimouse.support.tensor_files import hash_tensors
from omnimouse.training.shared.data import MaskChoice
from omnimouse.training.shared.loop import Validation
from omnimouse.training.shared.recipe import FinetuneRecipe, open_core_parameters

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseModel


def run_identity(
    model: OmniMouseModel,
    key: str,
    recipe: FinetuneRecipe,
    windows: Windows,
    choice: MaskChoice,
    validation: Validation | None,
) -> dict[str, Any]:
    """Returns what a checkpoint must have in common with a run that continues from it.

    That is the recipe, the recording (`recordings.fingerprint`), how windows are cut and which are used, the masks,
    the architecture, what is trained, and the values of what is not.
    """
    recording, processor = windows.recording, windows.processor
    identity: dict[str, Any] = {f"recipe.{name}": value for name, value in asdict(recipe).items()}
    identity |= {
        "session": key,
        "n_neurons": recording.n_neurons,
        "unit_ids": hash_unit_ids(recording.unit_ids),
        "processor": processor_fields(processor),
        "masks": [asdict(mask) for mask in choice.masks],
        "mask_weights": list(choice.weights),
        "training_windows": window_fingerprint(windows.starts),
        "validation": None,
        "architecture": architecture(model),
    }
    identity |= {f"recording.{part}": text for part, text in data_fingerprint(windows).items()}
    if validation is not None:
        identity["validation"] = {
            "windows": window_fingerprint(validation.windows.starts[validation.indices]),
            "masks": {name: asdict(mask) for name, mask in validation.masks.items()},
            "all_neurons": validation.neuron_ids is None,
        }
    trained = {} if recipe.core is None else open_core_parameters(model)
    identity["trained"] = {"session": TENSORS if recipe.train_animal else TENSORS[:3], "core": _listed(trained)}
    if not recipe.train_animal:
        identity["animal_vector"] = hash_tensors({"animal": _animal_vector(model, windows, key)})[:16]
    tables = {name for name, _ in model.session_named_parameters()}
    if any(name not in trained and name not in tables for name, _ in model.named_parameters()):
        # Checkpoints hold what is trained only, and continue on whatever else there is.
        frozen = {name: t for name, t in model.state_dict().items() if name not in trained and name not in tables}
        identity["core_hash"] = hash_tensors(frozen)
    return identity


def architecture(model: OmniMouseModel) -> dict[str, Any]:
    """Returns all fields of a model's configuration that are its own, those of the losses included."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    return {name: config[name] for name in sorted(type(model.config).__annotations__) if name in config}


def data_fingerprint(windows: Windows) -> dict[str, str]:
    """Returns the fingerprint of the recording that windows are cut from, at their size of frames."""
    processor = windows.processor
    return fingerprint(windows.recording, height=processor.frame_height, width=processor.frame_width)


def window_fingerprint(starts: np.ndarray) -> str:
    """Returns a short description of window starts in which two different lists differ."""
    return f"{len(starts)} windows, sha256 {hashlib.sha256(starts.astype('<f8').tobytes()).hexdigest()[:16]}"


def _listed(names: Iterable[str]) -> str:
    """A short description of names in which two different sets differ."""
    listing = sorted(names)
    digest = hashlib.sha256("\n".join(listing).encode()).hexdigest()[:16]
    return f"{len(listing)} parameters, sha256 {digest}" if listing else "frozen"


def _animal_vector(model: OmniMouseModel, windows: Windows, key: str) -> torch.Tensor:
    """The animal vector that a session has, or will have when it is added."""
    if key in model.session_keys:
        return model.sessions.animal(key).detach().cpu()
    known = model.sessions.animal_vector(model.sessions.known_animal(str(windows.recording.animal_id)))
    return (model.identity.initial[2] if known is None else known).detach().cpu()
