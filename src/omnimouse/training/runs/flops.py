"""Compute in floating point operations, counted from the shapes of a window rather than measured.

Counted are matrix products, convolutions and attention scores, a multiplication and an addition as two operations, as
in `torch.utils.flop_counter`; norms, activations and the softmax are left out, as there. Each stretch of keys that a
local layer sees counts with its true length: the count is what is computed, not what dense attention would have cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from omnimouse.model.attention import feed_forward_width
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.kernels.attention_groups import Group
from omnimouse.model.tokens import WindowPlan
from omnimouse.model.video import LAYOUTS

BACKWARD = 2
"""The backward pass computes two products for each of the forward pass: towards inputs and towards weights."""


def training_flops(plan: WindowPlan, config: OmniMouseConfig, *, n_windows: int, n_neurons: int) -> int:
    """Operations of one training step, forward and backward.

    A forward pass three times over, but for the products towards the inputs of the model, which nobody needs.

    Args:
        plan: plan of the window: mask and population.
        config: the model's configuration.
        n_windows: windows of the batch.
        n_neurons: neurons of the session, all of which pass through the identity map once per step.
    """
    window = (1 + BACKWARD) * forward_flops(plan, config) - _input_flops(plan, config)
    return n_windows * window + (1 + BACKWARD) * identity_flops(n_neurons, config)


def adapter_flops(plan: WindowPlan, config: OmniMouseConfig, *, n_windows: int, n_neurons: int) -> int:
    """Operations of one step that trains session tables on a frozen core; arguments as for `training_flops`.

    Products with frozen weights are done twice, forward and towards their inputs; attention, whose operands are all
    activations, three times; and what nothing trained passes through, video and other inputs, once.
    """
    once = _input_flops(plan, config) + _video_flops(plan, config)
    window = 2 * forward_flops(plan, config) - once + _attention_flops(plan, config)
    return n_windows * window + 2 * identity_flops(n_neurons, config)


def identity_flops(n_neurons: int, config: OmniMouseConfig) -> int:
    """Operations that map the vectors of a session to hidden size, once per batch."""
    return _product(n_neurons + 2, config.identity_size, config.hidden_size)


def forward_flops(plan: WindowPlan, config: OmniMouseConfig) -> int:
    """Operations of the forward pass of one window, without the identity map."""
    size, channels = config.hidden_size, len(config.behavior_channels)
    heads = config.num_attention_heads
    narrow = (config.num_key_value_heads or heads) * config.head_dim
    fused = plan.fusion_local.query_rotary.shape[1]
    total = _input_flops(plan, config) + _video_flops(plan, config)
    if plan.encoder is not None:
        tokens, latents = plan.encoder.key_rotary.shape[1], plan.encoder.query_rotary.shape[1]
        total += _cross_block(latents, latents, tokens, plan.encoder.groups, size, config.ffn_multiplier)
    for layer in range(config.num_fusion_layers):
        attention = plan.fusion_global if config.is_global_layer(layer) else plan.fusion_local
        total += _product(fused, size, size + 2 * narrow) + _attention(attention.groups, size)
        total += _product(fused, size, size) + _feed_forward(fused, size, config.ffn_multiplier)
    queries = plan.decoder.query_rotary.shape[1]
    decoded = channels if plan.mask.decodes_behavior else 0
    compact = plan.mask.n_neurons - plan.first_query_neuron + decoded
    total += _cross_block(compact, queries, fused, plan.decoder.groups, size, config.decoder_ffn_multiplier)
    total += _product(queries - decoded, size, config.response_token_stride)
    return total + _product(decoded, size, config.num_behavior_samples)


def _product(rows: int, inner: int, columns: int) -> int:
    """A matrix product `[rows, inner] @ [inner, columns]`."""
    return 2 * rows * inner * columns


def _attention(groups: Sequence[Group], size: int) -> int:
    """Scores and weighted sums of an attention plan, over all heads."""
    pairs = sum((group.stop - group.start) * sum(stop - start for start, stop in group.keys) for group in groups)
    return 2 * _product(pairs, size, 1)


def _attention_flops(plan: WindowPlan, config: OmniMouseConfig) -> int:
    """Scores and weighted sums of all layers but those of the video encoder."""
    layers = [plan.encoder, plan.decoder] if plan.encoder is not None else [plan.decoder]
    for layer in range(config.num_fusion_layers):
        layers.append(plan.fusion_global if config.is_global_layer(layer) else plan.fusion_local)
    return sum(_attention(layer.groups, config.hidden_size) for layer in layers)


def _feed_forward(rows: int, size: int, multiplier: float) -> int:
    return 3 * _product(rows, size, feed_forward_width(size, multiplier))


def _cross_block(rows: int, repeated: int, keys: int, groups: Sequence[Group], size: int, multiplier: float) -> int:
    """A cross-attention block whose `rows` queries are projected once and asked `repeated` times in all."""
    projections = _product(rows + repeated, size, size) + _product(keys, size, 2 * size)
    return projections + _attention(groups, size) + _feed_forward(repeated, size, multiplier)


def _input_flops(plan: WindowPlan, config: OmniMouseConfig) -> int:
    """The maps that read the inputs: response and behaviour tokens, and video patches."""
    total = 0
    if plan.encoder is not None:
        behavior = len(config.behavior_channels) if plan.mask.encodes_behavior else 0
        responses = plan.encoder.key_rotary.shape[1] - behavior
        total += _product(responses, config.response_token_window, config.hidden_size)
        total += _product(behavior, config.num_behavior_samples, config.hidden_size)
    if plan.mask.shows_video:
        total += _product(_patches(plan, config), math.prod(config.video_patch_kernel), config.video_hidden_size)
    return total


def _patches(plan: WindowPlan, config: OmniMouseConfig) -> int:
    """Video patches that are computed; the published layout computes hidden ones too."""
    steps, rows, columns = config.video_patch_grid
    first, last = plan.mask.video_steps
    return (steps if LAYOUTS[config.video_attention_layout].sees_hidden_frames else last - first) * rows * columns


def _video_flops(plan: WindowPlan, config: OmniMouseConfig) -> int:
    """The blocks of the video encoder and its projection; nothing where the video is hidden."""
    if not plan.mask.shows_video:
        return 0
    first, last = plan.mask.video_steps
    size, early = config.video_hidden_size, config.video_depths[0]
    rows, total = _patches(plan, config), 0
    for i in range(sum(config.video_depths)):
        pools = i == early
        inner, outer = (size if i <= early else 2 * size), (size if i < early else 2 * size)
        unit = (config.mask_unit // (2 if i > early else 1)) ** 2
        total += _product(rows, inner, 3 * outer)
        if pools:
            total += _product(rows, inner, outer)
        queries = rows // 4 if pools else rows
        total += 2 * _product(queries * unit, outer, 1) + _product(queries, outer, outer)
        total += _feed_forward(queries, outer, config.video_ffn_multiplier)
        rows = queries
    return total + _product((last - first) * config.video_tokens_per_step, 2 * size, config.hidden_size)
