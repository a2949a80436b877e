"""How often a step of training waits for its device: once, to read its numbers before the weights move.

Here the device is the CPU, which never waits; so what would wait on a GPU is counted by name. Whole numbers are those
of the host (neurons of windows), and are left out; so are optimizers, whose fused form reads nothing.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omnimouse.training import finetune, train
from omnimouse.training.finetuning import loop
from omnimouse.training.pretraining import train as pretraining

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal"}


class Waits(TorchDispatchMode):
    """Notes what makes host and device wait for each other."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.found: list[str] = []
        self.is_on = False
        for name in ("tolist", "numpy", "cpu"):  # on a CPU nothing is dispatched
            monkeypatch.setattr(torch.Tensor, name, self._noting(getattr(torch.Tensor, name), name))
        step = torch.optim.AdamW.step

        def uncounted(optimizer, *args, **kwargs):
            with self._off():
                return step(optimizer, *args, **kwargs)

        monkeypatch.setattr(torch.optim.AdamW, "step", uncounted)

    def _noting(self, method, name):
        def noted(tensor, *args, **kwargs):
            if self.is_on:
                self.found.append(name)
            return method(tensor, *args, **kwargs)

        return noted

    @contextmanager
    def _off(self):
        before, self.is_on = self.is_on, False
        yield
        self.is_on = before

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        selects = name.strip("_").startswith("index") and any(tensor.dtype == torch.bool for tensor in tensors[1:])
        if self.is_on and (selects or (name in WAITING and tensors[0].dtype != torch.int64)):
            self.found.append(name)
        return operation(*args, **(kwargs or {}))

    def counted(self, step):
        """A step during which is counted."""

        def counting(*args, **kwargs):
            self.is_on = True
            try:
                with self:
                    return step(*args, **kwargs)
            finally:
                self.is_on = False

        return counting


@pytest.fixture
def waits(monkeypatch):
    return Waits(monkeypatch)


def test_what_waits_is_counted(waits):
    numbers = torch.arange(4.0)

    def step():
        numbers[numbers > 2], float(numbers[0]), numbers.tolist(), bool(numbers.isfinite().all()), numbers.nonzero()

    waits.counted(step)()
    assert waits.found == ["index", "_local_scalar_dense", "tolist", "_local_scalar_dense", "nonzero"]


def test_a_step_of_a_pre_training_waits_once(small_recipe, tmp_path, monkeypatch, waits):
    step = pretraining.pretraining_step
    monkeypatch.setattr(pretraining, "pretraining_step", lambda run, n, *args, **kwargs: (
        waits.counted(step) if n > 0 else step)(run, n, *args, **kwargs))  # fmt: skip
    masks = {"names": ["forecasting+stimulus", "population+stimulus+behavior", "behavior"]}
    overrides = ["loader.on_device=true", "loader.workers=0"]
    train(small_recipe(tmp_path / "run", steps=4, masks=masks), overrides=overrides, progress=False)
    assert waits.found == ["tolist"] * 3


def test_a_step_of_a_fine_tune_waits_once(model, recording, monkeypatch, waits):
    monkeypatch.setattr(loop, "finetune_step", waits.counted(loop.finetune_step))
    masks = ["forecasting+stimulus", "population+stimulus+behavior", "behavior"]
    finetune(model, recording, steps=3, batch_size=2, masks=masks, validation_tier=None, train_core=True, cpu=True,
             progress=False)  # fmt: skip
    assert waits.found == ["tolist"] * 3
