"""Device and precision of a training: Accelerate's, or one device of the caller's choice."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState, is_initialized
from accelerate.utils import InitProcessGroupKwargs

from omnimouse.support.compute_devices import available_devices, computes_in_bfloat16, resolve_device
from omnimouse.training.shared.recipe import MixedPrecision

PATIENCE = timedelta(hours=1)
"""How long processes wait for one that reads a large checkpoint or writes a model; one that dies is noticed at once."""


@dataclass(frozen=True)
class OneDevice:
    """What the loop asks of an `Accelerator`, for one process and a device of the caller's choice.

    Accelerate settles device and precision once per process, and so cannot serve a second device.
    """

    device: torch.device
    mixed_precision: MixedPrecision

    def autocast(self) -> torch.autocast:
        """Computing in the run's precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.mixed_precision == "bf16")

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of a loss."""
        loss.backward()

    def clip_grad_norm_(self, parameters: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
        """Clips gradients in place, and returns their norm before."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def make_accelerator(mixed_precision: str, device: torch.device | None) -> Accelerator | OneDevice:
    """Returns device and precision of a fine-tune: Accelerate's, unless a device is asked for that it would not take.

    Args:
        mixed_precision: "auto", "no" or "bf16".
        device: from `resolve_device`; None for Accelerate's choice.

    Raises:
        ValueError: several processes were started, or Accelerate holds another precision.
    """
    if device is None or str(device) == available_devices()[0]:
        accelerator = start_accelerator(mixed_precision, cpu=device == torch.device("cpu"))
        _refuse_processes(accelerator.num_processes)
        if device is None or device == resolve_device(accelerator.device):
            return accelerator  # otherwise an earlier call, or the environment, had it set up elsewhere
    _refuse_processes(int(os.environ.get("WORLD_SIZE", 1)))
    _check_precision(mixed_precision)
    in_bf16 = computes_in_bfloat16(device) if mixed_precision == "auto" else mixed_precision == "bf16"
    return OneDevice(device, "bf16" if in_bf16 else "no")


def _refuse_processes(count: int) -> None:
    if count > 1:
        raise ValueError(
            f"finetune trains one session on one process, but {count} were started. Start the script with `python`, "
            "or with `accelerate launch --num_processes 1`."
        )


def _check_precision(mixed_precision: str) -> None:
    if mixed_precision not in ("auto", "no", "bf16"):
        raise ValueError(f"mixed_precision is {mixed_precision!r}; expected 'auto', 'no' or 'bf16'.")


def start_accelerator(mixed_precision: str, *, cpu: bool) -> Accelerator:
    """Returns the accelerator of this process, with the precision asked for, on as many processes as were started."""
    _check_precision(mixed_precision)
    if mixed_precision == "auto":
        if is_initialized():
            mixed_precision = AcceleratorState().mixed_precision
        else:
            device = PartialState(cpu=cpu, timeout=PATIENCE).device
            mixed_precision = "bf16" if computes_in_bfloat16(device) else "no"
    try:
        handlers = [InitProcessGroupKwargs(timeout=PATIENCE)]
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu, kwargs_handlers=handlers)
    except ValueError as error:
        raise ValueError(
            f"Accelerate cannot be set up with mixed_precision={mixed_precision!r}, cpu={cpu}: {error}. Its settings "
            "hold for the whole process: keep to those of the first call (mixed_precision='auto' does), or start a new "
            "process."
        ) from error
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise ValueError(
            f"Accelerate is set up with mixed precision {accelerator.mixed_precision!r} in this process; training "
            "works in 'no' or 'bf16'. Start a new process."
        )
    return accelerator
