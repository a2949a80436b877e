"""Losses are pure functions: their formulas, their clamps, and what their sum leaves out."""

import torch

from omnimouse import OmniMouseConfig
from omnimouse.model.losses import clamped_squared_error, poisson_elements, window_losses


def test_losses_and_their_clamps():
    p, y = torch.tensor([0.5, 1e-9, 1e4]), torch.tensor([2.0, 1e3, 0.0])
    expected = torch.stack([p[0] - 2 * torch.log(p[0] + 1e-5), torch.tensor(100.0), torch.tensor(100.0)]).mean()
    torch.testing.assert_close(poisson_elements(p, y, epsilon=1e-5, clamp=100.0).mean(), expected)
    assert float(clamped_squared_error(torch.tensor([0.0, 9.0]), torch.tensor([2.0, 0.0]), clamp=10.0)) == 7.0


def test_a_prediction_of_zero_has_a_finite_loss():
    p, y = torch.zeros(2), torch.tensor([1.0, 3.0])
    loss = poisson_elements(p, y, epsilon=1e-5, clamp=100.0).mean()
    torch.testing.assert_close(loss, -2 * torch.log(torch.tensor(1e-5)))


def test_the_sum_weighs_behaviour_and_counts_what_there_is_to_compare():
    config = OmniMouseConfig(behavior_loss_weight=0.5)
    p, y = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    counts = torch.tensor([[True, False, True, True]]).expand(3, -1)
    behavior = (torch.rand(2, 5, 40), torch.rand(2, 5, 40), torch.tensor([0, 3]))
    losses = window_losses((p, y, counts.flatten().nonzero()[:, 0]), behavior, config)
    expected = (p - y * torch.log(p + 1e-5))[..., [0, 2, 3]].mean()
    decoded = (behavior[0] - behavior[1])[:, [0, 3]].square().mean()
    torch.testing.assert_close(losses["loss"], expected + 0.5 * decoded)
    everything = window_losses((p, y, None), behavior, config)["response_loss"]
    torch.testing.assert_close(everything, (p - y * torch.log(p + 1e-5)).mean())
    every_channel = window_losses(None, (*behavior[:2], None), config)["behavior_loss"]
    torch.testing.assert_close(every_channel, (behavior[0] - behavior[1]).square().mean())
    assert list(window_losses(None, behavior, config)) == ["behavior_loss", "loss"]
    assert window_losses(None, None, config) == {}
