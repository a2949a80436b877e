"""Speed on the device: groups of `gpu.py`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from attention_case import SESSION, random_windows, small_model
from flex_layers import use_flex_attention
from floor import floor
from gpu_bench import SWITCHES, TOY, Bench, Case, has, synchronisations, without
from gpu_paths import compiled
from meters import GIB, MemoryMeter, Row, wait
from torch import Tensor
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from omnimouse import simulate_recording, train
from omnimouse.model.masking.masks import TRAINING_MASKS, Mask, as_mask
from omnimouse.training.pretraining.pretraining_recipe import LoaderRecipe
from omnimouse.training.runs.flops import training_flops

MASKS = ("forecasting+stimulus+behavior", "population")
TRAINED = ("stimulus+behavior", "forecasting+stimulus+behavior", "population+stimulus+behavior", "population")


def presets(bench: Bench) -> tuple[str, ...]:
    return ("tiny",) if bench.quick else ("5m", "20m", "80m")


def lowest(bench: Bench) -> Iterator[Case]:
    """The floor, which the shares of a process are of."""
    yield Case("floor", 30, lambda: _floor(bench))


def _floor(bench: Bench) -> Row:
    found = floor(bench.device, quick=bench.quick)
    (bench.folder / "matrix_rate").write_text(str(found.matrix_rate("bfloat16")))
    rates = {f"{name}_TFLOP/s": found.matrix_rate(name) / 1e12 for name in found.products}
    return {**rates, "copy_GB/s": found.copied / 1e9, "sizes": found.sentence()}


def speed(bench: Bench) -> Iterator[Case]:
    """Training steps as the package does them."""
    yield from lowest(bench)
    for preset in presets(bench):
        for mask in MASKS:
            yield Case(f"{preset}, {mask}", 60, partial(step, bench, preset, mask))


def before(bench: Bench) -> Iterator[Case]:
    """The same without packed attention, without recomputation, and without both."""
    for preset in ("tiny",) if bench.quick else ("80m", "5m"):
        for mask in MASKS:
            yield Case(f"{preset}, {mask}, plain", 60, partial(step, bench, preset, mask, off=tuple(SWITCHES)))
            for switch in SWITCHES:
                yield Case(f"{preset}, {mask}, not {switch}", 60, partial(step, bench, preset, mask, off=(switch,)))


def flex(bench: Bench) -> Iterator[Case]:
    """The same with compiled flex attention in place of windowed attention."""
    for preset in ("tiny",) if bench.quick else ("5m", "80m", "20m"):
        for mask in MASKS:
            yield Case(f"{preset}, {mask}", 110, partial(flex_step, bench, preset, mask))


def flex_step(bench: Bench, preset: str, mask: str) -> Row:
    """A step with compiled flex attention; the first one tells the compilation."""
    if bench.device.type == "cpu":
        return {"status": "left out: flex attention has no backward pass on a CPU"}
    use_flex_attention(compiled=True)
    return step(bench, preset, mask, off=("packed",))


def step(bench: Bench, preset: str, mask: str, off: Sequence[str] = (), *, compile_blocks: bool = False) -> Row:
    """Forward, backward and fused AdamW under bf16 autocast."""
    config = bench.config(preset)
    n_neurons, population, batch = (24, 16, 1) if bench.quick else (8000, 4096, 8)
    model = small_model(config, n_neurons).to(bench.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    windows = {name: array.to(bench.device) for name, array in random_windows(config, n_neurons, batch).items()}
    ids = torch.stack([torch.randperm(n_neurons)[:population] for _ in range(batch)]).to(bench.device)
    meter = MemoryMeter(bench.device)
    meter.reset()

    def one_step() -> Tensor:
        with torch.autocast(bench.device.type, dtype=torch.bfloat16):
            loss = model(SESSION, **windows, mask=mask, neuron_ids=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    with without(*off) if off else nullcontext(), bench.compiling(compile_blocks):
        median, first = bench.timed(one_step, 2 if bench.quick else 8)
        peak = meter.peak()
        asked = asked_of_device(bench.device, one_step)
        loss = one_step().item()
    operations = training_flops(model.window_plan(as_mask(mask, config), population), config,
                                n_windows=batch, n_neurons=n_neurons)  # fmt: skip
    row = {
        "s/step": median, "windows/s": batch / median, "TFLOP/step": operations / 1e12,
        "TFLOP/s": operations / median / 1e12, **_share(bench, operations / median),
        "peak_GiB": peak / GIB, "first_step_s": first, **asked,
    }  # fmt: skip
    return row if math.isfinite(loss) else {"status": f"WRONG: loss {loss}", **row}


def _share(bench: Bench, rate: float) -> Row:
    """Share of the matrix rate, where it was measured before."""
    file = bench.folder / "matrix_rate"
    return {"of_floor": rate / float(file.read_text())} if file.exists() else {}


def asked_of_device(device: torch.device, one_step: Callable[[], Any]) -> Row:
    """Kernels and host synchronisations of a step, and the share of its time in which the device computes."""
    if device.type != "cuda":
        return {}
    with synchronisations(device) as waits:
        one_step()
        wait(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        one_step()
        wait(device)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if str(event.device_type).endswith("CUDA") and not getattr(event, "is_user_annotation", False)
    ]
    return {"kernels": len(spans), "synchronisations": len(waits), "busy_while_profiled": busy_share(spans)}


def busy_share(spans: Sequence[tuple[float, float]]) -> float:
    """Share of the time from the first begin to the last end that spans cover; 0 without any."""
    covered, last = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, last))
        last = max(last, end)
    return covered / (last - min(start for start, _ in spans)) if covered else 0.0


def training(bench: Bench) -> Iterator[Case]:
    """`train` with the tiny core: windows cut on the device, and from files."""
    known = "on_device" in {field.name for field in dataclasses.fields(LoaderRecipe)}
    for on_device in (True, False) if known else (None,):
        name = {True: ", corpus on the device", False: ", corpus in files", None: ""}[on_device]
        yield Case(f"tiny, 256 neurons, batch 32{name}", 120, partial(train_steps, bench, on_device))
    if has("compiled"):
        name = "tiny, 256 neurons, batch 32, corpus on the device, compiled"
        yield Case(name, 150, partial(train_steps, bench, True, compile_model=True))


def train_steps(bench: Bench, on_device: bool | None, *, compile_model: bool = False) -> Row:
    """Steps/s of `train` without its first steps, which plan; and how often the host waits."""
    mice, steps = bench.folder / "mice", 3 if bench.quick else 400
    for i in range(2):
        if not (mice / str(i)).exists():
            simulate_recording(mice / str(i), i, n_neurons=16 if bench.quick else 256, animal=f"speed{i}",
                               minutes=1.0 if bench.quick else 5.0)  # fmt: skip
    recipe = {
        "output": str(bench.folder / f"speed-{on_device}-{compile_model}"),
        "recordings": {"paths": [str(mice / "[0-9]")]},
        "batch_size": 2 if bench.quick else 32, "steps": steps, "masks": {"names": list(TRAINED)},
        "model": {"preset": "tiny", "overrides": TOY if bench.quick else {}}, "schedule": {"warmup_steps": 1},
        "evaluation": {"every": None}, "cpu": bench.device.type == "cpu",
        **({"compile_model": compile_model} if has("compiled") else {}),
        "loader": {"workers": 2, **({} if on_device is None else {"on_device": on_device})},
        "outputs": {"checkpoint_every": steps, "keep_every": None, "log_every": max(1, steps // 4), "trackers": []},
    }  # fmt: skip
    begun = time.perf_counter()
    with synchronisations(bench.device) as waits, bench.compiling(compile_model):
        result = train(recipe, progress=False)
    seconds = time.perf_counter() - begun
    last = [row for row in result.history if "steps_per_second" in row][-1]
    rate = last["steps_per_second"] or steps / seconds
    return {"steps/s": rate, "windows/s": recipe["batch_size"] * rate, "first_steps": str(last.get("first_steps")),
            "seconds_in_all": seconds, "synchronisations_per_step": len(waits) / steps}  # fmt: skip


def compilation(bench: Bench) -> Iterator[Case]:
    """What the first step of a mask costs, and steps with compiled chains, as `compile_model=True` computes them."""
    every = TRAINING_MASKS[::40] if bench.quick else TRAINING_MASKS
    yield Case(f"tiny, {len(every)} masks", 60, partial(first_steps, bench, every, compile_blocks=False))
    if not has("compiled"):
        return
    yield Case("compiled chains against eager", 120, partial(compiled, bench))
    for preset in ("tiny",) if bench.quick else ("5m", "80m"):
        for mask in MASKS:
            yield Case(f"{preset}, {mask}, compiled", 120, partial(step, bench, preset, mask, compile_blocks=True))
    yield Case(f"tiny, {len(every)} masks, compiled", 150, partial(first_steps, bench, every, compile_blocks=True))


def first_steps(bench: Bench, masks: Sequence[Mask], *, compile_blocks: bool) -> Row:
    """Seconds of the first pass over all masks, and of the second one; compiled graphs after each."""
    n_neurons, config = 16 if bench.quick else 512, bench.config("tiny")
    model = small_model(config, n_neurons).to(bench.device).train()
    arrays = {n: a.to(bench.device) for n, a in random_windows(config, n_neurons, 1 if bench.quick else 8).items()}
    masks = [scaled(mask, n_neurons / 4096) for mask in masks]
    counters.clear()
    row: Row = {}
    for name in ("first", "second"):
        begun = time.perf_counter()
        for mask in masks:
            with torch.autocast(bench.device.type, dtype=torch.bfloat16), bench.compiling(compile_blocks):
                model(SESSION, **arrays, mask=mask, all_neurons=True).loss.backward()
            model.zero_grad()
        wait(bench.device)
        row[f"{name}_s/mask"] = (time.perf_counter() - begun) / len(masks)
        row[f"graphs_after_{name}"] = counters["stats"]["unique_graphs"]
    return row


def scaled(mask: Mask, factor: float) -> Mask:
    """A mask with its numbers of neurons multiplied, and rounded up."""
    counts = {name: getattr(mask, name) for name in ("n_visible_neurons", "n_target_neurons")}
    return dataclasses.replace(mask, **{n: math.ceil(c * factor) for n, c in counts.items() if isinstance(c, int)})
