"""The OmniMouse model (OmniMouse, ICLR 2026) on the transformers API.

Shape letters: B batch, N neurons of the session, P neurons of the population that a step looks at, Q target neurons,
L target samples, D hidden size, E identity size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import ModelOutput

from omnimouse.model.attention import CrossAttentionBlock, SelfAttentionBlock
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.initial_weights import draw_weights
from omnimouse.model.input_checks import check_inputs, choose_neurons, recorded_channels
from omnimouse.model.losses import window_losses
from omnimouse.model.masking.mask_rules import video_steps
from omnimouse.model.masking.masks import Mask, as_mask
from omnimouse.model.plan_cache import PlanCache
from omnimouse.model.session_tables.core_and_sessions import CoreAndSessions
from omnimouse.model.session_tables.session_surgery import SessionTables
from omnimouse.model.tokens import Identity, Tokens, WindowPlan, gather_neurons
from omnimouse.model.video import VideoEncoder

if TYPE_CHECKING:  # the network knows no file, and a processor finds its own
    from omnimouse.model.processing_omnimouse import OmniMouseProcessor


@dataclass
class OmniMouseOutput(ModelOutput):
    """What a forward pass returns. Row 0 of responses is sample `target_start` of the window.

    Args:
        loss: `response_loss + behavior_loss_weight * behavior_loss`, of what the mask predicts and the caller gave.
        response_loss: Poisson loss, mean over predicted samples.
        behavior_loss: Clamped squared error, mean.
        response_predictions: `[B, L, Q]`, in units of the given responses; NaN where `target_mask` is False.
        response_targets: `[B, L, Q]`, recorded responses of the target neurons.
        target_mask: `[L, Q]`, False where this mask predicts nothing.
        target_neuron_ids: `[B, Q]`, indices of the target neurons in the session.
        target_start: First target sample.
        behavior_predictions: `[B, channels, samples]`.
    """

    loss: Tensor | None = None
    response_loss: Tensor | None = None
    behavior_loss: Tensor | None = None
    response_predictions: Tensor | None = None
    response_targets: Tensor | None = None
    target_mask: Tensor | None = None
    target_neuron_ids: Tensor | None = None
    target_start: int | None = None
    behavior_predictions: Tensor | None = None

    def __repr__(self) -> str:
        """Numbers as they are, and the shapes of all else."""
        told = {}
        for name, value in self.items():
            shape = list(getattr(value, "shape", ()))
            told[name] = shape if shape or getattr(value, "is_meta", False) else f"{torch.as_tensor(value).item():.4g}"
        return f"OmniMouseOutput({', '.join(f'{name}={value}' for name, value in told.items())})"


class OmniMouseNetwork(CoreAndSessions):
    """One transformer for mouse visual cortex: neural responses, video and behaviour in, what the mask hides out.

    It knows no file: `OmniMouseModel` is this network with loading, saving and sharing.

    ```
    responses [B,60,P] -linear-> response tokens ----+            video [B,1,60,36,64]
    behaviour [B,5,40] --------> behaviour tokens ---+                   |
                                                     | keys        video encoder
      latents x 6 + registers --> ENCODER (1 cross-attention block)      |
                                                     |                   |
                                                     +---- concatenate --+
                                                                 |
                                            FUSION STACK (local and global self-attention)
                                                                 | keys
      neuron identity x target steps, behaviour channels --> DECODER (1 cross-attention block)
                                                                 |
                          response readout + neuron bias, softplus        behaviour readout
                               predictions [B,L,Q]                       predictions [B,5,40]
    ```

    The core (all of the above) is shared by all mice. A session adds one vector and one bias per neuron, a session
    vector and its animal's vector. A model starts without sessions; `OmniMouseModel` adds them:

    ```python
    model = OmniMouseModel(OmniMouseConfig.from_preset("5m"))
    model.add_session("29515-10-12", n_neurons=7863, animal_id="29515")
    out = model("29515-10-12", responses=responses, video=video, behavior=behavior, mask="forecasting+stimulus")
    ```

    Args:
        config: Architecture.
    """

    def __init__(self, config: OmniMouseConfig):
        super().__init__(config)
        size, heads, eps = config.hidden_size, config.num_attention_heads, config.rms_norm_eps
        key_value_heads = config.num_key_value_heads or heads
        self.identity = Identity(config)
        self.tokens = Tokens(config)
        self.video_encoder = VideoEncoder(config)
        self.video_projection = nn.Linear(self.video_encoder.out_size, size)
        self.encoder = CrossAttentionBlock(size, heads, config.ffn_multiplier, eps)
        self.fusion = nn.ModuleList(
            SelfAttentionBlock(size, heads, key_value_heads, config.ffn_multiplier, eps)
            for _ in range(config.num_fusion_layers)
        )
        self.decoder = CrossAttentionBlock(size, heads, config.decoder_ffn_multiplier, eps)
        self.response_readout = nn.Linear(size, config.response_token_stride, bias=False)
        self.behavior_readout = nn.Parameter(
            torch.empty(len(config.behavior_channels), config.num_behavior_samples, size)
        )
        self.sessions = SessionTables(config.identity_size)
        self.processor: OmniMouseProcessor | None = None
        self._plans = PlanCache()
        self.post_init()

    def forward(
        self,
        session: str,
        responses: Tensor | None = None,
        video: Tensor | None = None,
        behavior: Tensor | None = None,
        mask: Mask | str = "stimulus+behavior",
        neuron_ids: Tensor | None = None,
        all_neurons: bool = False,
        return_dict: bool | None = None,
        return_loss: bool = True,
        video_features: Tensor | None = None,
        behavior_channels: tuple[int, ...] | None = None,
    ) -> OmniMouseOutput | tuple[Any, ...]:
        """Predicts what the mask hides in a batch of windows of one session.

        Args:
            session: Key of a session in the model.
            responses: `[B, samples, N]` responses of all neurons of the session, in units of their stds, 30 Hz. Only
                the visible part is an input; the rest serves as targets. May be `None` when the mask hides responses.
            video: `[B, 1, frames, height, width]` normalised grey, 30 Hz. May be `None` when the mask hides it.
            behavior: `[B, channels, samples]` standardised, 20 Hz. May be `None` unless the mask shows it. A channel
                that is NaN throughout the batch was not recorded: it gets no token and no loss, and the others are read
                as ever.
            mask: A `Mask`, a task name, or `suite/name` of an evaluation mask.
            neuron_ids: `[B, P]` neurons that make up each item's population, visible ones first and targets last.
                By default a fresh random order, cut to `config.max_population`.
            all_neurons: Take every neuron in the session's order instead.
            return_dict: `False` returns a tuple of what is not `None`.
            return_loss: Whether to compute the losses; `transformers.Trainer` evaluates by it.
            video_features: What `encode_video` gave for these windows and this mask, in place of `video`.
            behavior_channels: Those that were recorded, where the caller knows; looking for NaN waits for the device.

        Raises:
            ValueError: Unknown session or task, a needed input is missing or misshapen, or the mask leaves nothing to
                predict for this population.
        """
        n_neurons, window_mask = self.sessions.check(session).n_neurons, as_mask(mask, self.config)
        inputs = {"responses": responses, "video": video, "behavior": behavior, "video_features": video_features}
        batch = check_inputs(inputs, window_mask, self.config, n_neurons=n_neurons, device=self._place, session=session)
        ids = choose_neurons(n_neurons, batch, neuron_ids, all_neurons, self.config.max_population, self._place)
        channels = recorded_channels(window_mask, behavior, session, behavior_channels)
        plan = self.window_plan(window_mask, n_neurons if ids is None else ids.shape[1], channels)

        identity, meta = self._embed(session, ids, batch)
        x = self._encode(responses, behavior, identity, meta, plan, ids)
        if plan.mask.shows_video and video_features is None and video is not None:
            video_features = self.encode_video(video, window_mask)
        x = self._fuse(x, video_features, plan)
        x = self._decode(x, identity, meta, plan)
        out = self._read_out(x, session, plan, ids)
        self._compare(out, responses, behavior, plan, return_loss)
        return out.to_tuple() if return_dict is False else out

    def encode_video(self, video: Tensor, mask: Mask | str) -> Tensor:
        """Encodes what a mask shows of a video, for `forward(video_features=...)`.

        Features depend on the video, the core, and the mask's `frames_start` and `n_frames` alone: masks that agree in
        these may share them, and so may sessions.

        Args:
            video: `[B, 1, frames, height, width]` normalised grey.
            mask: a `Mask` that shows video, a task name, or `suite/name` of an evaluation mask.

        Returns:
            `[B, steps * tokens per step, 2 * video_hidden_size]`.

        Raises:
            ValueError: unknown task, one that shows no video, or a video of another size or on another device.
        """
        shown = as_mask(mask, self.config)
        if not shown.shows_video:
            raise ValueError(f"There is nothing to encode: {shown} shows no video. Pass a mask with n_frames above 0.")
        check_inputs({"video": video}, shown, self.config, n_neurons=1, device=self._place, session=None)
        frames = (shown.frames_start, shown.frames_start + shown.n_frames)
        video = video.to(self.video_projection.weight.dtype)
        return self.video_encoder(video, frames, video_steps(shown, self.config))

    def window_plan(self, mask: Mask | str, population: int, channels: tuple[int, ...] | None = None) -> WindowPlan:
        """Returns rows, times and attention of a window for a mask and a population of so many neurons; cached.

        Args:
            mask: a `Mask`, a task name, or `suite/name` of an evaluation mask.
            population: neurons.
            channels: behaviour channels that were recorded, None for all.

        Raises:
            ValueError: unknown task, or the mask leaves nothing to predict for this population.
        """
        resolved = as_mask(mask, self.config).resolve(population, self.config)
        return self._plans.get(resolved, self.config, self._place, channels)

    @property
    def _place(self) -> torch.device:
        return self.tokens.latents.device

    # The stages of the forward pass.

    def _embed(self, session: str, ids: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        """Identities of the population `[B, P, D]`, and `meta [D]`."""
        table = self.sessions.table(session)
        identity, meta = self.identity(table.neuron_embedding, table.session_embedding, self.sessions.animal(session))
        return (identity.expand(batch, -1, -1) if ids is None else identity[ids]), meta

    def _encode(
        self,
        responses: Tensor | None,
        behavior: Tensor | None,
        identity: Tensor,
        meta: Tensor,
        plan: WindowPlan,
        ids: Tensor | None,
    ) -> Tensor:
        """Latents and registers that have read responses and behaviour, `[B, rows, D]`."""
        latents, layer = self.tokens.latent_sequence(meta, plan, len(identity)), plan.encoder
        if layer is None:
            return latents
        context = self.tokens.context(responses, behavior, identity, meta, plan, ids)
        return self.encoder(latents, context, layer.query_rotary, layer.key_rotary, layer.groups)

    def _fuse(self, x: Tensor, video_features: Tensor | None, plan: WindowPlan) -> Tensor:
        """The fused sequence of latents, registers and video tokens, `[B, rows, D]`."""
        if video_features is not None:
            x = torch.cat((x, self.video_projection(video_features.to(self.video_projection.weight.dtype))), dim=1)
        for index, block in enumerate(self.fusion):
            layer = plan.fusion_global if self.config.is_global_layer(index) else plan.fusion_local
            x = block(x, layer.query_rotary, layer.groups)
        return x

    def _decode(self, x: Tensor, identity: Tensor, meta: Tensor, plan: WindowPlan) -> Tensor:
        """Decoded queries, `[B, query rows, D]`."""
        queries, layer = self.tokens.queries(identity, meta, plan), plan.decoder
        return self.decoder(queries, x, layer.query_rotary, layer.key_rotary, layer.groups, plan.query_spans)

    def _read_out(self, x: Tensor, session: str, plan: WindowPlan, ids: Tensor | None) -> OmniMouseOutput:
        """Predictions in the units of the inputs."""
        mask, batch, out = plan.mask, len(x), OmniMouseOutput()
        if mask.target_length:
            first = mask.first_target_neuron
            all_ids = torch.arange(mask.n_neurons, device=x.device).expand(batch, -1) if ids is None else ids
            biases = self.sessions.table(session).neuron_bias
            bias = biases.expand(batch, -1) if ids is None else biases[ids]
            predictions = x.new_full((batch, mask.target_length, mask.n_target), torch.nan, dtype=torch.float32)
            for piece, start, stop in plan.query_pieces:
                logits = self.response_readout(x[:, start:stop]).float()
                logits = rearrange(logits, "b (step n) s -> b (step s) n", n=piece.last - piece.first)
                logits = logits + bias[:, None, piece.first : piece.last].float()
                rows = slice(piece.start - mask.target_start, piece.stop - mask.target_start)
                predictions[:, rows, piece.first - first :] = F.softplus(logits, beta=self.config.softplus_beta)
            out.response_predictions = predictions
            out.target_mask = plan.target_mask.clone()  # the caller's own; the plan is cached
            out.target_neuron_ids = all_ids[:, first:]
            out.target_start = mask.target_start
        if mask.decodes_behavior:
            channels = x[:, -len(self.config.behavior_channels) :]
            out.behavior_predictions = einsum(
                channels, self.behavior_readout.to(x.dtype), "b channel d, channel t d -> b channel t"
            ).float()
        return out

    def _compare(
        self, out: OmniMouseOutput, responses: Tensor | None, behavior: Tensor | None, plan: WindowPlan, loss: bool
    ) -> None:
        """Adds recorded responses, and losses where they are wanted."""
        pairs = None
        if out.response_predictions is not None and out.target_neuron_ids is not None and responses is not None:
            rows = slice(plan.mask.target_start, plan.mask.target_start + plan.mask.target_length)
            out.response_targets = gather_neurons(responses[:, rows], out.target_neuron_ids).float()
            if plan.mask.predicts_responses:
                pairs = (out.response_predictions, out.response_targets, plan.counted)
        decoded = None
        if out.behavior_predictions is not None and behavior is not None and plan.channels:
            decoded = (out.behavior_predictions, behavior, plan.channel_rows)
        for name, value in window_losses(pairs, decoded, self.config).items() if loss else ():
            setattr(out, name, value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            init.trunc_normal_(self.behavior_readout, std=self.config.hidden_size**-0.5)
        else:
            draw_weights(module)
