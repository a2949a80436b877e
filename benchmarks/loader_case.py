"""One case of `loader.py`, in a process of its own: prints what it measured as JSON.

python benchmarks/loader_case.py '{"do": "loader", "recordings": ["FOLDER"], "workers": 2, ...}'
"""

from __future__ import annotations

import copy
import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from meters import answer, memory

TINY = {
    "hidden_size": 32, "num_attention_heads": 1, "num_latents": 8, "num_fusion_layers": 1, "num_local_layers": 1,
    "identity_size": 8, "video_hidden_size": 16, "video_num_heads": 1, "video_depths": [1, 1],
}  # fmt: skip
"""Fields of the `tiny` preset that differ in the model whose memory is watched over many steps."""


def bytes_from_disk() -> int:
    """What this process had the disk read so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split(":")[1] for line in lines if line.startswith("read_bytes")))


def files_of(folders: Iterable[str]) -> list[Path]:
    return sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file())


def drop_cache(files: Iterable[Path]) -> None:
    """Drops files from the page cache, but for pages that a process has mapped."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read_through(files: Iterable[Path]) -> float:
    """Reads files from start to end, so that they are in the page cache, and returns the seconds it took."""
    buffer, start = bytearray(4 << 20), time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as source:
            while source.readinto(buffer):
                pass
    return time.perf_counter() - start


def cached_share(files: Iterable[Path]) -> float:
    """Share of the bytes of files that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    cached = pages = 0
    for path in files:
        if not path.stat().st_size:
            continue
        with path.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, dtype=np.uint8)
            flags = np.zeros(-(-len(view) // mmap.PAGESIZE), dtype=np.uint8)
            addresses = (ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(view)))
            if libc.mincore(*addresses, ctypes.c_void_p(flags.ctypes.data)):
                raise OSError(ctypes.get_errno(), "mincore failed", str(path))
            del view
        cached, pages = cached + int((flags & 1).sum()), pages + len(flags)
    return cached / max(1, pages)


def prepare(case: dict[str, Any], steps: int, *, fresh: bool) -> Any:
    """A run as `omnimouse.train` sets it up."""
    from omnimouse.training.pretraining.pretraining_recipe import load_recipe
    from omnimouse.training.pretraining.setup import PretrainingRun
    from omnimouse.training.runs.run_folder import RunFolder
    from omnimouse.training.shared.accelerators import start_accelerator

    recipe = load_recipe(
        {
            "output": str(Path(tempfile.gettempdir()) / "loader-benchmark-writes-nothing"),
            "recordings": {"paths": case["recordings"]},
            "model": {"preset": case["preset"], "overrides": case.get("overrides", {})},
            "masks": {"names": case["masks"]},
            "steps": steps,
            "batch_size": case["batch_size"],
            "schedule": {"warmup_steps": 0},
            "evaluation": {"every": None},
            "loader": {"workers": case["workers"], "open_recordings": case["open_recordings"]},
            "cpu": case.get("device", "cpu") == "cpu",
        }
    )
    accelerator = start_accelerator(recipe.mixed_precision, cpu=recipe.cpu)

    def rate(peak: float, step: int) -> float:
        return recipe.schedule.learning_rate(peak, step, recipe.steps)

    return PretrainingRun(recipe, RunFolder(Path(recipe.output)), accelerator, fresh=fresh, rate=rate, last=steps)


def stream(run: Any, first: int, last: int) -> Iterator[Any]:
    """Batches of the steps from `first` to before `last`, as `train` gets them."""
    from omnimouse.training.pretraining.step import StepBatch, load_steps

    run = copy.copy(run)
    run.last = last
    for batch in load_steps(run, first):
        if not isinstance(batch, StepBatch):
            raise RuntimeError(f"no batch: {batch}")
        yield batch


def measure_reading(batches: Iterable[Any], n_windows: int) -> dict[str, float]:
    """Goes through batches and does nothing with them."""
    disk, start, n_bytes = bytes_from_disk(), time.perf_counter(), 0
    for batch in batches:
        arrays = batch.arrays.values() if hasattr(batch, "arrays") else [batch]
        n_bytes += sum(array.nbytes for array in arrays)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "windows_per_second": n_windows / seconds,
        "bytes_per_window": n_bytes / n_windows,
        "disk_bytes_per_window": (bytes_from_disk() - disk) / n_windows,
    }


def loader(case: dict[str, Any]) -> dict[str, Any]:
    """The loader alone: cold, then warm, on other windows."""
    cold, warm, size = case["cold_steps"], case["warm_steps"], case["batch_size"]
    run, files = prepare(case, cold + warm, fresh=False), files_of(case["recordings"])
    drop_cache(files)
    result: dict[str, Any] = {"cached_before_cold": cached_share(files)}
    result["cold"] = measure_reading(stream(run, 0, cold), cold * size)
    read_through(files)
    result["cached_before_warm"] = cached_share(files)
    result["warm"] = measure_reading(stream(run, cold, cold + warm), warm * size)
    return {
        **result,
        "memory": memory(),
        "needs": sorted({n for of in run.masks.needs.values() for names in of.values() for n in names}),
    }


def bare(case: dict[str, Any]) -> dict[str, Any]:
    """The response rows of the same windows, from memory maps or files; and a plain read of all files."""
    from omnimouse.training.pretraining import step as pretraining_step

    cold, warm, size = case["cold_steps"], case["warm_steps"], case["batch_size"]
    run, files = prepare(case, cold + warm, fresh=False), files_of(case["recordings"])
    # All that a step does but cutting: choosing session, windows, mask and neurons.
    cut, pretraining_step.cut_batch = pretraining_step.cut_batch, lambda *_, **__: {}
    run.recipe = replace(run.recipe, loader=replace(run.recipe.loader, workers=0))
    start = time.perf_counter()
    plans = [batch.plan for batch in stream(run, 0, cold + warm)]
    planning = time.perf_counter() - start
    pretraining_step.cut_batch = cut

    places: list[tuple[str, list[tuple[int, int]]]] = []
    for plan in plans:
        with run.recordings.lend(plan.session) as windows:
            rows = [windows.response_indices(int(index)) for index in plan.window_indices]
        places.append((plan.session, [(int(row[0]), int(row[-1]) + 1) for row in rows]))
    maps = {key: np.load(info.path / "responses" / "data.npy", mmap_mode="r") for key, info in run.owned.items()}
    handles = {key: os.open(array.filename, os.O_RDONLY) for key, array in maps.items()}

    def read(steps: list[tuple[str, list[tuple[int, int]]]]) -> Iterator[np.ndarray]:
        for key, spans in steps:
            if case["mapped"]:
                yield np.stack([maps[key][low:high] for low, high in spans])
                continue
            out = np.empty((len(spans), spans[0][1] - spans[0][0], *maps[key].shape[1:]), maps[key].dtype)
            for place, (low, _) in zip(out, spans, strict=True):
                if os.preadv(handles[key], [place], maps[key].offset + low * maps[key].strides[0]) != place.nbytes:
                    raise OSError(f"{maps[key].filename}: a short read")
            yield out

    drop_cache(files)
    seconds = read_through(files)
    drop_cache(files)
    result: dict[str, Any] = {"cached_before_cold": cached_share(files)}
    result["cold"] = measure_reading(read(places[:cold]), cold * size)
    read_through(files)
    result["cached_before_warm"] = cached_share(files)
    result["warm"] = measure_reading(read(places[cold:]), warm * size)
    total = sum(path.stat().st_size for path in files)
    return {
        **result,
        "planning_windows_per_second": len(plans) * size / planning,
        "read_through_bytes_per_second": total / seconds,
        "bytes": total,
    }


def model(case: dict[str, Any]) -> dict[str, Any]:
    """Training steps, each with its wait for the loader; the first one is left out of the medians."""
    import torch

    from omnimouse.training.pretraining.step import pretraining_step
    from omnimouse.training.runs.flops import training_flops

    start = time.perf_counter()
    run = prepare(case, case["steps"], fresh=True)
    preparation = time.perf_counter() - start
    waits, seconds = [], []
    batches, cuda = stream(run, 0, case["steps"]), run.accelerator.device.type == "cuda"
    for step in range(case["steps"]):
        start = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - start)
        pretraining_step(run, step, batch, wants_to_stop=False)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start - waits[-1])
    plan = batch.plan
    layout = run.model.window_plan(run.masks.usable[plan.session][plan.mask_index], plan.neuron_ids.shape[1])
    sizes = {"n_windows": case["batch_size"], "n_neurons": run.owned[plan.session].n_neurons}
    return {
        "operations": training_flops(layout, run.model.config, **sizes),
        "preparation_seconds": preparation,
        "step_seconds": seconds,
        "wait_seconds": waits,
        "seconds": float(np.median(seconds[1:] or seconds)),
        "wait": float(np.median(waits[1:] or waits)),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "precision": run.accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "population": batch.plan.neuron_ids.shape[1],
        "memory": memory(),
    }


class Samples:
    """Resident memory after the first step and after every so many.

    Args:
        every: steps between samples.
    """

    def __init__(self, every: int) -> None:
        self.every, self.rows, self.start = every, [], time.perf_counter()
        self.before = memory()

    def note(self, step: int) -> None:
        """Takes step `step`, from 1, to be done."""
        if step == 1 or step % self.every == 0:
            self.rows.append({"step": step, "seconds": time.perf_counter() - self.start, **memory()})

    def result(self) -> dict[str, Any]:
        return {"before": self.before, "samples": self.rows}


def loader_memory(case: dict[str, Any]) -> dict[str, Any]:
    """Many steps of the loader alone."""
    run = prepare(case, case["steps"], fresh=False)
    samples = Samples(case["every"])
    for step, _ in enumerate(stream(run, 0, case["steps"]), start=1):
        samples.note(step)
    return {**samples.result(), "open": run.recordings.n_open}


def train_memory(case: dict[str, Any]) -> dict[str, Any]:
    """Many steps of `omnimouse.train`, with its checkpoints, evaluations and history."""
    import omnimouse
    from omnimouse.training.pretraining import train as pretraining

    step_of_package, samples = pretraining.pretraining_step, Samples(case["every"])

    def counted(run: Any, step: int, *arguments: Any, **options: Any) -> Any:
        result = step_of_package(run, step, *arguments, **options)
        samples.note(step + 1)
        return result

    pretraining.pretraining_step = counted
    steps = case["steps"]
    with tempfile.TemporaryDirectory(dir=case["work"]) as output:
        omnimouse.train(
            {
                "output": output,
                "recordings": {"paths": case["recordings"]},
                "model": {"preset": "tiny", "overrides": TINY},
                "masks": {"names": case["masks"]},
                "steps": steps,
                "batch_size": case["batch_size"],
                "schedule": {"warmup_steps": steps // 10},
                "evaluation": {"every": max(1, steps // 5), "masks": case["masks"], "max_windows": 4},
                "outputs": {"checkpoint_every": max(1, steps // 10), "keep_every": None, "trackers": []},
                "loader": {"workers": case["workers"], "open_recordings": case["open_recordings"]},
                "cpu": True,
            },
            progress=False,
        )
    return samples.result()


if __name__ == "__main__":
    answer(loader, bare, model, loader_memory, train_memory)
