"""One curve of `cost.py`, in a process of its own: seconds and memory of a pass, point by point, as JSON."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from attention_case import SESSION, random_windows, small_model
from meters import GIB, MemoryMeter, Row, answer, timed

from omnimouse import OmniMouseConfig
from omnimouse.model.masking.masks import Mask, as_mask
from omnimouse.training.runs.flops import forward_flops, identity_flops, training_flops

LONG = 4.0
"""Seconds of a pass from which on it is measured once."""


def config_of(case: Row) -> OmniMouseConfig:
    """The preset, for a window of some seconds."""
    config = OmniMouseConfig.from_preset(case["preset"])
    if "seconds" not in case:
        return config
    rates = {"num_response_samples": config.response_rate, "num_frames": config.video_rate,
             "num_behavior_samples": config.behavior_rate}  # fmt: skip
    lengths = {name: round(case["seconds"] * rate) for name, rate in rates.items()}
    return OmniMouseConfig.from_preset(case["preset"], **lengths)


def mask_of(case: Row, config: OmniMouseConfig) -> Mask:
    """The task, with so many frames shown."""
    mask = as_mask(case["mask"], config)
    return replace(mask, frames_start=0, n_frames=case["frames"]) if "frames" in case else mask


def measure_curve(case: Row) -> Row:
    """Point by point, until the next one would not fit into time or memory, judged by the last one."""
    begun, points, left_out = time.monotonic(), list[Row](), ""
    for i, value in enumerate(case["values"]):
        if points and not left_out:
            before = case["values"][i - 1]
            growth = max(1.0, value / before if before else 1.0)
            spent, left = points[-1]["all_seconds"], begun + case["limit_s"] - time.monotonic()
            if growth * spent > left:
                left_out = "not run: time was up"
            elif growth * points[-1]["above_model_bytes"] > case["limit_bytes"]:
                left_out = f"not run: would need more than {case['limit_bytes'] / GIB:g} GiB"
        points.append({"status": left_out} if left_out else measure({**case, case["axis"]: value}))
    return {"points": points}


def give_back() -> None:
    """Returns memory that the C library keeps for later, which would count as there before."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def measure(case: Row) -> Row:
    """Best of several passes after the first, and the largest peak of them."""
    config, device, batch = config_of(case), torch.device(case["device"]), case["batch"]
    mask, n_neurons = mask_of(case, config), case["neurons"]
    model, trains = small_model(config, n_neurons).to(device), case["which"] == "step"
    resolved = mask.resolve(n_neurons, config)
    shown = {"responses": resolved.shows_responses or trains, "video": resolved.shows_video,
             "behavior": resolved.encodes_behavior or trains}  # fmt: skip
    windows = {n: x.to(device) for n, x in random_windows(config, n_neurons, batch).items() if shown[n]}
    optimizer = torch.optim.AdamW(model.parameters()) if trains else None

    def one_pass() -> Any:
        with torch.set_grad_enabled(trains):
            out = model(SESSION, **windows, mask=mask, all_neurons=True)
        if optimizer is not None:
            out.loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    begun = time.monotonic()
    plan, meter = model.window_plan(mask, n_neurons), MemoryMeter(device)
    forward = batch * forward_flops(plan, config) + identity_flops(n_neurons, config)
    give_back()
    meter.reset()
    before = meter.now()
    first = timed(one_pass, 1, device)
    later = timed(one_pass, case["repeats"] if first[0] < LONG else 1, device)
    operations = training_flops(plan, config, n_windows=batch, n_neurons=n_neurons) if trains else forward
    row = {"status": "ok", "seconds": min(later), "first_seconds": first[0], "operations": operations}
    return {**row, "all_seconds": time.monotonic() - begun,
            "above_model_bytes": meter.peak() - before}  # fmt: skip


if __name__ == "__main__":
    answer(measure_curve)
