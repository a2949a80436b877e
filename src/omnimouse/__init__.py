"""OmniMouse: one transformer for mouse visual cortex, as a Hugging Face-style package."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from .configuration_omnimouse import OmniMouseConfig
from .conversion import convert
from .evaluation import evaluate, evaluate_static, predict, write_static_submission
from .masks import EVALUATION_MASKS, TASKS, TRAINING_MASKS, Mask
from .modeling_omnimouse import OmniMouseModel, OmniMouseOutput
from .pretrained_omnimouse import session_keys
from .processing_omnimouse import OmniMouseProcessor
from .recordings import Recording, Windows, import_nwb, open_recording, recording_from_arrays, save_recording
from .recordings.simulated import simulate_recording
from .training import WindowCollator, anneal, finetune, train

__version__ = "0.1.0"

AutoConfig.register(OmniMouseConfig.model_type, OmniMouseConfig, exist_ok=True)
AutoModel.register(OmniMouseConfig, OmniMouseModel, exist_ok=True)

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
