"""The video encoder on its own: stochastic depth."""

import pytest
import torch

from omnimouse import OmniMouseConfig
from omnimouse.model.video import VideoEncoder, stochastic_depth


def test_stochastic_depth_drops_whole_items_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.rand(4000, 2, 3) + 0.5
    kept = stochastic_depth(x, 0.25, training=True) / x
    assert torch.equal(kept[:, :1, :1].expand_as(kept) == 0, kept == 0)
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 4 / 3))
    assert float((kept[:, 0, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert stochastic_depth(x, 0.25, training=False) is x and stochastic_depth(x, 0.0, training=True) is x


def test_the_rate_of_stochastic_depth_rises_from_block_to_block():
    config = OmniMouseConfig.from_preset("tiny", video_depths=[2, 3], video_drop_path_rate=0.2)
    rates = [block.drop_path for block in VideoEncoder(config).blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
