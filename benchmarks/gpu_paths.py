"""Equality of the ways to compute the same, on the device: a group of `gpu.py`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch
from attention_case import SESSION, random_windows, small_model
from gpu_bench import Bench, Case, has, without
from meters import Row
from torch import Tensor

from omnimouse import OmniMouseModel
from omnimouse.model.kernels import row_pieces

FLOAT32_ERROR, BF16_ERROR = 1e-3, 0.1
"""Largest relative error of a gradient (all parameters as one vector)."""

EQUAL = 1e-5
"""The same for predictions that differ in the order of sums alone."""

MASKS = ("forecasting+stimulus+behavior", "population", "stimulus+behavior", "behavior")


def gradient(model: OmniMouseModel, arrays: dict[str, Tensor], mask: object, *, bf16: bool = False) -> Tensor:
    """Gradients of all parameters that have one, as one vector on the CPU."""
    device = model.device
    model.zero_grad(set_to_none=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        out = model(SESSION, **{n: a.to(device) for n, a in arrays.items()}, mask=mask, all_neurons=True)
    out.loss.backward()
    return torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


@torch.no_grad()
def predictions(model: OmniMouseModel, arrays: dict[str, Tensor], mask: str, **options: Tensor) -> Tensor:
    """All that is predicted, as one vector on the CPU."""
    windows = {name: array.to(model.device) for name, array in arrays.items()}
    out = model(SESSION, **windows, mask=mask, all_neurons=True, **options)
    parts = [part.flatten() for part in (out.response_predictions, out.behavior_predictions) if part is not None]
    return torch.cat(parts).nan_to_num().float().cpu()


def relative(found: Tensor, expected: Tensor) -> float:
    """Error of a vector; infinite where it is no number."""
    return float((found - expected).norm() / expected.norm()) if found.isfinite().all() else float("inf")


def judged(worst: dict[str, float], limit: float) -> Row:
    """The row of the largest errors by mask."""
    wrong = [mask for mask, error in worst.items() if not error <= limit]
    row: Row = {"masks": len(worst), "largest_error": max(worst.values())}
    return {"status": f"WRONG for {', '.join(wrong)}", **row} if wrong else row


def paths(bench: Bench) -> Iterator[Case]:
    """Two ways to compute the same, case by case."""
    for preset in ("tiny",) if bench.quick else ("tiny", "80m"):
        yield Case(f"{preset}, packed attention against groups", 60, partial(switched, bench, preset, "packed"))
        yield Case(f"{preset}, recomputed against stored", 60, partial(switched, bench, preset, "recomputed"))
        yield Case(f"{preset}, bf16 against float32", 60, partial(precision, bench, preset))
    yield Case("cached video features", 30, partial(cached_video, bench))
    yield Case("attention in pieces", 30, partial(in_pieces, bench))


def _made(bench: Bench, preset: str) -> tuple[OmniMouseModel, dict[str, Tensor]]:
    n_neurons, config = 16 if bench.quick else 1024, bench.config(preset)
    return small_model(config, n_neurons).to(bench.device), random_windows(config, n_neurons, 1 if bench.quick else 2)


def switched(bench: Bench, preset: str, switch: str) -> Row:
    """Gradients under bf16 autocast, with a way of computing and without."""
    if not has(switch):
        return {"status": "left out: this version has no such way"}
    model, arrays = _made(bench, preset)
    worst = {}
    for mask in MASKS:
        found = gradient(model, arrays, mask, bf16=True)
        with without(switch):
            worst[mask] = relative(found, gradient(model, arrays, mask, bf16=True))
    return judged(worst, BF16_ERROR)


def precision(bench: Bench, preset: str) -> Row:
    """Predictions under bf16 autocast against float32."""
    model, arrays = _made(bench, preset)
    worst = {}
    for mask in MASKS:
        expected = predictions(model, arrays, mask)
        with torch.autocast(bench.device.type, torch.bfloat16):
            worst[mask] = relative(predictions(model, arrays, mask), expected)
    return judged(worst, BF16_ERROR)


def compiled(bench: Bench) -> Row:
    """Gradients with compiled chains in float32; WRONG where they were not compiled after all."""
    (model, arrays), masks = _made(bench, "tiny"), MASKS[1:2] if bench.quick else MASKS
    expected = {mask: gradient(model, arrays, mask) for mask in masks}
    with bench.compiling(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        row = judged({mask: relative(gradient(model, arrays, mask), expected[mask]) for mask in masks}, FLOAT32_ERROR)
    refused = [str(entry.message) for entry in caught if "compiled" in str(entry.message)]
    return {"status": f"WRONG: {refused[0]}", **row} if refused else row


def cached_video(bench: Bench) -> Row:
    """Predictions from video features that were encoded before."""
    model, arrays = _made(bench, "tiny")
    worst = {}
    for mask in (mask for mask in MASKS if "stimulus" in mask):
        others = {name: array for name, array in arrays.items() if name != "video"}
        with torch.no_grad():
            features = model.encode_video(arrays["video"].to(bench.device), mask)
        found = predictions(model, others, mask, video_features=features)
        worst[mask] = relative(found, predictions(model, arrays, mask))
    return judged(worst, EQUAL)


def in_pieces(bench: Bench) -> Row:
    """Predictions with rows of attention in pieces as small as can be afforded."""
    model, arrays = _made(bench, "tiny")
    worst = {}
    for mask in MASKS:
        expected = predictions(model, arrays, mask)
        few = 1 << (17 if bench.quick else 22)
        with mock.patch.multiple(row_pieces, WORKING_BYTES={}, WORKING_BYTES_ELSEWHERE=few):
            worst[mask] = relative(predictions(model, arrays, mask), expected)
    return judged(worst, EQUAL)
