"""Optimizers: which form of AdamW is used where, and what goes on from a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omnimouse.training.shared import optimizers
from omnimouse.training.shared.data import choose_holding
from omnimouse.training.shared.recipe import PUBLISHED_CORE_OPTIMIZER

CUDA = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def untried():
    optimizers.fuses.cache_clear()
    yield
    optimizers.fuses.cache_clear()


def stepped(group, n):
    for _ in range(n):
        for parameter in group.parameters.values():
            parameter.grad = parameter.detach() ** 2
        group.optimizer.step()
    return [parameter.detach().clone() for parameter in group.parameters.values()]


@pytest.mark.parametrize("fused", [False, True])
def test_moments_go_on_where_they_were(monkeypatch, fused):
    monkeypatch.setattr(optimizers, "fuses", lambda device: fused)
    group = optimizers.build_group(PUBLISHED_CORE_OPTIMIZER, {"a": nn.Parameter(torch.linspace(-1, 1, 5))})
    stepped(group, 2)
    stored = {name: tensor.clone() for name, tensor in optimizers.pack_moments(group).items()}
    other = optimizers.build_group(
        PUBLISHED_CORE_OPTIMIZER, {"a": nn.Parameter(group.parameters["a"].detach().clone())}
    )
    optimizers.restore_moments(other, stored)
    assert bool(other.optimizer.defaults["fused"]) == fused
    for first, second in zip(stepped(group, 2), stepped(other, 2), strict=True):
        assert torch.equal(first, second)


def test_the_fused_form_is_used_where_a_trial_is_right(monkeypatch):
    tried = optimizers._tried_update
    assert torch.allclose(tried(torch.device("cpu"), fused=True), tried(torch.device("cpu"), fused=False))
    monkeypatch.setattr(optimizers, "_tried_update", lambda device, fused: tried(torch.device("cpu"), fused=fused))
    assert optimizers.fuses(CUDA) and not optimizers.fuses(torch.device("cpu"))


@pytest.mark.parametrize("error", [None, RuntimeError("no such kernel")])
def test_and_not_where_it_is_wrong_which_is_said_once(monkeypatch, error):
    def trial(device, fused):
        if error is not None and fused:
            raise error
        return torch.full((3,), float(fused))

    monkeypatch.setattr(optimizers, "_tried_update", trial)
    with pytest.warns(UserWarning, match="fused AdamW of cuda:0 is not used") as told:
        assert not optimizers.fuses(CUDA) and not optimizers.fuses(CUDA)
    assert len(told) == 1


def test_windows_are_held_by_themselves_only_where_a_gpu_has_room(monkeypatch):
    monkeypatch.setattr("omnimouse.training.shared.data.can_be_held", lambda windows: windows > 1)
    monkeypatch.setattr("omnimouse.training.shared.data.held_bytes", lambda windows: windows)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20, 80))
    cpu = torch.device("cpu")
    assert choose_holding("auto", [2, 3, 1], CUDA) == (True, 5) and choose_holding("auto", [2, 4], CUDA) == (False, 6)
    assert choose_holding("auto", [2], cpu) == (False, 0) and choose_holding(True, [9], cpu) == (True, 9)
    assert choose_holding(False, [2], CUDA) == (False, 0)
