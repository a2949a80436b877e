"""What makes a fine-tune the run that it is: a checkpoint goes on only with the same data, model, masks and recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from omnimouse.model.processing_omnimouse import processor_fields
from omnimouse.model.session_tables.session_specs import hash_unit_ids
from omnimouse.model.session_tables.session_surgery import TENSORS
from omnimouse.recordings import Windows
from omnimouse.recordings.views.fingerprint import window_fingerprint
from omnimouse.support.outputs import identity_differences
from omnimouse.support.tensor_files import hash_tensors
from omnimouse.training.finetuning.finetune_checkpoint import Checkpoint
from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe
from omnimouse.training.finetuning.loop import Validation
from omnimouse.training.finetuning.parameters import open_core_parameters
from omnimouse.training.shared.data import MaskChoice
from omnimouse.training.shared.identity import (
    architecture,
    data_fingerprint,
    warn_of_unknown,
)

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork

NOTED_LATER = ("recording.", "architecture", "trained", "animal_vector")
"""How entries of a fine-tune's identity begin that checkpoints of earlier versions lack."""


def finetune_identity(
    model: OmniMouseNetwork,
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
    recording = windows.recording
    trained = open_core_parameters(model) if recipe.train_core else {}
    listing = "\n".join(sorted(trained)).encode()
    core = f"{len(trained)} parameters, sha256 {hashlib.sha256(listing).hexdigest()[:16]}" if trained else "frozen"
    identity = {
        **recipe.identity(),
        "session": key,
        "n_neurons": recording.n_neurons,
        "unit_ids": hash_unit_ids(recording.unit_ids),
        "processor": processor_fields(windows.processor),
        "masks": [asdict(mask) for mask in choice.masks],
        "mask_weights": list(choice.weights),
        "training_windows": window_fingerprint(windows.starts),
        "validation": None,
        "architecture": architecture(model),
        **{f"recording.{part}": text for part, text in data_fingerprint(windows).items()},
        "trained": {"session": TENSORS if recipe.train_animal else TENSORS[:3], "core": core},
        "start_from": recipe.start_from,
    }
    if validation is not None:
        identity["validation"] = {
            "windows": window_fingerprint(validation.windows.starts[validation.indices]),
            "masks": {name: asdict(mask) for name, mask in validation.masks.items()},
            "all_neurons": validation.neuron_ids is None,
        }
    if not recipe.train_animal:
        identity["animal_vector"] = hash_tensors({"animal": _animal_vector(model, windows, key)})[:16]
    tables = {name for name, _ in model.session_named_parameters()}
    if any(name not in trained and name not in tables for name, _ in model.named_parameters()):
        # Checkpoints hold what is trained only, and continue on whatever else there is.
        frozen = {name: t for name, t in model.state_dict().items() if name not in trained and name not in tables}
        identity["core_hash"] = hash_tensors(frozen)
    return identity


def _animal_vector(model: OmniMouseNetwork, windows: Windows, key: str) -> torch.Tensor:
    """The animal vector that a session has, or will have when it is added."""
    if key in model.session_keys:
        return model.sessions.animal(key).detach().cpu()
    known = model.sessions.animal_vector(model.sessions.known_animal(str(windows.recording.animal_id)))
    return (model.identity.initial[2] if known is None else known).detach().cpu()


def check_identity(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Refuses to continue a run other than the one the checkpoint belongs to.

    Raises:
        ValueError: lists every entry that differs, as it was and as it is, and what to do.

    Warns:
        UserWarning: the checkpoint is of an earlier version, which did not note all that is compared.
    """
    unknown = [name for name in identity if name.startswith(NOTED_LATER) and name not in checkpoint.identity]
    known = {name: value for name, value in identity.items() if name not in unknown}
    differences = identity_differences(checkpoint.identity, known)
    if differences:
        raise ValueError(
            f"The checkpoint {checkpoint.path} belongs to another run:\n"
            + "\n".join(differences)
            + "\nRepeat the call with the checkpoint's values (and its recording) to continue that run, pass "
            "resume=False (--no-resume) to discard it and begin anew, or choose another output_dir (--output)."
        )
    if unknown:
        warn_of_unknown(checkpoint.path, unknown)
