"""Chains that are computed again in the backward pass, against autograd over the plain modules."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALLEST
from torch import nn

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.model.attention import GatedFeedForward, Run, SelfAttentionBlock, plan_attention, rotary_table
from omnimouse.model.kernels import chains, recomputation
from omnimouse.model.kernels.chains import gated_product, normalize_heads, rotate
from omnimouse.model.kernels.recomputation import project, project_normed


@pytest.fixture(autouse=True)
def as_elsewhere(monkeypatch):
    """Computed as on an accelerator."""
    monkeypatch.setattr(chains, "AS_EVER", set())


def table_of(rows: int, head_dim: int = 8):
    layout = tuple(Run(1, 30 * row, 0, 1) for row in range(rows))
    return rotary_table(layout, ticks_per_second=60, head_dim=head_dim, min_period=1e-3, max_period=2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rotation_turns_adjacent_pairs_alike_in_both_forms(monkeypatch, dtype):
    torch.manual_seed(0)
    table = table_of(3)
    cos, sin = table
    x = torch.randn(2, 4, 3, 8).to(dtype)
    rotated = rotate(x, table)
    assert rotated.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    even, odd = x[..., 0::2].to(rotated.dtype), x[..., 1::2].to(rotated.dtype)
    torch.testing.assert_close(rotated[..., 0::2], even * cos - odd * sin)
    torch.testing.assert_close(rotated[..., 1::2], even * sin + odd * cos)
    assert torch.equal(rotate(x, table.contiguous()), rotated)  # a table in another order of memory
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, table), rotated)


def test_a_rotary_table_is_read_as_complex_numbers_where_it_lies():
    table = table_of(5)
    assert table.shape == (2, 5, 4) and table.movedim(0, -1).is_contiguous()


@pytest.mark.parametrize("frozen", [(), ("weight", "bias"), ("x",), ("norm",)])
@pytest.mark.parametrize("autocast", [False, True])
def test_outputs_and_gradients_are_those_of_the_modules(frozen, autocast):
    torch.manual_seed(0)
    norm, maps = nn.RMSNorm(16, eps=1e-5), (nn.Linear(16, 8), nn.Linear(16, 4, bias=False))
    x = torch.randn(2, 5, 16, requires_grad="x" not in frozen)
    for name in frozen:
        for module in {"norm": [norm], "x": []}.get(name, maps):
            for key, parameter in module.named_parameters():
                parameter.requires_grad_(name != key and name != "norm")
    wanted = [p for p in (x, *norm.parameters(), *maps[0].parameters(), *maps[1].parameters()) if p.requires_grad]
    found = []
    for function in (lambda: [linear(norm(x)) for linear in maps], lambda: project_normed(norm, maps, x)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outs = function()
        assert all(out.dtype == (torch.bfloat16 if autocast else torch.float32) for out in outs)
        loss = sum((out.float() * torch.linspace(-1, 1, out.shape[-1])).sum() for out in outs)
        found.append((*outs, *torch.autograd.grad(loss, wanted)))
    for before, now in zip(*found, strict=True):
        assert now.dtype == before.dtype
        torch.testing.assert_close(now, before, **({"rtol": 0.02, "atol": 0.02} if autocast else {}))


def test_only_what_a_chain_reads_is_kept():
    torch.manual_seed(0)
    block = SelfAttentionBlock(32, 4, 4, 2.67, 1e-5)
    x, table, runs = torch.randn(1, 3, 32, requires_grad=True), table_of(3), (Run(3, 0, 0, 1),)
    weights, kept = {p.untyped_storage()._cdata for p in block.parameters()}, {}

    def keep(tensor):
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(x, table, plan_attention(runs, runs))
    row, width = 3 * 32 * 4, block.feed_forward.up.out_features * 3 * 4
    attention = 3 * row + 3 * row  # its projection, values included; turned queries and keys, and the output
    outputs = row  # in the order in which the last projection reads them
    assert sum(kept.values()) <= 2 * row + attention + outputs + 2 * width + 100  # normalised rows are not among them


def test_weights_stay_in_the_cache_of_autocast_as_they_were():
    """What autocast keeps of a weight must not have been made without gradients."""
    linear = nn.Linear(8, 8)
    x = torch.randn(1, 2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        project(partial(torch.mul, 2.0), (linear,), x)
        linear(x).sum().backward()
    assert linear.weight.grad is not None


def test_a_second_derivative_is_refused():
    x = torch.randn(1, 2, 8, requires_grad=True)
    linear = nn.Linear(8, 8)

    def whole(x):
        return project(F.silu, (linear,), x)[0].sum()

    with pytest.raises(RuntimeError, match=r"Second derivatives \(create_graph=True\)"):
        torch.autograd.grad(whole(x), x, create_graph=True)
    assert (torch.func.grad(lambda x: torch.func.grad(whole)(x).sum())(x.detach()) != 0).all()


class Doubled(nn.Linear):
    """More than a linear map, as a LoRA is."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("way", ["subclass", "hook", "own forward", "normed hook"])
def test_modules_that_are_more_than_linear_are_called(way):
    torch.manual_seed(0)
    layer, norm = GatedFeedForward(16, 2.67), nn.RMSNorm(16)
    x = torch.randn(1, 3, 16, requires_grad=True)
    calls = []
    if way == "subclass":
        layer.down = Doubled(128, 16, bias=False)
    elif way == "own forward":
        before = layer.up.forward
        layer.up.forward = lambda x: calls.append(x) or before(x)
    else:
        module = layer.gate if way == "hook" else norm
        module.register_forward_hook(lambda module, inputs, out: calls.append(out))
    out = layer(x, norm)
    expected = layer.down(F.silu(layer.up(norm(x))) * layer.gate(norm(x)))
    torch.testing.assert_close(out, expected)
    assert way == "subclass" or calls
    out.sum().backward()
    assert layer.down.weight.grad is not None


def test_function_transforms_and_compilers_see_the_plain_chain(monkeypatch):
    torch.manual_seed(0)
    layer, norm = GatedFeedForward(16, 2.67), nn.RMSNorm(16)
    x = torch.randn(3, 2, 16)
    by_function = torch.func.vmap(torch.func.grad(lambda row: layer(row[None], norm).sum()))(x)
    x.requires_grad_()
    layer(x, norm).sum().backward()
    torch.testing.assert_close(by_function, x.grad)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: layer(x, norm), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x, norm))


def test_every_block_recomputes_and_a_step_without_gradients_does_not(monkeypatch):
    calls, original = [], recomputation._Recomputed

    class Watched(original):
        @staticmethod
        def forward(context, chain, *rest):
            calls.append(getattr(chain, "func", chain).__name__)
            return original.forward(context, chain, *rest)

    monkeypatch.setattr(recomputation, "_Recomputed", Watched)
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny", **SMALLEST))
    model.add_session("key", n_neurons=8, animal_id="a")
    config = model.config
    arrays = {
        "responses": torch.rand(1, config.num_response_samples, 8),
        "video": torch.randn(1, 1, config.num_frames, config.frame_height, config.frame_width),
        "behavior": torch.randn(1, 5, config.num_behavior_samples),
    }
    with torch.no_grad():
        model("key", **arrays, mask="forecasting+stimulus+behavior")
    assert calls == []
    model("key", **arrays, mask="forecasting+stimulus+behavior").loss.backward()
    blocks = len(model.fusion) + len(model.video_encoder.blocks) + 2
    assert calls.count(gated_product.__name__) == blocks
    assert calls.count(normalize_heads.__name__) == len(model.fusion) + 2
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.fusion.parameters())
    assert chains.product_type(arrays["video"]) == torch.float32
