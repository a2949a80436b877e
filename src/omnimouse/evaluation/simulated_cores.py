"""Saying once that a core has seen no real neuron, where it is used on a recording that is not simulated."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from omnimouse.hub.names import PACKAGED_CORES, PACKAGED_FOLDER
from omnimouse.recordings.simulation.simulated import truth_folder
from omnimouse.support.files import read_mapping

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
    from omnimouse.recordings import Recording

TRAINING_FILE = "training.json"
"""What a packaged core was trained on: `neurons`, "simulated" or "real", and hashes of the core that this is said of
(`core_sha256`), as it is loaded in float32 and in bfloat16."""

_SIMULATED_ANIMAL = re.compile(r"sim\d+")

_log = logging.getLogger(__name__)
_said: set[tuple[str, str]] = set()


def say_if_only_simulated(model: OmniMouseNetwork, recording: Recording) -> None:
    """Logs one line, once per process and session, if the core knows simulated neurons only and the recording is real.

    A core is known by its hash, wherever it lies; once trained further, it is another one. A recording is simulated
    when its truth lies beside it, or its animal is named like a simulated one.
    """
    if truth_folder(recording.path).is_dir() or _SIMULATED_ANIMAL.fullmatch(recording.animal_id):
        return
    name = _simulated_core(model)
    if name is not None and (name, recording.session_key) not in _said:
        _said.add((name, recording.session_key))
        _log.warning(
            "The core %s was trained on simulated mice only and has seen no real neuron: expect less of it for session "
            "%s than of a core that was trained on real recordings.",
            name,
            recording.session_key,
        )


def _simulated_core(model: OmniMouseNetwork) -> str | None:
    """The packaged core that a model has, if it was trained on simulated neurons only."""
    for name in PACKAGED_CORES:
        config = read_mapping(PACKAGED_FOLDER / name / "config.json", "the architecture of a core")
        if config["hidden_size"] != model.config.hidden_size:  # hashing a large core takes a while
            continue
        training = read_mapping(PACKAGED_FOLDER / name / TRAINING_FILE, "what a core was trained on")
        if training["neurons"] == "simulated" and model.core_hash() in training["core_sha256"]:
            return name
    return None
