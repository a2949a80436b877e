"""The video encoder: a two-stage hierarchical vision transformer over patches of 36x64 video.

Shape letters: B batch, T time steps of patches, R rows and K columns of patches, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from omnimouse.model.attention import GatedFeedForward, dense_attention, rms_normalize
from omnimouse.model.configuration_omnimouse import MASK_UNIT, OmniMouseConfig


def stochastic_depth(x: Tensor, rate: float, training: bool) -> Tensor:
    """Drops a residual branch `[B, ...]` for whole batch items with probability `rate`, rescaling the others."""
    if not training or rate == 0.0:
        return x
    keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * keep.to(x.dtype) / (1.0 - rate)


def _spatial_units(x: Tensor, unit: int) -> Tensor:
    """`[B, T, R, K, ...]` to mask units of `unit` x `unit` neighbours: `[B, T, R/u, K/u, u, u, ...]`."""
    batch, steps, rows, columns, *rest = x.shape
    return x.reshape(batch, steps, rows // unit, unit, columns // unit, unit, *rest).transpose(3, 4)


def _max_pool(x: Tensor) -> Tensor:
    """Largest of each 2x2 neighbourhood: `[B, T, R, K, D]` to `[B, T, R/2, K/2, D]`."""
    batch, steps, rows, columns, size = x.shape
    return x.reshape(batch, steps, rows // 2, 2, columns // 2, 2, size).amax(dim=(3, 5))


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    steps, rows, columns = values
    return steps, rows, columns


class MaskUnitAttention(nn.Module):
    """Attention inside mask units, with biases, RMS-normalised queries and keys and, in one block, pooled queries.

    Args:
        size: Input width.
        out_size: Output width.
        heads: Heads.
        pool: Whether queries are max-pooled by 4 before they are normalised.
        unit: Side of a mask unit before pooling, in patches.
        eps: Epsilon of the norms.
        layout: `video_attention_layout` of the configuration.
    """

    def __init__(self, size: int, out_size: int, heads: int, *, pool: bool, unit: int, eps: float, layout: str):
        super().__init__()
        self.heads, self.pool, self.unit, self.eps, self.layout = heads, pool, unit, eps, layout
        self.query_key_value = nn.Linear(size, 3 * out_size)
        self.output = nn.Linear(out_size, out_size)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, R, K, D]` (or its reordered sequence `[B, rows, D]` under `"published"`) to the pooled shape."""
        attend = self._published if self.layout == "published" else self._spatial
        return self.output(attend(self.query_key_value(x)))

    def _dense(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of `[units, rows, H, C]` tensors, to `[units, rows, H * C]`."""
        query, key = (rms_normalize(part, self.eps) for part in (query, key))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return dense_attention(query, key, value).transpose(1, 2).flatten(2)

    def _spatial(self, qkv: Tensor) -> Tensor:
        batch, steps, rows, columns, _ = qkv.shape
        units = _spatial_units(qkv, self.unit).reshape(-1, self.unit, self.unit, 3, self.heads, self._head_size(qkv))
        query, key, value = units.unbind(dim=3)
        side = self.unit
        if self.pool:
            side //= 2
            query = query.reshape(-1, side, 2, side, 2, *query.shape[3:]).amax(dim=(2, 4))
            rows, columns = rows // 2, columns // 2
        out = self._dense(*(part.flatten(1, 2) for part in (query, key, value)))
        out = out.reshape(batch, steps, rows // side, columns // side, side, side, -1)
        return out.transpose(3, 4).reshape(batch, steps, rows, columns, -1)

    def _published(self, qkv: Tensor) -> Tensor:
        batch, length, _ = qkv.shape
        size = self.unit**2
        n_units = length // size
        units = qkv.reshape(batch * n_units, size, 3, self.heads, self._head_size(qkv))
        query, key, value = units.unbind(dim=2)
        if self.pool:
            query = query.unflatten(1, (size // 4, 4)).amax(dim=2)
        out = self._dense(query, key, value).unflatten(0, (batch, n_units))
        # The released code writes outputs back as if the unit index were the fastest one.
        return out.transpose(1, 2).flatten(1, 2)

    def _head_size(self, qkv: Tensor) -> int:
        return qkv.shape[-1] // (3 * self.heads)


class VideoBlock(GradientCheckpointingLayer):
    """Pre-norm block: mask-unit attention and a gated feed-forward, both with stochastic depth.

    Args:
        size: Input width.
        out_size: Output width; where it differs the block pools space by 2x2.
        heads: Heads.
        unit: Side of a mask unit at the block's input, in patches.
        drop_path: Rate of stochastic depth.
        config: The model's configuration.
    """

    def __init__(self, size: int, out_size: int, heads: int, unit: int, drop_path: float, config: OmniMouseConfig):
        super().__init__()
        eps, self.layout, self.drop_path = config.rms_norm_eps, config.video_attention_layout, drop_path
        self.attention_norm = nn.RMSNorm(size, eps=eps)
        pool = size != out_size
        self.attention = MaskUnitAttention(size, out_size, heads, pool=pool, unit=unit, eps=eps, layout=self.layout)
        self.pool_projection = nn.Linear(size, out_size) if pool else None
        self.feed_forward_norm = nn.RMSNorm(out_size, eps=eps)
        self.feed_forward = GatedFeedForward(out_size, config.video_ffn_multiplier)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        if self.pool_projection is not None:
            x = self._pool(self.pool_projection(normed)).to(x.dtype)
        x = x + stochastic_depth(self.attention(normed), self.drop_path, self.training)
        flat = self.feed_forward_norm(x).flatten(1, -2)
        return x + stochastic_depth(self.feed_forward(flat).reshape(x.shape), self.drop_path, self.training)

    def _pool(self, x: Tensor) -> Tensor:
        if self.layout == "spatial":
            return _max_pool(x)
        # Reordered tokens: the four quarters of the sequence are the offsets of each 2x2 neighbourhood.
        return x.unflatten(1, (4, -1)).amax(dim=1)


class VideoEncoder(nn.Module):
    """Turns frames into video features, one per time step and place, of twice `video_hidden_size`.

    Under the `"spatial"` layout, only the visible steps are computed and hidden frames count as mean grey (0), so
    features depend on visible frames alone. Under `"published"`, features of visible steps also depend on hidden
    frames; this is a property of the released weights.
    """

    def __init__(self, config: OmniMouseConfig):
        super().__init__()
        size, depths = config.video_hidden_size, config.video_depths
        steps, rows, columns = config.video_patch_grid
        self.layout = config.video_attention_layout
        self.grid, self.out_size = (steps, rows, columns), 2 * size
        self.kernel, self.stride = config.video_patch_kernel, config.video_patch_stride
        self.padding = config.video_patch_padding
        self.patch_embedding = nn.Conv3d(1, size, _triple(self.kernel), _triple(self.stride))
        self.spatial_position = nn.Parameter(torch.empty(rows * columns, size))
        self.temporal_position = nn.Parameter(torch.empty(steps, size))
        rates = torch.linspace(0, config.video_drop_path_rate, sum(depths), device="cpu").tolist()
        self.blocks = nn.ModuleList()
        for i, rate in enumerate(rates):
            late, pools = i >= depths[0], i == depths[0]
            self.blocks.append(
                VideoBlock(
                    size if i <= depths[0] else 2 * size,
                    2 * size if late else size,
                    config.video_num_heads * (2 if late else 1),
                    MASK_UNIT // 2 if late and not pools else MASK_UNIT,
                    rate,
                    config,
                )
            )

    def forward(self, video: Tensor, frames: tuple[int, int], steps: tuple[int, int]) -> Tensor:
        """Encodes the visible part of a video.

        Args:
            video: `[B, 1, frames, height, width]`, normalised grey.
            frames: Visible frames `[first, last)`.
            steps: Visible time steps `[first, last)`.

        Returns:
            `[B, n steps * rows * columns, 2 * video_hidden_size]` in `(step, row, column)` order, after 2x2 pooling.
        """
        first, last = steps
        if self.layout == "published":
            x = self._embed(video, (0, self.grid[0]))
            x = self._to_published_order(x)
            for block in self.blocks:
                x = block(x)
            return x.unflatten(1, (self.grid[0], -1))[:, first:last].flatten(1, 2)
        x = self._embed(self._hide(video, frames), steps)
        for block in self.blocks:
            x = block(x)
        return x.flatten(1, 3)

    @staticmethod
    def _hide(video: Tensor, frames: tuple[int, int]) -> Tensor:
        first, last = frames
        if (first, last) == (0, video.shape[2]):
            return video
        shown = torch.zeros_like(video)  # not a product with 0: hidden frames may be NaN
        shown[:, :, first:last] = video[:, :, first:last]
        return shown

    def _embed(self, video: Tensor, steps: tuple[int, int]) -> Tensor:
        """Patches of the given steps with their positions, `[B, T, R, K, D]`."""
        first, last = steps
        start = first * self.stride[0] - self.padding[0]
        stop = (last - 1) * self.stride[0] - self.padding[0] + self.kernel[0]
        n_frames = video.shape[2]
        frames = video[:, :, max(start, 0) : min(stop, n_frames)]
        before, after = max(-start, 0), max(stop - n_frames, 0)
        frames = F.pad(frames, (self.padding[2],) * 2 + (self.padding[1],) * 2 + (before, after))
        x = self.patch_embedding(frames).permute(0, 2, 3, 4, 1)
        spatial = self.spatial_position.unflatten(0, self.grid[1:])
        return x + spatial + self.temporal_position[first:last, None, None]

    @staticmethod
    def _to_published_order(x: Tensor) -> Tensor:
        """`[B, T, R, K, D]` to a sequence ordered by (row offset, column offset, step, row, column)."""
        batch, steps, rows, columns, size = x.shape
        x = x.reshape(batch, steps, rows // 2, 2, columns // 2, 2, size)
        return x.permute(0, 3, 5, 1, 2, 4, 6).reshape(batch, -1, size)
