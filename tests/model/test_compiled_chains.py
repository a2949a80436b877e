"""Compiled chains give what plain ones do, are compiled once for all masks, and fall back where they cannot be used."""

import threading
import warnings
from functools import partial

import pytest
import torch
from small_models import SMALLEST, small
from torch import nn
from torch._dynamo.utils import counters

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.model.kernels import chains, compiled_chains
from omnimouse.model.kernels.chains import gated_product, rms_normalize
from omnimouse.model.kernels.compiled_chains import compiling_chains, fastest_form, pays_to_compile
from omnimouse.model.kernels.recomputation import project
from omnimouse.model.masking.masks import TRAINING_MASKS

N, MOST_GRAPHS = 16, 30


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """Nothing compiled yet, by a back end that needs no compiler."""
    monkeypatch.setattr(compiled_chains, "BACKEND", "aot_eager")
    monkeypatch.setattr(compiled_chains, "_compiled", {})
    monkeypatch.setattr(compiled_chains, "_failed", set())


def pair():
    torch.manual_seed(0)
    return [torch.randn(2, 5, 8, requires_grad=True) for _ in range(2)]


def graphs():
    return counters["stats"]["unique_graphs"]


def test_one_compilation_serves_all_masks_with_the_same_numbers(monkeypatch):
    monkeypatch.setattr(chains, "AS_EVER", set())  # as on an accelerator, where norms are chains too
    torch.manual_seed(0)
    config = OmniMouseConfig.from_preset("tiny", **SMALLEST)
    model = OmniMouseModel(config).train()
    model.add_session("a-1-1", n_neurons=N, animal_id="a")
    for _, parameter in model.session_named_parameters():
        nn.init.normal_(parameter)
    video = (config.num_frames, config.frame_height, config.frame_width)
    arrays = {"responses": torch.rand(2, config.num_response_samples, N), "video": torch.randn(2, 1, *video),
              "behavior": torch.randn(2, len(config.behavior_channels), config.num_behavior_samples)}  # fmt: skip

    def numbers(mask, on, trains=True):
        model.zero_grad()
        torch.manual_seed(1)
        with compiling_chains(on), torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(trains):
            loss = model("a-1-1", **arrays, mask=mask, all_neurons=True).loss
        if not trains:  # the graphs of the forward pass are the same
            return loss
        backward = threading.Thread(target=loss.backward)  # as accelerators do: not where the switch was set
        backward.start()
        backward.join()
        return torch.cat([loss[None], *(p.grad.flatten() for p in model.parameters() if p.grad is not None)])

    masks, before = [small(mask) for mask in TRAINING_MASKS], graphs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for place, mask in enumerate(masks):
            found = numbers(mask, True, trains=place % 6 == 0)
            if place % 12 == 0:
                torch.testing.assert_close(found, numbers(mask, False), rtol=1e-3, atol=1e-4)
        after = graphs()
        numbers(masks[-1], True)
    assert len(compiled_chains._compiled) < after - before <= MOST_GRAPHS
    assert graphs() == after  # a mask that was met compiles nothing


def test_with_and_without_gradients_and_under_checkpointing():
    (up, gate), linear = pair(), nn.Linear(8, 3)

    def whole(up, gate):
        return project(gated_product, (linear,), up, gate)[0]

    def compiled(up, gate):
        with compiling_chains(True):
            return whole(up, gate)

    checkpointed = partial(torch.utils.checkpoint.checkpoint, compiled, use_reentrant=False)
    wanted = (up, gate, *linear.parameters())
    expected = torch.autograd.grad(whole(up, gate).square().sum(), wanted)
    for function in (checkpointed, compiled):  # checkpointed first: the trial leaves nothing among what is kept
        for found, true in zip(torch.autograd.grad(function(up, gate).square().sum(), wanted), expected, strict=True):
            torch.testing.assert_close(found, true)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(compiled(up, gate), whole(up, gate))
    assert len(compiled_chains._compiled) == 1


def test_nothing_is_compiled_unless_it_is_switched_on():
    chain, inputs = partial(rms_normalize, eps=1e-5), (torch.randn(2, 5, 8), torch.randn(8))
    assert fastest_form(chain, inputs) is chain
    with compiling_chains(True):
        assert fastest_form(chain, inputs) is not chain
        assert fastest_form(torch.relu, inputs[:1]) is torch.relu  # whatever is none of our chains
        with compiling_chains(False):
            assert fastest_form(chain, inputs) is chain
    assert fastest_form(chain, inputs) is chain


def wrong(graph, inputs):
    """A compiler that computes something else."""
    return lambda *tensors: [2 * x if isinstance(x, torch.Tensor) else x for x in graph(*tensors)]


def missing(graph, inputs):
    raise RuntimeError("Cannot find a working triton installation")


@pytest.mark.parametrize(("backend", "reason"), [(wrong, "relative error 1"), (missing, "triton installation")])
def test_a_trial_that_fails_is_warned_about_once_and_changes_no_number(monkeypatch, backend, reason):
    monkeypatch.setattr(compiled_chains, "BACKEND", backend)
    (up, gate), x = pair(), torch.randn(2, 5, 8)
    with compiling_chains(True):
        with pytest.warns(UserWarning, match=f"The blocks are not compiled on cpu.*{reason}") as caught:
            found = project(gated_product, (), up, gate)
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(found[0], gated_product(up, gate))
            chain = partial(rms_normalize, eps=1e-5)
            assert fastest_form(chain, (x,)) is chain  # no other is tried there


def test_wrong_gradients_are_found(monkeypatch):
    class Off(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * 1.5

    def compile_wrongly(function, **options):
        return lambda *tensors: Off.apply(function(*tensors))

    monkeypatch.setattr(torch, "compile", compile_wrongly)
    up, gate = pair()
    with compiling_chains(True), pytest.warns(UserWarning, match=r"not compiled on cpu \(relative error 0\.5"):
        (out,) = project(gated_product, (), up, gate)
    found = torch.autograd.grad(out.sum(), up)[0]
    assert torch.equal(found, torch.autograd.grad(gated_product(up, gate).sum(), up)[0])


def test_what_fails_after_its_trial_computes_as_it_is(monkeypatch):
    up, gate = pair()
    with compiling_chains(True):
        project(gated_product, (), up, gate)
        (chain,) = compiled_chains._compiled.values()

        def fails(*tensors):
            raise RuntimeError("recompile limit")

        chain.compiled = fails
        with pytest.warns(UserWarning, match=r"compiled no longer \(RuntimeError: recompile limit\)") as caught:
            for _ in range(2):
                (out,) = project(gated_product, (), up, gate)
    assert len(caught) == 1 and torch.equal(out, gated_product(up, gate))


@pytest.mark.parametrize(
    ("compile_model", "device", "steps", "pays"),
    [
        ("auto", "cuda", 2000, True),
        ("auto", "cuda", 1999, False),
        ("auto", "cpu", 600_000, False),
        (True, "cpu", 1, True),
        (False, "cuda", 600_000, False),
    ],
)
def test_when_it_pays(compile_model, device, steps, pays):
    assert pays_to_compile(compile_model, torch.device(device), steps) is pays
