"""Tokens, queries and latents of one window, with the times and intervals that attention compares.

Shape letters: B batch, P neurons of the population, D hidden size, E identity size, w/s token window and stride.

Times and intervals are integers (ticks of a common multiple of all rates), so no comparison rounds. They depend only on
the mask, the population's size and the configuration; `plan_window` works them out once and `PlanCache` keeps them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnimouse.model.attention import Group, Layout, Run, n_rows, plan_attention, rotary_table
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.mask_rules import Piece, ResolvedMask


@dataclass(frozen=True)
class AttentionPlan:
    """Groups of an attention layer, and the rotary tables of its query and key rows."""

    groups: tuple[Group, ...]
    query_rotary: Tensor
    key_rotary: Tensor


@dataclass(frozen=True)
class WindowPlan:
    """Everything that a forward pass needs to know about times: computed once per mask, population size and device.

    Args:
        mask: The resolved mask.
        encoder: Latents and registers to response and behaviour tokens; `None` where either are missing.
        fusion_local: Local layers of the fusion stack.
        fusion_global: Its global layers.
        decoder: Queries to the fused sequence.
        query_spans: Stretches of the compact queries (see `Tokens.queries`) that make up the query rows.
        query_pieces: Predicted pieces with the rows of the decoded sequence `[start, stop)` that hold them.
        target_mask: Which (sample, target neuron) pairs are predicted, bool `[L, Q]`.
        channels: Behaviour channels that have a token where the mask shows behaviour, and a target where it hides it.
    """

    mask: ResolvedMask
    encoder: AttentionPlan | None
    fusion_local: AttentionPlan
    fusion_global: AttentionPlan
    decoder: AttentionPlan
    query_spans: tuple[tuple[int, int], ...]
    query_pieces: tuple[tuple[Piece, int, int], ...]
    target_mask: Tensor
    channels: tuple[int, ...]

    @property
    def first_query_neuron(self) -> int:
        """First neuron of the population that has a query."""
        return min((piece.first for piece in self.mask.targets), default=self.mask.n_neurons)


@dataclass(frozen=True)
class _Clock:
    """Turns samples and frames of a window into runs with times and intervals in ticks."""

    config: OmniMouseConfig

    @property
    def sample(self) -> int:
        return self.config.ticks_per_second // self.config.response_rate

    @property
    def frame(self) -> int:
        return self.config.ticks_per_second // self.config.video_rate

    def whole_window(self, rows: int) -> Run:
        return Run(rows, 0, 0, self.config.num_response_samples * self.sample)

    def samples(self, rows: int, first: int, length: int) -> Run:
        return Run(rows, first * self.sample, first * self.sample, (first + length) * self.sample)

    def video_step(self, step: int) -> Run:
        kernel, stride = self.config.video_patch_kernel[0], self.config.video_patch_stride[0]
        latest = step * stride - self.config.video_patch_padding[0] + kernel - 1
        time = min(latest, self.config.num_frames - 1) * self.frame
        return Run(self.config.video_tokens_per_step, time, time, time + kernel * self.frame)


def _context_layout(mask: ResolvedMask, clock: _Clock, n_channels: int) -> Layout:
    config = clock.config
    w, s = config.response_token_window, config.response_token_stride
    runs = [
        clock.samples(piece.last - piece.first, first, w)
        for piece in mask.segments
        for first in range(piece.start, piece.stop - w + 1, s)
    ]
    if mask.encodes_behavior:
        runs.append(clock.whole_window(n_channels))
    return tuple(runs)


def _latent_layout(mask: ResolvedMask, clock: _Clock) -> Layout:
    config = clock.config
    size = config.latent_window
    runs = [clock.samples(config.num_latents, step * size, size) for step in mask.latent_steps]
    if config.num_registers:
        runs.append(clock.whole_window(config.num_registers))
    return tuple(runs)


def plan_window(
    mask: ResolvedMask, config: OmniMouseConfig, device: torch.device, channels: tuple[int, ...] | None = None
) -> WindowPlan:
    """Works out layouts, attention groups and rotary tables of a window.

    Args:
        mask: Resolved mask.
        config: The model's configuration.
        device: Where the rotary tables live.
        channels: Behaviour channels that were recorded; `None` for all.
    """
    clock = _Clock(config)
    channels = tuple(range(len(config.behavior_channels))) if channels is None else channels
    context, latents = _context_layout(mask, clock, len(channels)), _latent_layout(mask, clock)
    fused = latents + tuple(clock.video_step(step) for step in range(*mask.video_steps))
    w, s = config.response_token_window, config.response_token_stride
    base = min((piece.first for piece in mask.targets), default=mask.n_neurons)
    queries: list[Run] = []
    spans: list[tuple[int, int]] = []
    pieces: list[tuple[Piece, int, int]] = []
    for piece in mask.targets:
        row = n_rows(tuple(queries))
        for first in range(piece.start, piece.stop, s):
            queries.append(clock.samples(piece.last - piece.first, first, w))
            spans.append((piece.first - base, piece.last - base))
        pieces.append((piece, row, n_rows(tuple(queries))))
    if mask.decodes_behavior:
        n_channels = len(config.behavior_channels)
        queries.append(clock.whole_window(n_channels))
        spans.append((mask.n_neurons - base, mask.n_neurons - base + n_channels))

    def table(layout: Layout) -> Tensor:
        return rotary_table(
            layout,
            ticks_per_second=config.ticks_per_second,
            head_dim=config.head_dim,
            min_period=config.rope_min_period,
            max_period=config.window_seconds,
        ).to(device)

    query_layout, fused_table = tuple(queries), table(fused)
    encoder = None
    if context and latents:
        encoder = AttentionPlan(plan_attention(latents, context), table(latents), table(context))
    return WindowPlan(
        mask=mask,
        encoder=encoder,
        fusion_local=AttentionPlan(plan_attention(fused, fused), fused_table, fused_table),
        fusion_global=AttentionPlan(plan_attention(fused, fused, local=False), fused_table, fused_table),
        decoder=AttentionPlan(plan_attention(query_layout, fused), table(query_layout), fused_table),
        query_spans=tuple(spans),
        query_pieces=tuple(pieces),
        target_mask=torch.from_numpy(mask.target_mask).to(device),
        channels=channels,
    )


class PlanCache:
    """Keeps the most recently used plans. Copying or pickling a model starts an empty cache.

    Args:
        size: Most plans kept. A plan of 8,000 neurons holds about 20 MB of rotary tables.
    """

    def __init__(self, size: int = 160):
        self.size = size
        self._plans: OrderedDict[Any, WindowPlan] = OrderedDict()

    def get(
        self,
        mask: ResolvedMask,
        config: OmniMouseConfig,
        device: torch.device,
        channels: tuple[int, ...] | None = None,
    ) -> WindowPlan:
        """Returns the plan of a mask on a device, see `plan_window`, computing it at first use."""
        key = (mask, str(device), channels)
        if key not in self._plans:
            with torch.inference_mode(False):  # tensors made in inference mode could not serve training later
                self._plans[key] = plan_window(mask, config, device, channels)
            if len(self._plans) > self.size:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    def __len__(self) -> int:
        return len(self._plans)

    def __deepcopy__(self, memo: dict[int, Any]) -> PlanCache:
        return PlanCache(self.size)

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, "_plans": OrderedDict()}


class Identity(nn.Module):
    """Maps neuron, session and animal vectors to hidden size: `neuron_identity = W_u e_u + meta`,
    `meta = W_s e_s + W_a e_a`, each map with a bias.

    It also keeps the vectors from which new sessions start (`initial`, rows neuron, session, animal): the means over
    the sessions that the core was trained on, i.e. the average neuron of the average mouse, which is the best guess
    before any data of the new one was seen. They are zero until `OmniMouseModel.update_initial_vectors` sets them.
    """

    initial: Tensor

    def __init__(self, config: OmniMouseConfig):
        super().__init__()
        self.neuron = nn.Linear(config.identity_size, config.hidden_size)
        self.session = nn.Linear(config.identity_size, config.hidden_size)
        self.animal = nn.Linear(config.identity_size, config.hidden_size)
        self.register_buffer("initial", torch.zeros(3, config.identity_size))

    def forward(self, neurons: Tensor, session: Tensor, animal: Tensor) -> tuple[Tensor, Tensor]:
        """`neurons [n, E]`, `session [E]`, `animal [E]` to identities `[n, D]` and `meta [D]`."""
        dtype = self.neuron.weight.dtype
        meta = self.session(session.to(dtype)) + self.animal(animal.to(dtype))
        return self.neuron(neurons.to(dtype)) + meta, meta


class Tokens(nn.Module):
    """Response and behaviour tokens, latents and registers, and queries."""

    def __init__(self, config: OmniMouseConfig):
        super().__init__()
        size, channels = config.hidden_size, len(config.behavior_channels)
        self.window, self.stride = config.response_token_window, config.response_token_stride
        self.num_latents = config.num_latents
        self.response = nn.Linear(self.window, size)
        self.behavior = nn.Linear(config.num_behavior_samples, size)
        self.behavior_channels = nn.Parameter(torch.empty(channels, size))
        self.missing_modalities = nn.Parameter(torch.empty(3, size))
        self.latents = nn.Parameter(torch.empty(config.num_latents + config.num_registers, size))

    def context(
        self, responses: Tensor | None, behavior: Tensor | None, identity: Tensor, meta: Tensor, plan: WindowPlan
    ) -> Tensor:
        """Tokens of visible responses (time-major, neuron-minor, segment by segment), then of visible behaviour.

        Args:
            responses: `[B, samples, P]` of the population, or `None` when the mask hides responses.
            behavior: `[B, channels, samples]`, or `None` when the mask does not show behaviour. Only the channels of
                the plan are read.
            identity: `[B, P, D]`.
            meta: `[D]`.
            plan: The window's plan, with at least one token.

        Returns:
            `[B, tokens, D]`.
        """
        parts = []
        if responses is not None:
            for piece in plan.mask.segments:
                samples = responses[:, piece.start : piece.stop, piece.first : piece.last].to(
                    self.response.weight.dtype
                )
                tokens = self.response(samples.unfold(1, self.window, self.stride))  # [B, steps, neurons, D]
                parts.append((tokens + identity[:, None, piece.first : piece.last]).flatten(1, 2))
        if behavior is not None:
            channels: Tensor = self.behavior_channels
            if len(plan.channels) < len(channels):
                rows = list(plan.channels)
                behavior, channels = behavior[:, rows], channels[rows]
            parts.append(self.behavior(behavior.to(self.behavior.weight.dtype)) + channels + meta)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def latent_sequence(self, meta: Tensor, plan: WindowPlan, batch: int) -> Tensor:
        """Latents of the context, time-major, then registers: `[B, rows, D]`."""
        mask = plan.mask
        hidden = (not mask.shows_responses, not mask.shows_video, not mask.encodes_behavior)
        vectors = self.latents + meta
        for row, is_hidden in enumerate(hidden):
            if is_hidden:
                vectors = vectors + self.missing_modalities[row]
        latents, registers = vectors[: self.num_latents], vectors[self.num_latents :]
        steps = latents.repeat(len(mask.latent_steps), 1)
        return torch.cat((steps, registers)).expand(batch, -1, -1)

    def queries(self, identity: Tensor, meta: Tensor, plan: WindowPlan) -> Tensor:
        """Compact queries, each once: identities of the queried neurons, then of behaviour channels, `[B, rows, D]`."""
        neurons = identity[:, plan.first_query_neuron :]
        if not plan.mask.decodes_behavior:
            return neurons
        channels = (self.behavior_channels + meta).expand(identity.shape[0], -1, -1)
        return torch.cat((neurons, channels), dim=1)
