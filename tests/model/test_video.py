"""The video encoder on its own: stochastic depth, pooling."""

import pytest
import torch
from einops import reduce

from omnimouse import OmniMouseConfig
from omnimouse.model.kernels.space_pooling import largest_of_four
from omnimouse.model.video import LAYOUTS, VideoEncoder, stochastic_depth


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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", ["pooled", "pooled_queries"])
def test_the_largest_of_four_is_the_maximum_and_has_its_gradient(layout, part):
    pattern = getattr(LAYOUTS[layout], part)
    shape = {"pooled": (2, 3, 8, 8, 5), "pooled_queries": (2, 3, 64, 5)}[part]
    if layout == "published" and part == "pooled":
        shape = (2, 64, 5)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    sizes = {"u": 4, "v": 4} if part == "pooled_queries" else {}
    ways = largest_of_four(x, pattern, **sizes), reduce(x, pattern, "max", p=2, q=2, **sizes)
    assert torch.equal(*ways)
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), x)[0] for y in ways))
