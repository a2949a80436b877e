"""Operations counted from shapes, against those that PyTorch counts while it computes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.model.masking.masks import TASKS
from omnimouse.training.runs.flops import adapter_flops, forward_flops, identity_flops, training_flops

N_NEURONS, POPULATION = 24, 20
CONFIGS = {
    "tiny": {"preset": "tiny"},
    "grouped heads, three fusion layers": {
        "preset": "tiny", "hidden_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_fusion_layers": 3, "ffn_multiplier": 3.1, "decoder_ffn_multiplier": 2,
    },
    "published video layout": {"preset": "tiny", "video_attention_layout": "published", "video_depths": [2, 1]},
    "no registers": {"preset": "tiny", "num_registers": 0},
}  # fmt: skip


def counted(model, mask, batch, *, backward=False):
    """Operations that PyTorch counts. Its counter knows attention on CPUs only as the products it is made of."""
    config = model.config
    inputs = {
        "responses": torch.rand(batch, config.num_response_samples, N_NEURONS),
        "video": torch.rand(batch, 1, config.num_frames, config.frame_height, config.frame_width),
        "behavior": torch.rand(batch, len(config.behavior_channels), config.num_behavior_samples),
    }
    ids = torch.stack([torch.randperm(N_NEURONS)[:POPULATION] for _ in range(batch)])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        out = model("a-1-1", **inputs, mask=mask, neuron_ids=ids)
        if backward:
            out.loss.backward()
    return counter.get_total_flops()


def build(preset, **overrides):
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset(preset, **overrides))
    model.add_session("a-1-1", n_neurons=N_NEURONS, animal_id="a")
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_forward_pass_counts_what_pytorch_counts(name):
    model = build(**CONFIGS[name])
    for task in TASKS:
        ours = 2 * forward_flops(model.window_plan(task, POPULATION), model.config) + identity_flops(
            N_NEURONS, model.config
        )
        assert ours == counted(model, task, 2), task


def test_a_training_step_counts_what_pytorch_counts():
    model = build("tiny")
    for task in TASKS:
        ours = training_flops(model.window_plan(task, POPULATION), model.config, n_windows=2, n_neurons=N_NEURONS)
        assert ours == counted(model, task, 2, backward=True), task


def test_a_step_of_session_tables_counts_what_pytorch_counts():
    """With the core frozen, no gradient of a weight is computed, and none that leads to the video."""
    model = build("tiny").requires_grad_(False)
    for _, parameter in model.session_named_parameters("a-1-1"):
        parameter.requires_grad_(True)
    for task in TASKS:
        ours = adapter_flops(model.window_plan(task, POPULATION), model.config, n_windows=2, n_neurons=N_NEURONS)
        assert ours == counted(model, task, 2, backward=True), task


def test_a_hidden_video_costs_nothing_and_more_neurons_cost_more():
    model = build("tiny")
    with_video, without = (
        forward_flops(model.window_plan(task, POPULATION), model.config) for task in ("stimulus", "behavior")
    )
    assert with_video > 2 * without
    few, many = (forward_flops(model.window_plan("population", n), model.config) for n in (20, 40))
    assert few < many < 2 * few
