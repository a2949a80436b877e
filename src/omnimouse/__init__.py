"""OmniMouse: one transformer for mouse visual cortex, as a Hugging Face-style package.

Importing it costs next to nothing: a public name is loaded when it is first used, and transformers learns of our
classes when its Auto classes are imported (`pretrained/auto_classes.py`).
"""

from __future__ import annotations

import sys

from omnimouse.pretrained import auto_classes
from omnimouse.support.lazy_names import lazy_names
from omnimouse.support.version import __version__ as __version__

TYPE_CHECKING = False  # what type checkers take for True, without importing typing
if TYPE_CHECKING:
    from omnimouse.evaluation import evaluate_static, write_static_submission
    from omnimouse.evaluation.evaluate import evaluate
    from omnimouse.evaluation.predict import predict
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.masking.masks import EVALUATION_MASKS, TASKS, TRAINING_MASKS, Mask
    from omnimouse.model.modeling_omnimouse import OmniMouseOutput
    from omnimouse.model.processing_omnimouse import OmniMouseProcessor
    from omnimouse.pretrained.omnimouse_model import OmniMouseModel
    from omnimouse.pretrained.published.conversion import convert
    from omnimouse.pretrained.source_kinds import session_keys
    from omnimouse.recordings import (
        Recording,
        Windows,
        import_nwb,
        open_recording,
        recording_from_arrays,
        save_recording,
    )
    from omnimouse.recordings.simulation.simulated import simulate_recording
    from omnimouse.training import WindowCollator, anneal, train
    from omnimouse.training.finetuning.finetune import finetune

_PLACES = {
    "evaluation": "evaluate evaluate_static predict write_static_submission",
    "model.configuration_omnimouse": "OmniMouseConfig",
    "model.masking.masks": "EVALUATION_MASKS TASKS TRAINING_MASKS Mask",
    "model.modeling_omnimouse": "OmniMouseOutput",
    "model.processing_omnimouse": "OmniMouseProcessor",
    "pretrained.omnimouse_model": "OmniMouseModel",
    "pretrained.published.conversion": "convert",
    "pretrained.source_kinds": "session_keys",
    "recordings": "Recording Windows import_nwb open_recording recording_from_arrays save_recording",
    "recordings.simulation.simulated": "simulate_recording",
    "training": "WindowCollator anneal finetune train",
}
"""Where each public name comes from. No module of this package has the name of one of them."""

__all__ = [
    "EVALUATION_MASKS",
    "TASKS",
    "TRAINING_MASKS",
    "Mask",
    "OmniMouseConfig",
    "OmniMouseModel",
    "OmniMouseOutput",
    "OmniMouseProcessor",
    "Recording",
    "WindowCollator",
    "Windows",
    "anneal",
    "convert",
    "evaluate",
    "evaluate_static",
    "finetune",
    "import_nwb",
    "open_recording",
    "predict",
    "recording_from_arrays",
    "save_recording",
    "session_keys",
    "simulate_recording",
    "train",
    "write_static_submission",
]


__getattr__ = lazy_names(__name__, _PLACES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# At the end, since our classes are imported at once where the Auto classes are there already.
auto_classes.follow()

# Where LoRAs of version 0.1.0 say that the class lies: peft imports it from there.
sys.modules[f"{__name__}.modeling_omnimouse"] = sys.modules[__name__]
