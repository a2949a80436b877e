"""What every loop over steps is made of: one forward pass, its random numbers, and stopping when asked to."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from omnimouse.model.masking.masks import Mask
from omnimouse.training.shared.accelerators import OneDevice
from omnimouse.training.shared.optimizers import ParameterGroup

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork, OmniMouseOutput

ECHO_SECONDS = 10.0
"""Launchers and schedulers send a request to stop several times: to the process group, and once more from the launcher
to its children. Within this time of the first, all are one request."""


class StopRequest:
    """While active, SIGTERM and Ctrl-C ask the loop to stop after the step under way; a later one stops at once.

    Signals can be handled in the main thread only; elsewhere this does nothing. On exit the old handlers are put back.

    Args:
        grace_seconds: a signal within this time of the first is taken for an echo of it.
    """

    def __init__(self, grace_seconds: float = 0.0) -> None:
        self.signal_number: int | None = None
        self.grace_seconds = grace_seconds
        self._first = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number, self._first = number, time.monotonic()
        elif time.monotonic() - self._first >= self.grace_seconds:
            self.leave()

    def leave(self) -> None:
        """Raises what the signal stands for: KeyboardInterrupt for Ctrl-C, SystemExit(143) for SIGTERM."""
        if self.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def only_trainable(model: nn.Module, groups: Mapping[str, ParameterGroup]) -> Iterator[None]:
    """Freezes everything but the groups' parameters, and undoes that afterwards, leaving no gradient behind.

    With the core frozen the model is in eval mode, so stochastic depth does not blur a core that cannot adapt to it;
    `train_step` sees to that.
    """
    was_training = model.training
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    trained = {id(parameter) for group in groups.values() for parameter in group.parameters.values()}
    for parameter, _ in flags:
        parameter.requires_grad_(id(parameter) in trained)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
        model.train(was_training)


@contextmanager
def seeded_torch(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch within the block and gives the caller's random state back afterwards."""
    kind = device.type if device.type in ("cuda", "xpu") else "cuda"  # `fork_rng` knows devices with numbers only
    mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=[device] if device.type == kind else [], device_type=kind):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)


def forward_batch(
    model: OmniMouseNetwork,
    accelerator: Accelerator | OneDevice,
    session: str,
    batch: Mapping[str, torch.Tensor],
    mask: Mask,
    neuron_ids: np.ndarray | None,
    missing_channels: Sequence[int] = (),
) -> tuple[OmniMouseOutput, torch.Tensor]:
    """Returns the model's output for one batch of a session, and its loss, in the accelerator's precision.

    Args:
        model: on the accelerator's device.
        accelerator: device and precision.
        session: key of the session.
        batch: windows of it.
        mask: what is visible and what is predicted.
        neuron_ids: int64 [B, P]; None for the whole population in file order.
        missing_channels: rows of the behaviour that the recording lacks.
    """
    device = accelerator.device
    moved = {name: array.to(device, non_blocking=True) for name, array in batch.items()}
    ids = None if neuron_ids is None else torch.from_numpy(neuron_ids)  # checked on the host; the model moves them
    channels = tuple(c for c in range(len(model.config.behavior_channels)) if c not in missing_channels)
    with accelerator.autocast():
        output = model(session, **moved, mask=mask, neuron_ids=ids, all_neurons=ids is None, behavior_channels=channels)
    assert output.loss is not None  # the batch holds all that the mask predicts
    return output, output.loss


def read_numbers(numbers: Mapping[str, torch.Tensor | None]) -> dict[str, float | None]:
    """Numbers of the device as Python's, in one transfer: host and device wait for each other once."""
    known = {name: number.detach().float() for name, number in numbers.items() if number is not None}
    found = dict(zip(known, torch.stack(list(known.values())).tolist(), strict=True))
    return {name: found.get(name) for name in numbers}
