"""The kernel for sequences of different lengths in plain float32, so that packed attention runs on a CPU."""

from itertools import pairwise

import torch

from omnimouse.model.kernels import packed_attention


def on_this_device(monkeypatch, *, long_stretch):
    """Lets packed attention compute all layers of several groups here, and returns the calls that it makes."""
    kernel = EmulatedKernel()
    monkeypatch.setattr(packed_attention, "FLASH", kernel)
    monkeypatch.setattr(packed_attention.packed_attention, "__kwdefaults__", {"long_stretch": long_stretch})
    monkeypatch.setattr("omnimouse.model.attention.packs", lambda *given: len(given[3]) > 1)
    return kernel.calls


class EmulatedKernel:
    """Softmax of each sequence by itself; what a kernel does not write is NaN, as memory may be."""

    def __init__(self):
        self.calls = []

    def forward(self, query, key, value, call):
        self.calls.append(call)
        out, norms = (
            query.new_full(query.shape, torch.nan),
            query.new_full(query.shape[:2], torch.nan, dtype=torch.float32),
        )
        for rows, keys in sequences(call):
            q, k, v = parts(query[rows], key[keys], value[keys])
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            norms[rows] = scores.logsumexp(-1).T
            out[rows] = (scores.softmax(-1) @ v).transpose(0, 1).to(out.dtype)
        return out, norms

    def backward(self, gradient, query, key, value, out, norms, call):
        assert gradient.is_contiguous()
        to_query, to_key, to_value = (torch.full_like(x, torch.nan) for x in (query, key, value))
        for rows, keys in sequences(call):
            q, k, v = parts(query[rows], key[keys], value[keys])
            g, o = (x[rows].transpose(0, 1).float() for x in (gradient, out))
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 - norms[rows].T[..., None]).exp()
            of_scores = weights * (g @ v.transpose(-1, -2) - (g * o).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
            to_query[rows] = (of_scores @ k).transpose(0, 1).to(query.dtype)
            for target, found in ((to_key, of_scores.transpose(-1, -2) @ q), (to_value, weights.transpose(-1, -2) @ g)):
                target[keys] = found.unflatten(0, (key.shape[1], -1)).sum(1).transpose(0, 1).to(key.dtype)
        return to_query, to_key, to_value


def sequences(call):
    """Rows of queries and keys of each sequence that has both."""
    found = []
    for (first, last), (start, stop) in zip(
        *(pairwise(x.tolist()) for x in (call.query_ends, call.key_ends)), strict=True
    ):
        assert last - first <= call.most_queries and stop - start <= call.most_keys
        if last > first and stop > start:
            found.append((slice(first, last), slice(start, stop)))
    return found


def parts(query, key, value):
    """`[heads, rows, C]` in float32, key heads repeated."""
    sharing = query.shape[1] // key.shape[1]
    return (
        query.transpose(0, 1).float(),
        *(x.transpose(0, 1).float().repeat_interleave(sharing, 0) for x in (key, value)),
    )
