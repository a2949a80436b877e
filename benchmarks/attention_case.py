"""One case of `attention.py`, in a process of its own: a preset, a population, a mask and a way to compute attention.

Prints what it measured as JSON, and writes `FOLDER/predictions.npz`.
"""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from meters import GIB, MemoryMeter, Row, answer, timed
from torch import Tensor

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.masks import as_mask
from omnimouse.model.tokens import WindowPlan
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.training.runs.flops import forward_flops, identity_flops

SESSION = "benchmark"

SCORE_COPIES = 3.5
"""Peak memory of uncompiled flex attention over its `[B, H, Q, K]` scores in float32, as measured: it holds scores,
masked scores and their softmax at once, and a `[Q, K]` mask."""


def largest_scores(case: Row, config: OmniMouseConfig, plan: WindowPlan) -> int:
    """Bytes of the largest `[B, H, Q, K]` score matrix of a pass, in float32."""
    layers = [layer for layer in (plan.encoder, plan.fusion_local, plan.decoder) if layer is not None]
    scores = max(layer.query_rotary.shape[1] * layer.key_rotary.shape[1] for layer in layers)
    return 4 * scores * case["batch_size"] * config.num_attention_heads


def small_model(config: OmniMouseConfig, n_neurons: int) -> OmniMouseModel:
    """A random model with one session of distinct neurons, the same every time."""
    torch.manual_seed(0)
    model = OmniMouseModel(config).eval()
    model.add_session(SESSION, n_neurons=n_neurons, animal_id="mouse")
    with torch.no_grad():
        for name, parameter in model.session_named_parameters(SESSION):
            if "neuron_bias" not in name:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model


def random_windows(config: OmniMouseConfig, n_neurons: int, batch: int) -> dict[str, Tensor]:
    """Windows of a session, on the CPU."""
    torch.manual_seed(1)
    return {
        "responses": torch.randn(batch, config.num_response_samples, n_neurons).exp(),
        "video": torch.randn(batch, 1, config.num_frames, config.frame_height, config.frame_width),
        "behavior": torch.randn(batch, len(config.behavior_channels), config.num_behavior_samples),
    }


def prepare(case: Row, config: OmniMouseConfig) -> tuple[OmniMouseModel, dict[str, Tensor]]:
    """The model and the inputs that the mask shows."""
    device, mask = torch.device(case["device"]), as_mask(case["mask"], config).resolve(case["neurons"], config)
    shown = {"responses": mask.shows_responses, "video": mask.shows_video, "behavior": mask.encodes_behavior}
    windows = random_windows(config, case["neurons"], case["batch_size"])
    model = small_model(config, case["neurons"]).to(device)
    return model, {name: value.to(device) for name, value in windows.items() if shown[name]}


def operations(model: OmniMouseModel, case: Row) -> int:
    """Of a forward pass."""
    plan = model.window_plan(as_mask(case["mask"], model.config), case["neurons"])
    return case["batch_size"] * forward_flops(plan, model.config) + identity_flops(case["neurons"], model.config)


def measure(case: Row) -> Row:
    """Runs the case and writes its predictions."""
    config, device = OmniMouseConfig.from_preset(case["preset"]), torch.device(case["device"])
    if case["variant"] == "flex-compiled":
        import_module("torch._inductor.compile_fx")  # the compiler's own code counts as the process, not as attention
    if case["variant"].startswith("flex"):
        from flex_layers import (
            use_flex_attention,
        )  # not with the package of an earlier commit, which may lack its parts

        use_flex_attention(compiled=case["variant"] == "flex-compiled")
    model, inputs = prepare(case, config)
    result: Row = {"operations": operations(model, case)}
    if case["variant"] == "flex-uncompiled":
        plan = model.window_plan(as_mask(case["mask"], config), case["neurons"])
        needed = SCORE_COPIES * largest_scores(case, config, plan)
        if needed > case["limit_gib"] * GIB:
            return {"status": f"does not fit: needs about {needed / GIB:.1f} GiB for scores"}
    meter, outputs = MemoryMeter(device), []

    def forward() -> None:
        outputs.clear()
        in_bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=case["precision"] == "bfloat16")
        with torch.inference_mode(), in_bfloat16:  # as `evaluate` and `predict` compute
            outputs.append(model(SESSION, **inputs, mask=case["mask"], all_neurons=True))

    meter.reset()
    result["model_bytes"] = meter.now()
    (result["first_seconds"],) = timed(forward, 1, device)
    result["first_peak_bytes"] = meter.peak()
    found = {"responses": outputs[0].response_predictions, "behavior": outputs[0].behavior_predictions}
    predictions = {name: value.float().cpu().numpy() for name, value in found.items() if value is not None}
    np.savez(Path(case["folder"]) / "predictions.npz", **predictions)
    del found, predictions
    outputs.clear()
    meter.reset()
    begun, seconds = time.monotonic(), []
    while len(seconds) < case["repeats"] and (len(seconds) < 2 or time.monotonic() < begun + case["seconds"]):
        seconds += timed(forward, 1, device)
    return {**result, "seconds": seconds, "peak_bytes": meter.peak()}


if __name__ == "__main__":
    answer(measure)
