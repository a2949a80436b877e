"""First weights of a core: how each of its parts draws them."""

from __future__ import annotations

from torch import nn
from transformers import initialization as init

from omnimouse.model.tokens import Identity, Tokens
from omnimouse.model.video import VideoEncoder


def draw_weights(module: nn.Module) -> None:
    """Truncated normal of std `fan_in^-0.5` for maps and `dim^-0.5` for vectors; 0.02 in the video encoder.

    Parents are to be visited after their children, as transformers does; what was loaded is skipped.
    """
    if isinstance(module, VideoEncoder):
        for name, parameter in module.named_parameters():
            if "norm" in name:
                init.ones_(parameter)
            elif name.endswith("bias"):
                init.constant_(parameter, 0.0 if "patch_embedding" in name else 0.02)
            else:
                init.trunc_normal_(parameter, std=0.02)
    elif isinstance(module, Tokens):
        for parameter in (module.behavior_channels, module.missing_modalities, module.latents):
            init.trunc_normal_(parameter, std=parameter.shape[-1] ** -0.5)
        _draw_map(module.behavior)
        _draw_map(module.response, std=0.02)
    elif isinstance(module, Identity):
        init.zeros_(module.initial)
    elif isinstance(module, nn.RMSNorm):
        init.ones_(module.weight)
    elif isinstance(module, nn.Linear):
        _draw_map(module)


def _draw_map(module: nn.Linear, std: float | None = None) -> None:
    init.trunc_normal_(module.weight, std=module.in_features**-0.5 if std is None else std)
    if module.bias is not None:
        init.zeros_(module.bias)
