"""The video encoder: a two-stage hierarchical vision transformer over patches of 36x64 video.

Shape letters, also those of the patterns: b batch, t time steps of patches, r rows and k columns of patches (or of mask
units), u and v row and column inside a mask unit, p and q row and column inside a 2x2 neighbourhood that is pooled,
n rows or units of a sequence, h heads, c head size, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from omnimouse.model.attention import GatedFeedForward, dense_attention
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.kernels.chains import rms_normalize
from omnimouse.model.kernels.recomputation import project, project_normed
from omnimouse.model.kernels.space_pooling import largest_of_four


@dataclass(frozen=True)
class VideoLayout:
    """Where video tokens stand, which of them attend to each other, and which are pooled, as patterns of einops."""

    tokens: str  # from patches to tokens
    units: str  # from the queries, keys and values of all tokens to those of mask units
    pooled_queries: str  # from a unit's queries to the largest of four
    outputs: str  # from the outputs of mask units back to tokens
    pooled: str  # from tokens to the largest of each 2x2 neighbourhood
    steps: str  # from tokens to those of each time step
    sees_hidden_frames: bool  # whether features of visible steps depend on them; then all steps are computed


LAYOUTS = {
    # Mask units are neighbouring patches of one time step.
    "spatial": VideoLayout(
        tokens="b t (r p) (k q) d -> b t (r p) (k q) d",
        units="b t (r u) (k v) (three h c) -> three b t r k h (u v) c",
        pooled_queries="... h (u p v q) c -> ... h (u v) c",
        outputs="b t r k h (u v) c -> b t (r u) (k v) (h c)",
        pooled="b t (r p) (k q) d -> b t r k d",
        steps="b t r k d -> b t (r k) d",
        sees_hidden_frames=False,
    ),
    # What the released weights need. Tokens are one sequence with the offsets inside 2x2 neighbourhoods first; units
    # and pooled queries are *consecutive* ones, and outputs are written back as if the unit were the fastest axis.
    "published": VideoLayout(
        tokens="b t (r p) (k q) d -> b (p q t r k) d",
        units="b (n u v) (three h c) -> three b n h (u v) c",
        pooled_queries="... h (u v p q) c -> ... h (u v) c",
        outputs="b n h (u v) c -> b (u v n) (h c)",
        pooled="b (p q n) d -> b n d",
        steps="b (t n) d -> b t n d",
        sees_hidden_frames=True,
    ),
}
"""By their names in `OmniMouseConfig.video_attention_layout`; another layout is another entry here and there."""


def stochastic_depth(x: Tensor, rate: float, training: bool) -> Tensor:
    """Drops a residual branch `[b, ...]` for whole batch items with probability `rate`, rescaling the others."""
    if not training or rate == 0.0:
        return x
    keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * keep.to(x.dtype) / (1.0 - rate)


class MaskUnitAttention(nn.Module):
    """Attention inside mask units, with biases and RMS-normalised queries and keys.

    `unit` is the side of a mask unit in patches; with `pool`, queries are max-pooled by 4 before they are normalised.
    """

    def __init__(self, size: int, out_size: int, heads: int, *, pool: bool, unit: int, eps: float, layout: VideoLayout):
        super().__init__()
        self.heads, self.pool, self.unit, self.eps, self.layout = heads, pool, unit, eps, layout
        self.query_key_value = nn.Linear(size, 3 * out_size)
        self.output = nn.Linear(out_size, out_size)

    def forward(self, projected: Tensor) -> Tensor:
        """What `query_key_value` made of tokens as the layout has them, to as many or, with pooling, a quarter."""
        sizes = {"three": 3, "h": self.heads, "u": self.unit, "v": self.unit}
        query, key, value = rearrange(projected, self.layout.units, **sizes)
        side = self.unit
        if self.pool:
            side //= 2
            query = largest_of_four(query, self.layout.pooled_queries, u=side, v=side)
        units = query.shape[:-3]
        query, key = (project(partial(rms_normalize, eps=self.eps), (), part)[0] for part in (query, key))
        out = dense_attention(*(part.flatten(0, -4) for part in (query, key, value)))
        return self.output(rearrange(out.unflatten(0, units), self.layout.outputs, u=side, v=side))


class VideoBlock(GradientCheckpointingLayer):
    """Pre-norm block: mask-unit attention and a gated feed-forward, both with stochastic depth of rate `drop_path`.

    `unit` is the side of a mask unit at its input, in patches. Where the output is wider it pools space by 2x2.
    """

    def __init__(self, size: int, out_size: int, heads: int, unit: int, drop_path: float, config: OmniMouseConfig):
        super().__init__()
        self.layout, self.drop_path = LAYOUTS[config.video_attention_layout], drop_path
        eps, pool = config.rms_norm_eps, size != out_size
        self.attention_norm = nn.RMSNorm(size, eps=eps)
        self.attention = MaskUnitAttention(size, out_size, heads, pool=pool, unit=unit, eps=eps, layout=self.layout)
        self.pool_projection = nn.Linear(size, out_size) if pool else None
        self.feed_forward_norm = nn.RMSNorm(out_size, eps=eps)
        self.feed_forward = GatedFeedForward(out_size, config.video_ffn_multiplier)

    def forward(self, x: Tensor) -> Tensor:
        maps = (self.attention.query_key_value, *(() if self.pool_projection is None else (self.pool_projection,)))
        projected, *pooled = project_normed(self.attention_norm, maps, x)
        if pooled:
            x = largest_of_four(pooled[0], self.layout.pooled).to(x.dtype)
        x = x + stochastic_depth(self.attention(projected), self.drop_path, self.training)
        out = self.feed_forward(x.flatten(1, -2), self.feed_forward_norm).reshape(x.shape)
        return x + stochastic_depth(out, self.drop_path, self.training)


class VideoEncoder(nn.Module):
    """Turns frames into video features, one per time step and place, of twice `video_hidden_size`.

    Under the `"spatial"` layout, only the visible steps are computed and hidden frames count as mean grey (0), so
    features depend on visible frames alone. Under `"published"`, features of visible steps also depend on hidden
    frames; this is a property of the released weights.
    """

    def __init__(self, config: OmniMouseConfig):
        super().__init__()
        size, early = config.video_hidden_size, config.video_depths[0]
        self.layout = LAYOUTS[config.video_attention_layout]
        self.grid, self.out_size = config.video_patch_grid, 2 * size
        self.kernel, self.stride = _triple(config.video_patch_kernel), _triple(config.video_patch_stride)
        self.padding = config.video_patch_padding
        self.patch_embedding = nn.Conv3d(1, size, self.kernel, self.stride)
        self.spatial_position = nn.Parameter(torch.empty(self.grid[1] * self.grid[2], size))
        self.temporal_position = nn.Parameter(torch.empty(self.grid[0], size))
        rates = torch.linspace(0, config.video_drop_path_rate, sum(config.video_depths), device="cpu").tolist()
        self.blocks = nn.ModuleList()
        for i, rate in enumerate(rates):
            width, out_width = (size if i <= early else 2 * size), (size if i < early else 2 * size)
            unit, heads = config.mask_unit // (1 if i <= early else 2), config.video_num_heads * out_width // size
            self.blocks.append(VideoBlock(width, out_width, heads, unit, rate, config))

    def forward(self, video: Tensor, frames: tuple[int, int], steps: tuple[int, int]) -> Tensor:
        """Encodes the visible part of a video.

        Args:
            video: `[b, 1, frames, height, width]`, normalised grey.
            frames: Visible frames `[first, last)`.
            steps: Visible time steps `[first, last)`.

        Returns:
            `[b, steps * rows * columns, 2 * video_hidden_size]` in `(step, row, column)` order, after 2x2 pooling.
        """
        first, last = (0, self.grid[0]) if self.layout.sees_hidden_frames else steps
        if not self.layout.sees_hidden_frames and frames != (0, video.shape[2]):
            shown = torch.zeros_like(video)  # not a product with 0: hidden frames may be NaN
            shown[:, :, slice(*frames)] = video[:, :, slice(*frames)]
            video = shown
        x = rearrange(self._embed(video, first, last), self.layout.tokens, p=2, q=2)
        for block in self.blocks:
            x = block(x)
        x = rearrange(x, self.layout.steps, t=last - first)
        return x[:, steps[0] - first : steps[1] - first].flatten(1, 2)

    def _embed(self, video: Tensor, first: int, last: int) -> Tensor:
        """Patches of the steps `[first, last)` with their positions, `[b, t, r, k, d]`."""
        start = first * self.stride[0] - self.padding[0]
        stop = (last - 1) * self.stride[0] - self.padding[0] + self.kernel[0]
        n_frames = video.shape[2]
        frames = video[:, :, max(start, 0) : min(stop, n_frames)]
        before, after = max(-start, 0), max(stop - n_frames, 0)
        frames = F.pad(frames, (self.padding[2],) * 2 + (self.padding[1],) * 2 + (before, after))
        x = rearrange(self.patch_embedding(frames), "b d t r k -> b t r k d")
        spatial = rearrange(self.spatial_position, "(r k) d -> r k d", r=self.grid[1])
        return x + spatial + self.temporal_position[first:last, None, None]


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    steps, rows, columns = values
    return steps, rows, columns
