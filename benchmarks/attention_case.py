"""One case of `attention.py`, in a process of its own: a preset, a population, a mask and a way to compute attention.

Prints what it measured as JSON, and writes `FOLDER/predictions.npz`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meters import GIB, MemoryMeter, Row, answer, timed
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from omnimouse.model import attention, tokens
from omnimouse.model.attention import Layout, n_rows, plan_attention
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.kernels.attention_groups import Group, Groups
from omnimouse.model.masking.masks import as_mask
from omnimouse.model.tokens import WindowPlan
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.training.runs.flops import forward_flops, identity_flops

SESSION = "benchmark"

SCORE_COPIES = 3.5
"""Peak memory of uncompiled flex attention over its `[B, H, Q, K]` scores in float32, as measured: it holds scores,
masked scores and their softmax at once, and a `[Q, K]` mask."""


def use_flex_attention(*, compiled: bool) -> None:
    """Has every layer outside the video encoder computed by flex attention, in this process."""
    tokens.plan_attention = plan_and_remember  # type: ignore[attr-defined]  # where `plan_window` looks it up
    attention.windowed_attention = FlexAttention(compiled=compiled)


class RememberedPlan(Groups):
    """The groups of a plan with the layouts that they came from, which flex attention needs for its mask."""

    queries: Layout
    keys: Layout
    local: bool
    block_mask: BlockMask | None


def plan_and_remember(queries: Layout, keys: Layout, *, local: bool = True) -> RememberedPlan:
    """Stands in for `plan_attention`: the same groups, which remember their layouts."""
    plan = RememberedPlan(plan_attention(queries, keys, local=local))
    plan.queries, plan.keys, plan.local, plan.block_mask = queries, keys, local, None
    return plan


def interval_bounds(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """First ticks of the rows' intervals `[rows]`, and first ticks after them."""
    counts = torch.tensor([run.rows for run in layout])
    bounds = (torch.tensor([getattr(run, end) for run in layout], dtype=torch.int32) for end in ("start", "stop"))
    start, stop = (values.repeat_interleave(counts).to(device) for values in bounds)
    return start, stop


class FlexAttention:
    """Stands in for `windowed_attention`: one flex attention call per layer.

    Block masks are made at a plan's first use and kept, as the package keeps its plans. A global layer needs none.

    Args:
        compiled: Whether flex attention and the making of block masks are compiled, for the shapes at hand.
    """

    def __init__(self, *, compiled: bool):
        self.attend: Callable[..., Any] = flex_attention
        self.make_mask: Callable[..., BlockMask] = create_block_mask
        if compiled:
            self.attend = torch.compile(flex_attention, dynamic=False)
            self.make_mask = torch.compile(create_block_mask, dynamic=True)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, plan: Sequence[Group]) -> Tensor:
        assert isinstance(plan, RememberedPlan)
        if plan.local and plan.block_mask is None:
            plan.block_mask = self._block_mask(plan, query.device)
        out = self.attend(
            query.to(value.dtype),
            key.to(value.dtype),
            value,
            block_mask=plan.block_mask,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return out.transpose(1, 2).flatten(2)

    def _block_mask(self, plan: RememberedPlan, device: torch.device) -> BlockMask:
        query_start, query_stop = interval_bounds(plan.queries, device)
        key_start, key_stop = interval_bounds(plan.keys, device)

        def overlap(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query_start[query] < key_stop[key]) & (key_start[key] < query_stop[query])

        return self.make_mask(overlap, None, None, n_rows(plan.queries), n_rows(plan.keys), str(device))


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
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=case["precision"] == "bfloat16"):
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
