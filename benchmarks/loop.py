"""The training loops: steps per second of `train` and `finetune`, and where the time of a step goes.

    python benchmarks/loop.py                  # tiny core, 256 neurons, batch 32; within six minutes on two cores
    python benchmarks/loop.py --device cuda    # the same on a GPU, with more steps: within two minutes
    python benchmarks/loop.py --quick          # toy sizes: does everything work?

Windows are cut from files (`on_device` false) or from recordings held on the device (true), in turns. Rows with the
model `none` have no forward pass: what they take is the loop's own. On a GPU, forward, backward and optimizer are the
time in which they are started; what the device still needs is waited for in `read`. Parts are means over all steps;
steps/s leaves out the first step of each mask and population. The host's share is what is in none of these four.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from floor import floor
from machine import markdown_table
from meters import Row
from running import Parser, conditions, describe_run, report, write_results

from omnimouse import OmniMouseConfig, OmniMouseModel, finetune, open_recording, simulate_recording, train
from omnimouse.support.compute_devices import resolve_device
from omnimouse.training.finetuning import loop as finetune_loop
from omnimouse.training.pretraining import step as pretraining_step
from omnimouse.training.runs.distributed import GradientSum
from omnimouse.training.shared import data

TASKS = ["forecasting+stimulus+behavior", "population", "stimulus+behavior", "behavior"]
PARTS = ("cut", "wait", "forward", "backward", "optimizer", "read")
COLUMNS = ["loop", "model", "on device", "steps/s", "windows/s", *(f"{part} ms" for part in PARTS), "host share",
           "first steps s"]  # fmt: skip


@contextmanager
def timed_parts(with_model: bool) -> Iterator[dict[str, float]]:
    """Seconds spent in the parts of a step, added up; threads `cut`, and what the loop waits for them is `wait`."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[part] += time.perf_counter() - begun

        return call

    def waiting(stream: Any) -> Any:
        def batches(*args: Any, **kwargs: Any) -> Any:
            source = stream(*args, **kwargs)
            following = timed("wait", lambda: next(source, source))
            while (item := following()) is not source:
                yield item

        return batches

    forward = pretraining_step.forward_batch if with_model else without_model
    with (
        mock.patch.object(pretraining_step, "forward_batch", timed("forward", forward)),
        mock.patch.object(finetune_loop, "forward_batch", timed("forward", forward)),
        mock.patch.object(pretraining_step, "cut_batch", timed("cut", data.cut_batch)),
        mock.patch.object(data, "cut_batch", timed("cut", data.cut_batch)),
        mock.patch.object(pretraining_step, "ahead", waiting(data.ahead)),
        mock.patch.object(finetune_loop, "planned_batches", waiting(data.planned_batches)),
        mock.patch.object(torch.Tensor, "backward", timed("backward", torch.Tensor.backward)),
        mock.patch.object(torch.optim.AdamW, "step", timed("optimizer", torch.optim.AdamW.step)),
        mock.patch.object(GradientSum, "read", timed("read", GradientSum.read)),
        mock.patch.object(finetune_loop, "read_numbers", timed("read", finetune_loop.read_numbers)),
    ):
        yield seconds


def without_model(model: OmniMouseModel, accelerator: Any, session: str, *batch: Any) -> tuple[Any, torch.Tensor]:
    """A loss that gives every parameter a gradient, in place of the forward pass."""
    tensors = [tensor for _, tensor in (*model.core_named_parameters(), *model.session_named_parameters(session))]
    loss = 1 + sum(0 * tensor.sum() for tensor in tensors)
    return SimpleNamespace(loss=loss, response_loss=loss.detach(), behavior_loss=None), loss


def train_row(options: Any, folder: Path, output: Path, *, on_device: bool, with_model: bool) -> Row:
    """A pre-training from random weights."""
    recipe = {
        "output": str(output), "recordings": {"paths": [str(folder / "*")]}, "steps": options.steps,
        "batch_size": options.batch, "model": {"preset": "tiny"}, "masks": {"names": TASKS},
        "schedule": {"warmup_steps": 1}, "evaluation": {"every": None}, "cpu": options.device == "cpu",
        "outputs": {"checkpoint_every": options.steps, "keep_every": None, "log_every": options.steps, "trackers": []},
        "loader": {"on_device": on_device},
    }  # fmt: skip
    with timed_parts(with_model) as seconds:
        last = train(recipe, resume=False, progress=False).history[-1]
    rate, first = last["steps_per_second"] or 0.0, last["first_steps"]
    total = first["seconds"] + ((options.steps - first["count"]) / rate if rate else 0.0)
    return row(options, "train", seconds, rate, first["seconds"], total, on_device, with_model)


def finetune_row(options: Any, folder: Path, *, on_device: bool, with_model: bool) -> Row:
    """A fine-tune of one session's tables, the core frozen."""
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny"))
    recording = open_recording(min(folder.iterdir()))
    with timed_parts(with_model) as seconds:
        history = finetune(
            model, recording, steps=options.steps, batch_size=options.batch, masks=TASKS, validation_tier=None,
            on_device=on_device, device=options.device, progress=False,
        ).history  # fmt: skip
    times = [0.0, *(entry["seconds"] for entry in history)]
    spent = {entry["step"]: times[entry["step"]] - times[entry["step"] - 1] for entry in history}
    firsts = {min(e["step"] for e in history if e["mask"] == mask) for mask in {e["mask"] for e in history}}
    first = sum(spent[step] for step in firsts)
    rate = (len(spent) - len(firsts)) / (times[-1] - first) if len(spent) > len(firsts) else 0.0
    return row(options, "finetune", seconds, rate, first, times[-1], on_device, with_model)


def row(
    options: Any,
    name: str,
    seconds: dict[str, float],
    rate: float,
    first: float,
    total: float,
    on_device: bool,
    with_model: bool,
) -> Row:
    parts = {part: seconds[part] / options.steps for part in PARTS}
    computing = sum(seconds[part] for part in ("forward", "backward", "optimizer", "read"))
    return {
        "loop": name, "model": "tiny" if with_model else "none", "on_device": on_device, "steps_per_second": rate,
        "windows_per_second": rate * options.batch, "parts": parts,
        "host_share": 1 - computing / total, "first_seconds": first,
    }  # fmt: skip


def shown(entry: Row) -> list[str]:
    """A row of the table."""
    parts = [f"{1e3 * entry['parts'][part]:.2f}" for part in PARTS]
    return [entry["loop"], entry["model"], str(entry["on_device"]).lower(), f"{entry['steps_per_second']:.1f}",
            f"{entry['windows_per_second']:.0f}", *parts, f"{entry['host_share']:.0%}",
            f"{entry['first_seconds']:.1f}"]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = Parser(
        __doc__,
        {
            "steps": (0, 6, "steps of each run, 0 for 40 on a CPU and 400 on a GPU"),
            "batch": (32, 2, "windows of a step"),
            "neurons": (256, 16, "neurons of each mouse"),
            "mice": (3, 1, "simulated mice"),
            "minutes": (4.0, 1.5, "length of each recording"),
            "turns": (1, 1, "runs of each case, of which the fastest counts"),
        },
    )
    parser.add_argument("--device", default="cpu", help="as for finetune(device=...) (default: cpu)")
    parser.add_argument("--on-device", nargs="+", choices=("false", "true"), default=["false", "true"], help="cases")
    options = parser.options(argv)
    options.device = str(resolve_device(options.device))
    options.steps = options.steps or (40 if options.device == "cpu" else 400)
    lowest, rows = floor(options.device, quick=options.quick), []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "mice"
        for seed in range(1, options.mice + 1):
            simulate_recording(folder / f"mouse{seed}", seed, n_neurons=options.neurons, minutes=options.minutes)
        for truth in folder.glob("*.truth"):
            truth.rename(Path(work) / truth.name)
        for with_model in (False, True):
            for name in ("train", "finetune"):
                found: dict[bool, list[Row]] = {held == "true": [] for held in options.on_device}
                for _ in range(options.turns):
                    for held, entries in found.items():
                        case = {"on_device": held, "with_model": with_model}
                        measured = (
                            train_row(options, folder, Path(work) / "run", **case)
                            if name == "train"
                            else finetune_row(options, folder, **case)
                        )
                        entries.append(measured)
                for entries in found.values():
                    rows.append(max(entries, key=lambda entry: entry["steps_per_second"]))
                    print(" | ".join(shown(rows[-1])), flush=True)
    run = describe_run(lowest, device=options.device, steps=options.steps, batch=options.batch, mice=options.mice,
                       neurons=options.neurons, minutes=options.minutes)  # fmt: skip
    text = report("The training loops", "loop.py", conditions(run), markdown_table(COLUMNS, list(map(shown, rows)), 3))
    print(text)
    kind = options.device.partition(":")[0]
    write_results(options.output, f"loop-{kind}", text, {"run": run, "rows": rows})


if __name__ == "__main__":
    main()
