"""First weights of a core that is to learn from few mice in few steps."""

from __future__ import annotations

import torch
from torch import nn

from omnimouse.model.modeling_omnimouse import OmniMouseNetwork

BRANCH_SCALE = 0.1
"""Of the output maps of blocks: how much a block adds to what passes it at first."""

POSITION_SCALE = 0.5
"""Of the waves that tell patches where they are."""


@torch.no_grad()
def open_stimulus_path(model: OmniMouseNetwork) -> None:
    """Changes the first weights of a core in place so that the stimulus reaches the predictions from the first step.

    The released initialisation leaves video tokens small beside what the blocks add to them, and nearly blind to where
    they are; large models overcome that in a warm-up of 20,000 steps. Here blocks begin close to the identity, the
    maps of the video encoder at unit scale (standard deviation `fan_in ** -0.5`), and the positions of patches as
    waves. The architecture stays what it is.

    Args:
        model: with the weights it was made with.
    """
    encoder = model.video_encoder
    for name, parameter in encoder.named_parameters():
        if parameter.ndim >= 2 and "position" not in name:
            nn.init.trunc_normal_(parameter, std=parameter[0].numel() ** -0.5)
    _, rows, columns = encoder.grid
    encoder.spatial_position.copy_(POSITION_SCALE * position_waves(rows, columns, encoder.spatial_position.shape[1]))
    for block in (model.encoder, *model.fusion, *(block.attention for block in encoder.blocks)):
        block.output.weight.mul_(BRANCH_SCALE)
    for block in (model.encoder, *model.fusion, *encoder.blocks):
        block.feed_forward.down.weight.mul_(BRANCH_SCALE)


def position_waves(rows: int, columns: int, size: int) -> torch.Tensor:
    """Sines and cosines of row and column at octave-spaced frequencies.

    Returns:
        `[rows * columns, size]`, row by row; columns beyond the last multiple of 4 are 0.
    """
    y, x = torch.meshgrid(torch.arange(rows) / (rows - 1), torch.arange(columns) / (rows - 1), indexing="ij")
    frequencies = 2.0 ** torch.linspace(-1, 2, size // 4)
    parts = [wave(torch.pi * axis[..., None] * frequencies) for axis in (y, x) for wave in (torch.sin, torch.cos)]
    waves = torch.cat(parts, dim=-1).flatten(0, 1)
    return nn.functional.pad(waves, (0, size - waves.shape[1]))
