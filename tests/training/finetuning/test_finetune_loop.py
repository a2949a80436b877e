"""The loop's parts: separate clipping, freezing, seeding, stopping, precision."""

from __future__ import annotations

import signal
import threading

import pytest
import torch

from omnimouse.training import finetune
from omnimouse.training.finetuning import loop
from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe
from omnimouse.training.finetuning.parameters import build_optimizers
from omnimouse.training.shared.forward import StopRequest, only_trainable
from omnimouse.training.shared.recipe import PUBLISHED_CORE_OPTIMIZER

QUICK = {"steps": 2, "batch_size": 2, "validation_tier": None, "cpu": True, "progress": False}


def test_only_trainable_frees_the_groups_and_undoes_it(model):
    model.add_session("a", n_neurons=3, animal_id="mouse")
    model.add_session("b", n_neurons=3, animal_id="mouse")
    groups = build_optimizers(model, FinetuneRecipe(steps=1), "a")
    frozen = next(parameter for _, parameter in model.core_named_parameters()).requires_grad_(False)
    model.eval()
    with pytest.raises(RuntimeError, match="in the block"), only_trainable(model, groups):
        free = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert free == {name for name, _ in model.session_named_parameters("a")}
        model.train()
        raise RuntimeError("in the block")
    assert not model.training and not frozen.requires_grad
    assert all(p.requires_grad for p in model.parameters() if p is not frozen)


@pytest.mark.parametrize("train_core", [False, True])
def test_stochastic_depth_is_on_only_when_the_core_is_trained(model, recording, monkeypatch, train_core):
    modes = []
    forward = model.forward

    def noted(*args, **kwargs):
        modes.append(model.training)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", noted)
    finetune(model, recording, train_core=train_core, **QUICK)
    assert modes == [train_core, train_core]


def test_core_and_session_are_clipped_separately(model, recording, monkeypatch):
    """A huge gradient of the session tables must not shrink the core's."""
    clipped = {}
    set_rate = loop.ParameterGroup.set_learning_rate
    seen = []

    def note_group(group, learning_rate):
        seen.append(group)
        set_rate(group, learning_rate)

    monkeypatch.setattr(loop.ParameterGroup, "set_learning_rate", note_group)
    step = torch.optim.AdamW.step

    def note_norm(optimizer, *args, **kwargs):
        gradients = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        clipped[id(optimizer)] = float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", note_norm)
    forward = model.forward

    def louder(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.loss = 1e4 * output.loss
        return output

    monkeypatch.setattr(model, "forward", louder)
    result = finetune(model, recording, train_core=True, **{**QUICK, "steps": 1})
    norms = result.history[0]["gradient_norm"]
    assert norms["session"] > 1 and norms["core"] > 1
    limit = PUBLISHED_CORE_OPTIMIZER.max_grad_norm
    assert len(seen) == 2
    assert [clipped[id(group.optimizer)] for group in seen] == pytest.approx([limit, limit], rel=1e-3)


def test_stop_requests_note_a_signal_once_and_act_on_the_second():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert stop.signal_number is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
        with pytest.raises(SystemExit) as left:
            signal.raise_signal(signal.SIGINT)
        assert left.value.code == 143
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_other_threads_leave_signals_alone(model, recording):
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def train():
        finetune(model, recording, **QUICK)
        found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [before]


def test_bf16_computes_in_bfloat16_and_keeps_float32_tables(model, recording):
    results = {}
    seen = []
    linear = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    handle = linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    results["bf16"] = finetune(model, recording, mixed_precision="bf16", **QUICK)
    handle.remove()
    assert set(seen) == {torch.bfloat16}
    assert all(tensor.dtype == torch.float32 for tensor in model.session_state(recording.session_key).values())
    with pytest.raises(ValueError, match=r"mixed_precision='no'.*whole process.*mixed_precision='auto'"):
        finetune(model, recording, mixed_precision="no", **QUICK)
    assert finetune(model, recording, mixed_precision="auto", **QUICK).history  # keeps to bf16


def test_the_progress_bar_shows_losses_gradients_and_speed(model, recording, capsys):
    finetune(model, recording, **{**QUICK, "steps": 3, "progress": True, "validation_tier": "validation"},
             max_validation_windows=1, validate_every=1)  # fmt: skip
    shown = capsys.readouterr().err
    for words in (f"finetune {recording.session_key}", "loss=", "best validation=", "|grad session|=", "windows/s="):
        assert words in shown
