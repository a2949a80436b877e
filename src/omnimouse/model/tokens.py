"""Tokens, queries and latents of one window, with the times and intervals that attention compares.

Shape letters: B batch, N neurons of the session, P neurons of the population, D hidden size, E identity size, w/s
token window and stride.

Times and intervals are integers (ticks of a common multiple of all rates), so no comparison rounds. They depend only on
the mask, the population's size and the configuration; `plan_window` works them out once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from omnimouse.model.attention import Layout, Run, n_rows, plan_attention, rotary_table
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.kernels.attention_groups import Groups
from omnimouse.model.masking.mask_rules import Piece, ResolvedMask


@dataclass(frozen=True)
class AttentionPlan:
    """Groups of an attention layer, and the rotary tables of its query and key rows."""

    groups: Groups
    query_rotary: Tensor
    key_rotary: Tensor


@dataclass(frozen=True)
class WindowPlan:
    """Everything that a forward pass needs to know about times: computed once per mask, population size and device."""

    mask: ResolvedMask
    encoder: AttentionPlan | None  # latents and registers to response and behaviour tokens, where there are any
    fusion_local: AttentionPlan
    fusion_global: AttentionPlan
    decoder: AttentionPlan  # queries to the fused sequence
    query_spans: tuple[tuple[int, int], ...]  # stretches of `Tokens.queries` that make up the query rows
    query_pieces: tuple[tuple[Piece, int, int], ...]  # predicted pieces, and the decoded rows [start, stop) of each
    target_mask: Tensor  # which (sample, target neuron) pairs are predicted, bool [L, Q]
    counted: Tensor | None  # their positions in the flat [L Q], int64; None for all: a bool index waits for the device
    channels: tuple[int, ...]  # behaviour channels with a token where behaviour is shown, a target where it is hidden
    channel_rows: Tensor | None  # the same, int64 on the device; None for all: a list would be copied at every step
    first_query_neuron: int  # of the population

    def __repr__(self) -> str:
        return f"WindowPlan({self.mask!r})"


def plan_window(
    mask: ResolvedMask, config: OmniMouseConfig, device: torch.device, channels: tuple[int, ...] | None = None
) -> WindowPlan:
    """Works out layouts, attention groups and rotary tables (on a device) of a window; `channels` were recorded."""
    n_channels = len(config.behavior_channels)
    channels = tuple(range(n_channels)) if channels is None else channels
    context, latents = _context_layout(mask, config, len(channels)), _latent_layout(mask, config)
    fused = latents + tuple(_video_step(step, config) for step in range(*mask.video_steps))
    w, s = config.response_token_window, config.response_token_stride
    base = min((piece.first for piece in mask.targets), default=mask.n_neurons)
    queries: Layout = ()
    spans: list[tuple[int, int]] = []
    pieces: list[tuple[Piece, int, int]] = []
    for piece in mask.targets:
        row, firsts = n_rows(queries), range(piece.start, piece.stop, s)
        queries += tuple(_samples(piece.last - piece.first, first, w, config) for first in firsts)
        spans += [(piece.first - base, piece.last - base)] * len(firsts)
        pieces.append((piece, row, n_rows(queries)))
    if mask.decodes_behavior:
        queries += (_whole_window(n_channels, config),)
        spans.append((mask.n_neurons - base, mask.n_neurons - base + n_channels))
    tables = {
        layout: rotary_table(
            layout,
            ticks_per_second=config.ticks_per_second,
            head_dim=config.head_dim,
            min_period=config.rope_min_period,
            max_period=config.window_seconds,
        ).to(device)
        for layout in (context, latents, fused, queries)
    }

    def attention(queries: Layout, keys: Layout, *, local: bool = True) -> AttentionPlan:
        return AttentionPlan(plan_attention(queries, keys, local=local), tables[queries], tables[keys])

    return WindowPlan(
        mask=mask,
        encoder=attention(latents, context) if context and latents else None,
        fusion_local=attention(fused, fused),
        fusion_global=attention(fused, fused, local=False),
        decoder=attention(queries, fused),
        query_spans=tuple(spans),
        query_pieces=tuple(pieces),
        target_mask=torch.from_numpy(mask.target_mask).to(device),
        counted=None if mask.target_mask.all() else torch.from_numpy(np.flatnonzero(mask.target_mask)).to(device),
        channels=channels,
        channel_rows=None if len(channels) == n_channels else torch.tensor(channels, dtype=torch.long, device=device),
        first_query_neuron=base,
    )


def _samples(rows: int, first: int, length: int, config: OmniMouseConfig) -> Run:
    """Rows that own some samples of the responses; their time is that of the first."""
    tick = config.ticks_per_second // config.response_rate
    return Run(rows, first * tick, first * tick, (first + length) * tick)


def _whole_window(rows: int, config: OmniMouseConfig) -> Run:
    return _samples(rows, 0, config.num_response_samples, config)


def _video_step(step: int, config: OmniMouseConfig) -> Run:
    """The video tokens of a step; their time is that of the latest frame that their patches see."""
    kernel, tick = config.video_patch_kernel[0], config.ticks_per_second // config.video_rate
    latest = step * config.video_patch_stride[0] - config.video_patch_padding[0] + kernel - 1
    time = min(latest, config.num_frames - 1) * tick
    return Run(config.video_tokens_per_step, time, time, time + kernel * tick)


def _context_layout(mask: ResolvedMask, config: OmniMouseConfig, n_channels: int) -> Layout:
    w, s = config.response_token_window, config.response_token_stride
    responses = tuple(
        _samples(piece.last - piece.first, first, w, config)
        for piece in mask.segments
        for first in range(piece.start, piece.stop - w + 1, s)
    )
    return responses + ((_whole_window(n_channels, config),) if mask.encodes_behavior else ())


def _latent_layout(mask: ResolvedMask, config: OmniMouseConfig) -> Layout:
    size = config.latent_window
    latents = tuple(_samples(config.num_latents, step * size, size, config) for step in mask.latent_steps)
    return latents + ((_whole_window(config.num_registers, config),) if config.num_registers else ())


def gather_neurons(responses: Tensor, ids: Tensor) -> Tensor:
    """Takes each item's neurons: `[B, samples, N]` and `[B, P]` to `[B, samples, P]`."""
    return responses.gather(2, repeat(ids, "b p -> b samples p", samples=responses.shape[1]))


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
        self,
        responses: Tensor | None,
        behavior: Tensor | None,
        identity: Tensor,
        meta: Tensor,
        plan: WindowPlan,
        ids: Tensor | None = None,
    ) -> Tensor:
        """Tokens of visible responses (time-major, neuron-minor, segment by segment), then of visible behaviour.

        Of responses `[B, samples, N]` and behaviour `[B, channels, samples]`, what the plan's mask shows is read;
        `ids [B, P]` are the neurons of the population, all in order by default, `identity [B, P, D]` and `meta [D]`
        theirs. Returns `[B, tokens, D]`, at least one.
        """
        dtype, parts = self.response.weight.dtype, []
        for piece in plan.mask.segments:
            assert responses is not None
            neurons, samples = slice(piece.first, piece.last), responses[:, piece.start : piece.stop]
            samples = samples[:, :, neurons] if ids is None else gather_neurons(samples, ids[:, neurons])
            tokens = self.response(samples.to(dtype).unfold(1, self.window, self.stride))  # [B, steps, neurons, D]
            parts.append(rearrange(tokens + identity[:, None, neurons], "b steps n d -> b (steps n) d"))
        if behavior is not None and plan.mask.encodes_behavior:
            channels: Tensor = self.behavior_channels
            if (rows := plan.channel_rows) is not None:
                behavior, channels = behavior.index_select(1, rows), channels.index_select(0, rows)
            parts.append(self.behavior(behavior.to(self.behavior.weight.dtype)) + channels + meta)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def latent_sequence(self, meta: Tensor, plan: WindowPlan, batch: int) -> Tensor:
        """Latents of the context, time-major, then registers: `[B, rows, D]`."""
        mask, vectors = plan.mask, self.latents + meta
        for row, is_shown in enumerate((mask.shows_responses, mask.shows_video, mask.encodes_behavior)):
            if not is_shown:
                vectors = vectors + self.missing_modalities[row]
        latents, registers = vectors[: self.num_latents], vectors[self.num_latents :]
        steps = repeat(latents, "m d -> (steps m) d", steps=len(mask.latent_steps))
        return repeat(torch.cat((steps, registers)), "rows d -> b rows d", b=batch)

    def queries(self, identity: Tensor, meta: Tensor, plan: WindowPlan) -> Tensor:
        """Compact queries, each once: identities of the queried neurons, then of behaviour channels, `[B, rows, D]`."""
        neurons = identity[:, plan.first_query_neuron :]
        if not plan.mask.decodes_behavior:
            return neurons
        channels = repeat(self.behavior_channels + meta, "c d -> b c d", b=len(identity))
        return torch.cat((neurons, channels), dim=1)
