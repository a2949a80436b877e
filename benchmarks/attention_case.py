"""Measures one case of `attention.py`: a preset, a population, a mask and a way to compute attention, in this process.

`attention.py` starts this file once per case, so that a case's peak memory is its own:

    python attention_case.py CASE_AS_JSON FOLDER

writes `FOLDER/result.json` and, when the case ran, `FOLDER/predictions.npz`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import GIB
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from omnimouse.model import attention, tokens
from omnimouse.model.attention import Group, Layout, n_rows, plan_attention
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.masks import as_mask
from omnimouse.pretrained.omnimouse_model import OmniMouseModel

SESSION = "benchmark"

SCORE_COPIES = 3.5
"""Peak memory of uncompiled flex attention over its `[B, H, Q, K]` scores in float32, as measured: it holds scores,
masked scores and their softmax at once, and a `[Q, K]` mask."""


@dataclass(frozen=True)
class Case:
    """What one process measures.

    Args:
        preset: Name of a preset of `OmniMouseConfig`.
        neurons: Neurons of the session; all of them are in the window.
        mask: Task name or `suite/name` of an evaluation mask.
        variant: `package`, `flex-compiled` or `flex-uncompiled`.
        device: `cpu` (float32) or `cuda` (bfloat16).
        batch_size: Windows per forward pass.
        repeats: Timed forward passes after the first.
        threads: CPU threads.
        limit_gib: Uncompiled flex attention is left out when its scores need more than this.
    """

    preset: str
    neurons: int
    mask: str
    variant: str
    device: str
    batch_size: int
    repeats: int
    threads: int
    limit_gib: float


class RememberedPlan(tuple[Group, ...]):
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


class MemoryMeter:
    """Memory of this process (CPU) or of its tensors on the device (CUDA), in bytes.

    On Linux the peak can be set back; elsewhere it is that of the process since it began.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"

    def reset(self) -> None:
        """Sets the peak back to what is used now."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")

    def now(self) -> int:
        return torch.cuda.memory_allocated() if self.cuda else self._status("VmRSS")

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.cuda else self._status("VmHWM")

    @staticmethod
    def _status(field: str) -> int:
        if sys.platform != "linux":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def largest_scores(case: Case, config: OmniMouseConfig) -> int:
    """Bytes of the largest `[B, H, Q, K]` score matrix of a window, in float32."""
    mask = as_mask(case.mask, config).resolve(case.neurons, config)
    plan = tokens.plan_window(mask, config, torch.device("cpu"))
    layers = (plan.encoder, plan.fusion_local, plan.fusion_global, plan.decoder)
    groups = [layer.groups for layer in layers if layer is not None]
    scores = max(n_rows(group.queries) * n_rows(group.keys) for group in groups if isinstance(group, RememberedPlan))
    return 4 * scores * case.batch_size * config.num_attention_heads


@torch.no_grad()
def build(case: Case, config: OmniMouseConfig, device: torch.device) -> tuple[OmniMouseModel, dict[str, Tensor]]:
    """A random model with one session of distinct neurons, and the inputs that the mask shows; the same every time."""
    torch.manual_seed(0)
    model = OmniMouseModel(config).eval()
    model.add_session(SESSION, n_neurons=case.neurons, animal_id="mouse")
    for name, parameter in model.session_named_parameters(SESSION):
        if "neuron_bias" not in name:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
    model.to(device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    shapes = {
        "responses": (config.num_response_samples, case.neurons),
        "video": (1, config.num_frames, config.frame_height, config.frame_width),
        "behavior": (len(config.behavior_channels), config.num_behavior_samples),
    }
    inputs = {name: torch.randn(case.batch_size, *shape) for name, shape in shapes.items()}
    inputs["responses"].exp_()
    mask = as_mask(case.mask, config).resolve(case.neurons, config)
    shown = {"responses": mask.shows_responses, "video": mask.shows_video, "behavior": mask.encodes_behavior}
    return model, {name: value.to(device) for name, value in inputs.items() if shown[name]}


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Runs the case and writes its predictions; returns what `result.json` holds."""
    torch.set_num_threads(case.threads)
    config, device = OmniMouseConfig.from_preset(case.preset), torch.device(case.device)
    tokens.plan_attention = plan_and_remember  # type: ignore[attr-defined]  # where `plan_window` looks it up
    result: dict[str, Any] = {"status": "ok", "largest_scores_bytes": largest_scores(case, config)}
    if case.variant == "flex-uncompiled":
        needed = SCORE_COPIES * result["largest_scores_bytes"]
        if needed > case.limit_gib * GIB:
            return {**result, "status": f"does not fit: needs about {needed / GIB:.1f} GiB for scores"}
    if case.variant == "flex-compiled":
        import_module("torch._inductor.compile_fx")  # the compiler's own code counts as the process, not as attention
    if case.variant != "package":
        attention.windowed_attention = FlexAttention(compiled=case.variant == "flex-compiled")
    model, inputs = build(case, config, device)
    meter = MemoryMeter(device)

    def forward() -> tuple[float, Any]:
        if meter.cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.no_grad():
            out = model(SESSION, **inputs, mask=case.mask, all_neurons=True)
        if meter.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start, out

    meter.reset()
    result["model_bytes"] = meter.now()
    result["first_seconds"], out = forward()
    result["first_peak_bytes"] = meter.peak()
    predictions = {
        name: value.float().cpu().numpy()
        for name, value in (("responses", out.response_predictions), ("behavior", out.behavior_predictions))
        if value is not None
    }
    np.savez(folder / "predictions.npz", **predictions)
    del out, predictions
    meter.reset()
    result["seconds"] = [forward()[0] for _ in range(case.repeats)]
    result["peak_bytes"] = meter.peak()
    return result


def main() -> None:
    case, folder = Case(**json.loads(sys.argv[1])), Path(sys.argv[2])
    warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
    try:
        result = measure(case, folder)
    except Exception as error:  # a case that fails is a result of the benchmark; the others go on
        traceback.print_exc()
        reason = (str(error).strip() or "no message").splitlines()[0]
        result = {"status": f"failed: {type(error).__name__}: {reason[:200]}"}
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
