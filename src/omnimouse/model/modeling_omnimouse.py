"""The OmniMouse model (OmniMouse, ICLR 2026) on the transformers API.

Shape letters: B batch, N neurons of the session, P neurons of the population that a step looks at, Q target neurons,
L target samples, D hidden size, E identity size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput

from omnimouse.model.attention import CrossAttentionBlock, SelfAttentionBlock
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.core_identity import core_settings, core_sha256, split_injected
from omnimouse.model.masks import Mask, as_mask
from omnimouse.model.sessions import InitialVectors, SessionSpec, SessionTables, without_sessions
from omnimouse.model.tokens import Identity, PlanCache, Tokens, WindowPlan
from omnimouse.model.video import VideoEncoder
from omnimouse.support.tensor_files import hash_tensors

if TYPE_CHECKING:
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


def poisson_loss(predictions: Tensor, targets: Tensor, *, epsilon: float, clamp: float) -> Tensor:
    """Mean of `p - y ln(p + epsilon)`, each element clamped to plus or minus `clamp`."""
    loss = predictions - targets * torch.log(predictions + epsilon)
    return loss.clamp(-clamp, clamp).mean()


def clamped_squared_error(predictions: Tensor, targets: Tensor, *, clamp: float) -> Tensor:
    """Mean of `(p - y)^2`, each element clamped to `clamp`."""
    return (predictions - targets).square().clamp(max=clamp).mean()


def _init_linear(module: nn.Linear, std: float | None = None) -> None:
    # Parents are visited after their children, and `initialization` skips only what was loaded.
    init.trunc_normal_(module.weight, std=module.in_features**-0.5 if std is None else std)
    if module.bias is not None:
        init.zeros_(module.bias)


class OmniMouseNetwork(PreTrainedModel):
    """One transformer for mouse visual cortex: neural responses, video and behaviour in, what the mask hides out.

    It knows no file: `OmniMouseModel` is this network with loading, saving and sharing.

    ```
    responses [B,60,P] --conv--> response tokens ----+            video [B,1,60,36,64]
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
    vector and its animal's vector. A model starts without sessions:

    ```python
    model = OmniMouseModel(OmniMouseConfig.from_preset("5m"))
    model.add_session("29515-10-12", n_neurons=7863, animal_id="29515")
    out = model("29515-10-12", responses=responses, video=video, behavior=behavior, mask="forecasting+stimulus")
    ```

    Args:
        config: Architecture.
    """

    config: OmniMouseConfig
    config_class = OmniMouseConfig
    base_model_prefix = ""
    main_input_name = "responses"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["SelfAttentionBlock", "CrossAttentionBlock", "VideoBlock"]  # noqa: RUF012 (as transformers)
    _keys_to_ignore_on_load_unexpected = [r"^sessions\."]  # noqa: RUF012

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
    ) -> OmniMouseOutput | tuple[Any, ...]:
        """Predicts what the mask hides in a batch of windows of one session.

        Args:
            session: Key of a session in the model.
            responses: `[B, samples, N]` standardised responses of all neurons of the session, 30 Hz. Only the visible
                part is an input; the rest serves as targets. May be `None` when the mask hides responses.
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

        Raises:
            ValueError: Unknown session or task, a needed input is missing or misshapen, or the mask leaves nothing to
                predict for this population.
        """
        spec = self.sessions.check(session)
        window_mask = as_mask(mask, self.config)
        batch, device = self._check_inputs(spec.n_neurons, window_mask, responses, video, behavior, session)
        ids = self._population(spec.n_neurons, batch, neuron_ids, all_neurons, device)
        population = spec.n_neurons if ids is None else ids.shape[1]
        plan = self.window_plan(window_mask, population, self._recorded_channels(window_mask, behavior, session))

        identity, meta = self._embed(session, ids, batch)
        x = self._encode(responses, behavior, identity, meta, plan, ids, batch)
        x = self._fuse(x, video, plan)
        x = self._decode(x, identity, meta, plan)
        out = self._read_out(x, session, plan, ids, batch)
        self._add_targets(out, responses, plan)
        if return_loss:
            self._add_losses(out, behavior, plan)
        if return_dict is False:
            return out.to_tuple()
        return out

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
        return self._plans.get(resolved, self.config, self.tokens.latents.device, channels)

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
        batch: int,
    ) -> Tensor:
        """Latents and registers that have read responses and behaviour, `[B, rows, D]`."""
        latents = self.tokens.latent_sequence(meta, plan, batch)
        if plan.encoder is None:
            return latents
        visible = None
        if plan.mask.shows_responses and responses is not None:
            visible = responses if ids is None else _gather_neurons(responses, ids)
        shown = behavior if plan.mask.encodes_behavior else None
        context = self.tokens.context(visible, shown, identity, meta, plan)
        return self.encoder(latents, context, plan.encoder.query_rotary, plan.encoder.key_rotary, plan.encoder.groups)

    def _fuse(self, x: Tensor, video: Tensor | None, plan: WindowPlan) -> Tensor:
        """The fused sequence of latents, registers and video tokens, `[B, rows, D]`."""
        if plan.mask.shows_video and video is not None:
            mask = plan.mask.mask
            frames = (mask.frames_start, mask.frames_start + mask.n_frames)
            features = self.video_encoder(video.to(self.video_projection.weight.dtype), frames, plan.mask.video_steps)
            x = torch.cat((x, self.video_projection(features)), dim=1)
        for index, block in enumerate(self.fusion):
            layer = plan.fusion_global if self.config.is_global_layer(index) else plan.fusion_local
            x = block(x, layer.query_rotary, layer.groups)
        return x

    def _decode(self, x: Tensor, identity: Tensor, meta: Tensor, plan: WindowPlan) -> Tensor:
        """Decoded queries, `[B, query rows, D]`."""
        queries = self.tokens.queries(identity, meta, plan)
        layer = plan.decoder
        return self.decoder(queries, x, layer.query_rotary, layer.key_rotary, layer.groups, plan.query_spans)

    def _read_out(self, x: Tensor, session: str, plan: WindowPlan, ids: Tensor | None, batch: int) -> OmniMouseOutput:
        """Predictions in the units of the inputs."""
        mask, out = plan.mask, OmniMouseOutput()
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
            out.behavior_predictions = torch.einsum("bcd,ctd->bct", channels, self.behavior_readout.to(x.dtype)).float()
        return out

    def _add_targets(self, out: OmniMouseOutput, responses: Tensor | None, plan: WindowPlan) -> None:
        if out.target_neuron_ids is not None and responses is not None:
            rows = slice(plan.mask.target_start, plan.mask.target_start + plan.mask.target_length)
            out.response_targets = _gather_neurons(responses[:, rows], out.target_neuron_ids).float()

    def _add_losses(self, out: OmniMouseOutput, behavior: Tensor | None, plan: WindowPlan) -> None:
        config = self.config
        terms = []
        if out.response_predictions is not None and out.response_targets is not None and plan.mask.predicts_responses:
            predicted = plan.target_mask
            out.response_loss = poisson_loss(
                out.response_predictions[:, predicted],
                out.response_targets[:, predicted],
                epsilon=config.response_loss_epsilon,
                clamp=config.response_loss_clamp,
            )
            terms.append(out.response_loss)
        if out.behavior_predictions is not None and behavior is not None and plan.channels:
            channels = slice(None) if len(plan.channels) == behavior.shape[1] else list(plan.channels)
            out.behavior_loss = clamped_squared_error(
                out.behavior_predictions[:, channels], behavior[:, channels].float(), clamp=config.behavior_loss_clamp
            )
            terms.append(config.behavior_loss_weight * out.behavior_loss)
        out.loss = sum(terms[1:], terms[0]) if terms else None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Truncated normal of std `fan_in^-0.5` for maps and `dim^-0.5` for vectors; 0.02 in the video encoder."""
        if isinstance(module, VideoEncoder):
            for name, parameter in module.named_parameters():
                if "norm" in name:
                    init.ones_(parameter)
                elif name.endswith("bias") and "patch_embedding" not in name:
                    init.constant_(parameter, 0.02)
                elif name.endswith("bias"):
                    init.zeros_(parameter)
                else:
                    init.trunc_normal_(parameter, std=0.02)
        elif isinstance(module, Tokens):
            for parameter in (module.behavior_channels, module.missing_modalities, module.latents):
                init.trunc_normal_(parameter, std=parameter.shape[-1] ** -0.5)
            _init_linear(module.behavior)
            _init_linear(module.response, std=0.02)
        elif isinstance(module, Identity):
            init.zeros_(module.initial)
        elif isinstance(module, OmniMouseNetwork):
            init.trunc_normal_(module.behavior_readout, std=self.config.hidden_size**-0.5)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, nn.Linear):
            _init_linear(module)

    # The core: all weights that no session or animal owns.

    def core_named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters that no session or animal owns, by name; without what peft added."""
        return list(split_injected(without_sessions(dict(self.named_parameters())))[0].items())

    def core_state_dict(self) -> dict[str, Tensor]:
        """Tensors of the core, by name; without what peft added, and as if it had added nothing."""
        return split_injected(without_sessions(self.state_dict()))[0]

    def injected_state_dict(self) -> dict[str, Tensor]:
        """Tensors that peft added to the core (a LoRA), by name; as a rule there are none."""
        return split_injected(without_sessions(self.state_dict()))[1]

    def core_hash(self) -> str:
        """SHA-256 over the core's tensors and the settings it computes with: an adapter fits one core only."""
        return core_sha256(self.core_state_dict(), core_settings(self.config))

    def injected_hash(self) -> str | None:
        """SHA-256 over names, types and bytes of what peft added to the core, or `None`."""
        injected = self.injected_state_dict()
        return hash_tensors(injected) if injected else None

    def num_core_parameters(self) -> int:
        """Number of parameters of the core."""
        return sum(p.numel() for _, p in self.core_named_parameters())

    # Sessions in memory.

    @property
    def session_keys(self) -> list[str]:
        """Keys of the sessions in the model, sorted."""
        return self.sessions.keys()

    def session_spec(self, key: str) -> SessionSpec:
        """Neurons, animal and unit ids' hash of a session."""
        return self.sessions.check(key)

    def session_state(self, key: str) -> dict[str, Tensor]:
        """Copies of the four tensors of a session, on the CPU: `neuron_embedding [n, E]`, `neuron_bias [n]`,
        `session_embedding [E]`, `animal_embedding [E]`."""
        return self.sessions.state(key)

    def session_named_parameters(self, key: str | None = None) -> list[tuple[str, nn.Parameter]]:
        """Parameters of one session (its animal's vector included), or of all, by name in the model."""
        if key is None:
            wanted = {id(p) for p in self.sessions.parameters()}
        else:
            wanted = {id(p) for p in self.sessions.table(key).parameters()} | {id(self.sessions.animal(key))}
        return [(name, p) for name, p in self.named_parameters() if id(p) in wanted]

    def remove_session(self, key: str) -> None:
        """Removes a session, and its animal's vector when no other session uses it."""
        self.sessions.remove(key)

    @torch.no_grad()
    def update_initial_vectors(self) -> None:
        """Sets the vectors from which new sessions start to the means over the sessions in the model.

        Raises:
            ValueError: The model has no sessions.
        """
        if not self.session_keys:
            raise ValueError("Initial vectors are means over sessions, but the model has none.")
        initial = InitialVectors()
        for key, spec in self.sessions.specs.items():
            initial.add(spec, self.session_state(key))
        initial.put_into(self.identity.initial)

    # Inputs.

    def _check_inputs(
        self,
        n_neurons: int,
        mask: Mask,
        responses: Tensor | None,
        video: Tensor | None,
        behavior: Tensor | None,
        session: str,
    ) -> tuple[int, torch.device]:
        config = self.config
        needed = {
            "responses": mask.prefix_length > 0,
            "video": mask.n_frames > 0,
            "behavior": mask.behavior == "encoded",
        }
        shapes = {
            "responses": (config.num_response_samples, n_neurons),
            "video": (1, config.num_frames, config.frame_height, config.frame_width),
            "behavior": (len(config.behavior_channels), config.num_behavior_samples),
        }
        batch, device = None, self.tokens.latents.device
        for name, value in (("responses", responses), ("video", video), ("behavior", behavior)):
            if value is None:
                if needed[name]:
                    raise ValueError(f"The mask shows {name} but {name}=None. Pass {name} or choose another task.")
                continue
            if value.ndim != len(shapes[name]) + 1 or tuple(value.shape[1:]) != shapes[name]:
                expected = ", ".join(map(str, ("B", *shapes[name])))
                raise ValueError(
                    f"Session {session!r}: {name} should have shape [{expected}], got {list(value.shape)}."
                    + (" Is this the session's own recording?" if name == "responses" else "")
                )
            if value.device != device:
                raise ValueError(
                    f"{name} is on {value.device}, the model on {device}; pass "
                    f"{name}.to(model.device), or move the model."
                )
            if batch is not None and value.shape[0] != batch:
                raise ValueError(f"All inputs need the same batch size; {name} has {value.shape[0]}, others {batch}.")
            batch = value.shape[0]
        if batch is None:
            raise ValueError("At least one of responses, video and behavior is needed.")
        return batch, device

    def _recorded_channels(self, mask: Mask, behavior: Tensor | None, session: str) -> tuple[int, ...] | None:
        """Behaviour channels that are not NaN throughout; `None` for all of them, or where behaviour plays no part."""
        if behavior is None or mask.behavior == "absent":
            return None
        missing = behavior.isnan().all(dim=2).all(dim=0).tolist()
        if not any(missing):
            return None
        if all(missing) and mask.behavior == "encoded":
            raise ValueError(
                f"Session {session!r}: the mask shows behavior, but all of it is NaN. Choose a task without behavior."
            )
        return tuple(channel for channel, is_missing in enumerate(missing) if not is_missing)

    def _population(
        self, n_neurons: int, batch: int, neuron_ids: Tensor | None, all_neurons: bool, device: torch.device
    ) -> Tensor | None:
        """Neurons of each item's population `[B, P]`, or `None` for all of them in the session's order."""
        if neuron_ids is not None:
            if all_neurons:
                raise ValueError("neuron_ids and all_neurons=True exclude each other.")
            if neuron_ids.ndim != 2 or neuron_ids.shape[0] != batch or neuron_ids.shape[1] == 0:
                raise ValueError(f"neuron_ids should have shape [{batch}, P], got {list(neuron_ids.shape)}.")
            if int(neuron_ids.min()) < 0 or int(neuron_ids.max()) >= n_neurons:
                raise ValueError(f"neuron_ids should lie between 0 and {n_neurons - 1}.")
            return neuron_ids.to(device=device, dtype=torch.long)
        if all_neurons:
            return None
        size = min(n_neurons, self.config.max_population)
        return torch.stack([torch.randperm(n_neurons, device=device)[:size] for _ in range(batch)])


def _gather_neurons(responses: Tensor, ids: Tensor) -> Tensor:
    """Takes each item's neurons: `[B, samples, N]` and `[B, P]` to `[B, samples, P]`."""
    return responses.gather(2, ids[:, None].expand(-1, responses.shape[1], -1))
