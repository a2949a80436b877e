"""The run that tests interrupt: `python killed_run.py RECORDING OUTPUT_DIR WHERE` trains until it kills itself."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))
from small_models import SMALL_OVERRIDES

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.training.finetuning import loop
from omnimouse.training.finetuning.finetune import finetune
from omnimouse.training.shared import checkpoint

SETTINGS = {
    "steps": 8,
    "batch_size": 2,
    "train_core": True,
    "validate_every": 3,
    "checkpoint_every": 3,
    "max_validation_windows": 2,
    "seed": 5,
    "cpu": True,
    "progress": False,
}


def small_model() -> OmniMouseModel:
    """A model of a few thousand parameters with stochastic depth, the same every time."""
    torch.manual_seed(0)
    return OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALL_OVERRIDES))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(recording: str, output_dir: str, where: str) -> None:
    """Trains and is killed between two checkpoints ("step") or in the middle of writing one ("saving")."""
    torch.set_num_threads(1)
    append, replace = loop.append_history, os.replace

    def append_or_die(path, row):
        append(path, row)
        if row["step"] == 5:
            _die()

    def replace_or_die(source, target):
        if str(target).endswith("checkpoint-00000006"):
            _die()
        replace(source, target)

    if where == "step":
        loop.append_history = append_or_die
    else:
        checkpoint.os.replace = replace_or_die
    finetune(small_model(), recording, output_dir=output_dir, **SETTINGS)


if __name__ == "__main__":
    main(*sys.argv[1:])
