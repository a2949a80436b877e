"""Architecture of an OmniMouse model: one flat, strictly checked configuration, and the released sizes as data."""

import math
from types import MappingProxyType
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from omnimouse.model.configuration_checks import CheckedConfig

BEHAVIOR_CHANNELS = ("pupil_size", "pupil_size_derivative", "gaze_x", "gaze_y", "running_speed")
"""Content of the five behaviour channels in the order in which published recordings store them."""

_20M: dict[str, Any] = {"hidden_size": 512, "num_attention_heads": 8, "num_fusion_layers": 6, "video_depths": [2, 8]}

PRESETS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "tiny": {
            "hidden_size": 128,
            "identity_size": 64,
            "num_attention_heads": 2,
            "num_fusion_layers": 2,
            "num_local_layers": 1,
            "num_latents": 32,
            "num_registers": 16,
            "video_hidden_size": 64,
            "video_depths": [1, 2],
            "video_patch_kernel": [6, 16, 16],
            "video_patch_stride": [4, 4, 4],
            "video_patch_padding": [1, 4, 6],
            "video_drop_path_rate": 0.0,
        },
        "1m": {"hidden_size": 256, "num_attention_heads": 4, "num_fusion_layers": 2, "num_local_layers": 1},
        "5m": {"hidden_size": 256, "num_attention_heads": 4, "num_fusion_layers": 6},
        "20m": _20M,
        "80m": {**_20M, "hidden_size": 768, "num_attention_heads": 12, "num_fusion_layers": 12},
        "300m": {**_20M, "hidden_size": 1024, "num_attention_heads": 16, "num_fusion_layers": 24},
    }
)
"""Sizes: `1m` to `300m` are the released ones (named by their authors); `tiny` is made for a laptop's CPU."""


@strict
class OmniMouseConfig(CheckedConfig):
    """Architecture of an `OmniMouseModel`. It holds no session, path, device or learning rate.

    Unknown types and impossible values raise at construction. Defaults are those of the `5m` preset.

    Args:
        response_rate, video_rate, behavior_rate: Samples per second of responses, video and behaviour.
        num_response_samples, num_frames, num_behavior_samples: Samples of a window (60 responses = 2 s).
        frame_height, frame_width: Rows and columns of a frame, in pixels.
        behavior_channels: Names of the behaviour channels, in order.
        max_population: Most neurons of a population that one training step looks at.
        guard_samples: Samples after visible activity that are never targets, since responses were resampled from a
            slower scan and could be interpolated from what is visible.
        skip_samples: Targets may not begin before this sample.
        hidden_size: Width of all tokens (D).
        identity_size: Size of neuron, session and animal vectors (E). Released checkpoints use 256.
        num_attention_heads: Query heads in encoder, fusion stack and decoder.
        num_key_value_heads: Key and value heads in the fusion stack; `None` means as many as query heads.
        num_fusion_layers: Blocks of the fusion stack.
        num_local_layers, num_global_layers: Local blocks, and the global ones that follow them, of each repetition of
            the pattern. When it does not divide the number of blocks, the extra ones come first and are local.
        ffn_multiplier, decoder_ffn_multiplier: Width of the gated feed-forward over `hidden_size`, of encoder and
            fusion stack and of the decoder.
        rms_norm_eps: Epsilon of every RMSNorm.
        response_token_window: Samples that one response token covers (w).
        response_token_stride: Samples between response tokens, and samples that one response query predicts (s).
        num_latents: Latent vectors, each used once per latent step (M).
        latent_window: Samples that a latent owns, and samples between latent steps.
        num_registers: Latent vectors that own the whole window (G).
        rope_min_period: Shortest rotary period, in seconds. The longest is the window.
        video_hidden_size, video_num_heads: Width and heads of the first stage of the video encoder; the second has
            twice as many of both.
        video_depths: Blocks of its two stages.
        video_patch_kernel, video_patch_stride, video_patch_padding: Size, stride and zero padding (on both sides) of
            its patches, in frames, rows and columns.
        video_ffn_multiplier: Width of its gated feed-forward, times the stage's width.
        video_drop_path_rate: Stochastic depth of its last block; rises linearly from 0.
        video_attention_layout: `"spatial"` attends inside 8x8 neighbouring patches of one time step and never sees a
            hidden frame. `"published"` reproduces the released weights' scattered attention: under it **a mask does not
            hide frames from the video features**. It is for converted checkpoints only.
        softplus_beta: Sharpness of the response readout's softplus.
        response_loss_epsilon: Inside the logarithm of the Poisson loss.
        response_loss_clamp, behavior_loss_clamp: Each element of the Poisson loss is clamped to plus or minus the one,
            each squared error of behaviour to the other.
        behavior_loss_weight: Weight of the behaviour loss in the total.

    Raises:
        StrictDataclassFieldValidationError: A field has the wrong type.
        StrictDataclassClassValidationError: Fields contradict each other; the message names them.
    """

    model_type = "omnimouse"
    mask_unit = 8  # side of a mask unit of the video encoder, in patches

    response_rate: int = 30
    num_response_samples: int = 60
    video_rate: int = 30
    num_frames: int = 60
    frame_height: int = 36
    frame_width: int = 64
    behavior_rate: int = 20
    num_behavior_samples: int = 40
    behavior_channels: list[str] | tuple[str, ...] = BEHAVIOR_CHANNELS
    max_population: int = 4096
    guard_samples: int = 5
    skip_samples: int = 5

    hidden_size: int = 256
    identity_size: int = 128
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    num_fusion_layers: int = 6
    num_local_layers: int = 5
    num_global_layers: int = 1
    ffn_multiplier: int | float = 2.67
    decoder_ffn_multiplier: int | float = 4
    rms_norm_eps: float = 1e-5

    response_token_window: int = 10
    response_token_stride: int = 5
    num_latents: int = 640
    latent_window: int = 10
    num_registers: int = 256
    rope_min_period: float = 1e-3

    video_hidden_size: int = 128
    video_num_heads: int = 2
    video_depths: list[int] | tuple[int, ...] = (2, 2)
    video_patch_kernel: list[int] | tuple[int, ...] = (6, 7, 7)
    video_patch_stride: list[int] | tuple[int, ...] = (2, 2, 2)
    video_patch_padding: list[int] | tuple[int, ...] = (2, 1, 3)
    video_ffn_multiplier: int | float = 2.67
    video_drop_path_rate: int | float = 0.25
    video_attention_layout: Literal["spatial", "published"] = "spatial"

    softplus_beta: int | float = 0.1
    response_loss_epsilon: float = 1e-5
    response_loss_clamp: int | float = 100.0
    behavior_loss_clamp: int | float = 10.0
    behavior_loss_weight: int | float = 0.1

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "OmniMouseConfig":
        """Builds a configuration of a named size.

        Args:
            name: One of `tiny`, `1m`, `5m`, `20m`, `80m`, `300m` (case does not matter).
            **overrides: Fields that replace the preset's.

        Raises:
            ValueError: The name is unknown (known ones are listed) or an override is not a field.
        """
        if not isinstance(name, str) or name.lower() not in PRESETS:
            raise ValueError(f"Unknown preset {name!r}. Known presets: {', '.join(PRESETS)}.")
        unknown = [key for key in overrides if key not in cls.__dataclass_fields__]
        if unknown:
            raise ValueError(f"OmniMouseConfig has no field {', '.join(unknown)}. See help(OmniMouseConfig).")
        return cls(**{**PRESETS[name.lower()], **overrides})

    # Sizes that follow from the fields.

    @property
    def ticks_per_second(self) -> int:
        """Integer time base: a common multiple of all rates, so that no time comparison rounds."""
        return math.lcm(self.response_rate, self.video_rate, self.behavior_rate)

    @property
    def window_seconds(self) -> float:
        """Length of a window in seconds."""
        return self.num_response_samples / self.response_rate

    @property
    def head_dim(self) -> int:
        """Size of an attention head outside the video encoder."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_latent_steps(self) -> int:
        """Times at which each latent vector is used in a window (n)."""
        return self.num_response_samples // self.latent_window

    @property
    def video_patch_grid(self) -> tuple[int, int, int]:
        """Patches of a window (time steps, rows, columns) before pooling."""
        sizes = (self.num_frames, self.frame_height, self.frame_width)
        patching = (self.video_patch_kernel, self.video_patch_stride, self.video_patch_padding)
        steps, rows, columns = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(sizes, *patching, strict=True))
        return steps, rows, columns

    @property
    def video_tokens_per_step(self) -> int:
        """Video tokens of one time step, after pooling."""
        _, rows, columns = self.video_patch_grid
        return rows * columns // 4

    def is_global_layer(self, layer: int) -> bool:
        """Whether a block of the fusion stack attends everywhere (extra blocks come first and are local)."""
        period = self.num_local_layers + self.num_global_layers
        extra = self.num_fusion_layers % period
        return layer >= extra and (layer - extra) % period >= self.num_local_layers
