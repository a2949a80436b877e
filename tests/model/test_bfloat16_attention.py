"""Attention in bfloat16 against the plain formula, and where it is used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omnimouse.model.attention import dense_attention
from omnimouse.model.kernels import bfloat16_attention
from omnimouse.model.kernels.bfloat16_attention import attend_in_bfloat16, attends_in_bfloat16


@pytest.mark.parametrize("heads, key_heads, rows, keys", [(4, 4, 5, 7), (4, 2, 150, 90), (2, 1, 1, 300)])
@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_it_is_attention_up_to_the_rounding_of_bfloat16(heads, key_heads, rows, keys, alike, monkeypatch):
    monkeypatch.setattr(bfloat16_attention, "BLOCK", 1)  # several blocks
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, n, m, 32, generator=generator) for n, m in ((heads, rows), (key_heads, keys), (key_heads, keys))
    )
    key = torch.lerp(key, query[:, :key_heads, :1].expand_as(key), alike)  # the more, the larger the scores
    query, key = (F.rms_norm(x, (32,)).bfloat16() for x in (query, key))
    value = value.bfloat16()
    # Keys and values come as stretches of one projection.
    found = attend_in_bfloat16(query.transpose(1, 2).contiguous().transpose(1, 2), key, value)
    exact = dense_attention(query.float(), key.float(), value.float())
    assert found.dtype == torch.bfloat16 and found.shape == exact.shape
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)


def test_it_is_for_inference_in_bfloat16_on_cpus_that_have_it(monkeypatch):
    value = torch.zeros(1, 1, 2, 4, dtype=torch.bfloat16)
    monkeypatch.setattr(bfloat16_attention, "_has_instructions", lambda: True)
    assert not attends_in_bfloat16(value)
    with torch.no_grad():
        assert not attends_in_bfloat16(value)
    with torch.inference_mode():
        assert attends_in_bfloat16(value)
        assert not attends_in_bfloat16(value.float())
        assert not attends_in_bfloat16(torch.zeros(1, 1, 2, 4, dtype=torch.bfloat16, device="meta"))
        monkeypatch.setattr(bfloat16_attention, "_has_instructions", lambda: False)
        assert not attends_in_bfloat16(value)
