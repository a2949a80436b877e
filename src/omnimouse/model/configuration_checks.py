"""What a configuration of the model may be: checks of its values, and of what was stored of it."""

import math
import warnings
from dataclasses import Field
from typing import Any

from transformers import PreTrainedConfig

_WRITTEN_BY_OTHERS = {
    "model_type", "transformers_version", "architectures", "dtype", "torch_dtype", "auto_map", "attn_implementation",
    "extra_files", "extra_config_files", "name_or_path", "quantization_config", "use_cache",
}  # fmt: skip
"""What transformers writes beside the architecture."""


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


class CheckedConfig(PreTrainedConfig):
    """What is checked of an `OmniMouseConfig`, which adds the fields and the sizes that follow from them."""

    # What `transformers.Trainer.predict` does not collect: losses, and what only says where predictions belong.
    keys_to_ignore_at_inference = [  # noqa: RUF012 (as transformers)
        "response_loss", "behavior_loss", "response_targets", "target_mask", "target_neuron_ids", "target_start",
    ]  # fmt: skip

    def __post_init__(self, **kwargs: Any) -> None:
        for name, field in type(self).__dataclass_fields__.items():
            if isinstance(field.default, tuple):  # JSON knows lists only: one form, so that a round trip is equal
                setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    @classmethod
    def architecture_fields(cls) -> dict[str, Field[Any]]:
        """The fields by name, without those of every transformers configuration."""
        inherited = PreTrainedConfig.__dataclass_fields__
        return {name: field for name, field in cls.__dataclass_fields__.items() if name not in inherited}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Builds a configuration from what was stored; as transformers does, and says what does not fit.

        A field that this version does not know, as a later one may write, is warned about and ignored. A field that is
        missing is refused: its default could belong to another model, and weights do not tell all of them.

        Raises:
            ValueError: Fields are missing (all are named), or it is the configuration of another kind of model.
        """
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"This is the configuration of a model of type {kind!r}, expected {cls.model_type!r}. Open it with the "
                "library that wrote it."
            )
        missing = [name for name in cls.architecture_fields() if name not in config_dict]
        if missing:
            raise ValueError(
                f"The configuration lacks {', '.join(missing)}. Copy config.json again from where the model came from; "
                "OmniMouseConfig.from_preset has the values of the released sizes."
            )
        known = {*cls.__dataclass_fields__, *_WRITTEN_BY_OTHERS}
        unknown = [name for name in config_dict if name not in known and not name.startswith("_")]
        if unknown:
            warnings.warn(
                f"The configuration has fields that this version of omnimouse does not know: {', '.join(unknown)}. "
                "They are ignored; a newer version may have written them, and compute otherwise.",
                stacklevel=2,
            )
            config_dict = {name: value for name, value in config_dict.items() if name not in unknown}
        return super().from_dict(config_dict, **kwargs)

    # Checks, run by `strict` at construction and on save.

    def validate_positive(self) -> None:
        """Every size, rate and count must be positive."""
        zero_allowed = {
            "num_registers", "num_local_layers", "num_global_layers", "guard_samples", "skip_samples",
            "response_loss_epsilon",
        }  # fmt: skip
        for name in self.architecture_fields():
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and name != "video_drop_path_rate":
                low = 0 if name in zero_allowed else 1 if isinstance(value, int) else 1e-12
                _check(value >= low and math.isfinite(value), f"{name} must be at least {low}, got {value}.")

    def validate_window(self) -> None:
        """Responses, video and behaviour must cover the same time, and latents and tokens must tile it."""
        n, w, latent = self.num_response_samples, self.response_token_window, self.latent_window
        spans = {
            "num_response_samples / response_rate": (n, self.response_rate),
            "num_frames / video_rate": (self.num_frames, self.video_rate),
            "num_behavior_samples / behavior_rate": (self.num_behavior_samples, self.behavior_rate),
        }
        seconds = {name: samples / rate for name, (samples, rate) in spans.items()}
        same = all(samples * self.response_rate == n * rate for samples, rate in spans.values())
        _check(same, f"All modalities must cover the same time, got {seconds} seconds.")
        _check(n % latent == 0, f"num_response_samples ({n}) must be a multiple of latent_window ({latent}).")
        _check(w <= n, f"response_token_window ({w}) exceeds num_response_samples ({n}).")

    def validate_heads(self) -> None:
        """Heads must divide widths, and rotary embedding needs even heads."""
        heads, groups, size = self.num_attention_heads, self.num_key_value_heads, self.hidden_size
        _check(
            size % heads == 0 and self.head_dim % 2 == 0,
            f"hidden_size ({size}) must be an even multiple of num_attention_heads ({heads}).",
        )
        _check(
            groups is None or (groups > 0 and heads % groups == 0),
            f"num_key_value_heads ({groups}) must divide num_attention_heads ({heads}), or be None.",
        )
        layers = self.num_local_layers + self.num_global_layers
        _check(layers > 0, "num_local_layers and num_global_layers cannot both be 0.")
        size, heads = self.video_hidden_size, self.video_num_heads
        _check(size % heads == 0, f"video_hidden_size ({size}) must be a multiple of video_num_heads ({heads}).")

    def validate_video(self) -> None:
        """The patch grid must split into mask units."""
        for name in ("video_patch_kernel", "video_patch_stride", "video_patch_padding"):
            value = getattr(self, name)
            _check(len(value) == 3, f"{name} must have 3 entries (frames, rows, columns), got {list(value)}.")
            low = 0 if name == "video_patch_padding" else 1
            _check(min(value) >= low, f"{name} must have entries of at least {low}, got {list(value)}.")
        depths, rate, names = list(self.video_depths), self.video_drop_path_rate, list(self.behavior_channels)
        two = len(depths) == 2 and min(depths) >= 1
        _check(two, f"video_depths must be two positive numbers of blocks, got {depths}.")
        _check(0 <= rate < 1, f"video_drop_path_rate must be in [0, 1), got {rate}.")
        unit, (steps, rows, columns) = self.mask_unit, self.video_patch_grid
        _check(
            steps >= 1 and min(rows, columns) >= unit and rows % unit == columns % unit == 0,
            f"Frames of {self.frame_height}x{self.frame_width} give {rows}x{columns} patches; both must be multiples "
            f"of {unit}. With kernel {list(self.video_patch_kernel)[1:]}, stride "
            f"{list(self.video_patch_stride)[1:]} and padding {list(self.video_patch_padding)[1:]} supported heights "
            f"are {self._supported_sizes(1)} and widths {self._supported_sizes(2)}; resize the frames, or change the "
            "patching.",
        )
        distinct = len(names) >= 1 and len(set(names)) == len(names)
        _check(distinct, f"behavior_channels must be distinct names, got {names}.")

    def _supported_sizes(self, axis: int) -> str:
        patching = (self.video_patch_kernel, self.video_patch_stride, self.video_patch_padding)
        kernel, stride, padding = (int(value[axis]) for value in patching)
        sizes = [(n * self.mask_unit - 1) * stride + kernel - 2 * padding for n in (1, 2, 3, 4)]
        return ", ".join(f"{size}-{size + stride - 1}" if stride > 1 else str(size) for size in sizes) + ", ..."
