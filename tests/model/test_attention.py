"""Windowed attention against dense masked attention, and the rotary embedding against its formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from omnimouse.model.attention import (
    GatedFeedForward,
    Run,
    SelfAttentionBlock,
    feed_forward_width,
    n_rows,
    plan_attention,
    rotary_table,
    windowed_attention,
)
from omnimouse.model.kernels import chains, row_pieces


def slow_attention(query, key, value, queries, keys):
    """Dense attention with a `[Q, K]` mask made pair by pair."""
    rows = [run for run in queries for _ in range(run.rows)]
    columns = [run for run in keys for _ in range(run.rows)]
    allowed = torch.tensor([[not (k.stop <= q.start or k.start >= q.stop) for k in columns] for q in rows])
    scores = (query @ key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~allowed, -math.inf).softmax(-1).nan_to_num(0.0)
    return (weights @ value).transpose(1, 2).flatten(2)


runs = st.builds(
    lambda rows, start, length: Run(rows, start, start, start + length), st.integers(1, 3), st.integers(0, 30),
    st.integers(1, 12),
)  # fmt: skip
layouts = st.lists(runs, min_size=1, max_size=8).map(tuple)


@settings(max_examples=60, deadline=None)
@given(layouts, layouts)
def test_equals_dense_masked_attention(queries, keys):
    torch.manual_seed(0)
    query = torch.randn(2, 3, n_rows(queries), 4)
    key, value = torch.randn(2, 2, 3, n_rows(keys), 4)
    found = windowed_attention(query, key, value, plan_attention(queries, keys))
    torch.testing.assert_close(found, slow_attention(query, key, value, queries, keys), atol=1e-5, rtol=1e-5)


def test_touching_intervals_do_not_overlap():
    first, second = Run(1, 0, 0, 10), Run(1, 10, 10, 20)
    assert not first.overlaps(second) and not second.overlaps(first)
    assert first.overlaps(Run(1, 9, 9, 10))


def test_a_query_without_keys_gives_zero_and_zero_gradient():
    queries, keys = (Run(2, 0, 0, 5), Run(1, 20, 20, 25)), (Run(3, 0, 0, 5),)
    query = torch.randn(1, 1, 3, 4, requires_grad=True)
    key, value = torch.randn(2, 1, 1, 3, 4)
    out = windowed_attention(query, key, value, plan_attention(queries, keys))
    assert torch.equal(out[0, 2], torch.zeros(4))
    out.sum().backward()
    assert torch.equal(query.grad[0, 0, 2], torch.zeros(4)) and query.grad.isfinite().all()


def test_neighbouring_runs_that_see_the_same_keys_share_a_group():
    queries = tuple(Run(4, t, t, t + 1) for t in range(6))
    keys = (Run(5, 0, 0, 3), Run(5, 3, 3, 6))
    plan = plan_attention(queries, keys)
    assert [(g.start, g.stop, g.keys) for g in plan] == [(0, 12, ((0, 5),)), (12, 24, ((5, 10),))]
    assert len(plan_attention(queries, keys, local=False)) == 1


def test_rotary_table_follows_its_formula():
    layout = (Run(2, 30, 0, 1), Run(1, 90, 0, 1))
    cos, sin = rotary_table(layout, ticks_per_second=60, head_dim=8, min_period=1e-3, max_period=2.0)
    for row, seconds in enumerate((0.5, 0.5, 1.5)):
        for i in range(4):
            angle = 2 * math.pi * seconds / (1e-3 * 2000 ** (2 * i / 8))
            assert cos[row, i] == pytest.approx(math.cos(angle), abs=1e-7)
            assert sin[row, i] == pytest.approx(math.sin(angle), abs=1e-7)


def test_grouped_heads_serve_neighbouring_query_heads():
    torch.manual_seed(0)
    queries = (Run(4, 0, 0, 1),)
    query = torch.randn(1, 6, 4, 8)
    key, value = torch.randn(2, 1, 2, 4, 8)
    out = windowed_attention(query, key, value, plan_attention(queries, queries)).unflatten(-1, (6, 8))
    for head in range(6):
        alone = F.scaled_dot_product_attention(query[:, head], key[:, head // 3], value[:, head // 3])
        torch.testing.assert_close(out[:, :, head], alone)
    block = SelfAttentionBlock(48, 6, 2, 2.67, 1e-5)
    assert block.query_key_value.weight.shape == (48 + 2 * 2 * 8, 48)
    rotary = rotary_table(queries, ticks_per_second=60, head_dim=8, min_period=1e-3, max_period=2.0)
    assert block(torch.randn(1, 4, 48), rotary, plan_attention(queries, queries)).shape == (1, 4, 48)


@pytest.mark.parametrize(
    ("size", "multiplier", "width"), [(256, 2.67, 768), (256, 4, 1024), (64, 2.67, 256), (768, 2.67, 2176)]
)
def test_feed_forward_width(size, multiplier, width):
    assert feed_forward_width(size, multiplier) == 128 * int((multiplier * size + 127) // 128) == width


@pytest.mark.parametrize("elsewhere", [False, True])
def test_feed_forward_in_parts_equals_the_whole(monkeypatch, elsewhere):
    layer, norm = GatedFeedForward(16, 2.67), nn.RMSNorm(16)
    x = torch.randn(2, 100, 16, requires_grad=True)
    wanted = (x, norm.weight, *layer.parameters())
    whole = layer(x, norm)
    gradients = torch.autograd.grad(whole.square().sum(), wanted)
    monkeypatch.setattr(chains, "AS_EVER", set() if elsewhere else {"cpu"})
    monkeypatch.setattr(row_pieces, "INNER_NUMBERS_ELSEWHERE" if elsewhere else "INNER_NUMBERS", 2 * 30 * 128)
    rows = []
    layer.up.register_forward_hook(lambda module, inputs, out: rows.append(out.shape[1]))
    with torch.no_grad():
        torch.testing.assert_close(layer(x, norm), whole)
    assert rows == [25] * 4
    rows.clear()
    found = torch.autograd.grad(layer(x, norm).square().sum(), wanted)
    assert rows == ([25] * 4 if elsewhere else [100])  # on CPUs gradients are summed in the order that they always were
    torch.testing.assert_close(found, gradients)
