"""What adaptation costs: a training step of a session adapter on a frozen core, in forward passes.

    python benchmarks/adapter_step.py            # writes results/adapter-step.md, within five minutes on two cores
    python benchmarks/adapter_step.py --quick    # toy sizes: does everything work?

A step is forward, backward, clipping and optimizer, as `finetune` does them; a forward pass is what predicts the same
mask without gradients. Video is encoded in both, or read from the cache of `cache_video=True`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from floor import Floor, floor
from machine import markdown_table
from meters import Row, timed
from running import Parser, conditions, describe_run, report, write_results

from omnimouse import OmniMouseConfig, OmniMouseModel
from omnimouse.evaluation.encoded_video.feature_files import FeatureFiles
from omnimouse.evaluation.encoded_video.stored_video import StoredVideo
from omnimouse.model.masking.masks import as_mask
from omnimouse.training.finetuning.finetune_recipe import FinetuneRecipe
from omnimouse.training.finetuning.parameters import build_optimizers
from omnimouse.training.runs.flops import adapter_flops, forward_flops, identity_flops
from omnimouse.training.shared.accelerators import OneDevice, computes_in_bfloat16
from omnimouse.training.shared.forward import forward_batch, only_trainable

KEY = "a-1-1"
TASKS = ["forecasting+stimulus+behavior", "population+stimulus+behavior", "stimulus+behavior", "population", "behavior"]
NEURONS = {"tiny": 128, "5m": 4096}
COLUMNS = ["core", "task", "forward s", "step s", "step / forward", "counted", "cached step s", "encode s", "read s",
           "share of floor"]  # fmt: skip


class Bench:
    """A core with one session, and random windows of it."""

    def __init__(self, preset: str, neurons: int, windows: int, folder: Path):
        torch.manual_seed(0)
        self.model = OmniMouseModel(OmniMouseConfig.from_preset(preset))
        self.model.add_session(KEY, n_neurons=neurons, animal_id="a")
        self.model.eval()
        device, config = torch.device("cpu"), self.model.config
        self.on = OneDevice(device, "bf16" if computes_in_bfloat16(device) else "no")
        self.preset, self.neurons, self.windows = preset, neurons, windows
        self.batch = {
            "responses": torch.rand(windows, config.num_response_samples, neurons),
            "video": torch.randn(windows, 1, config.num_frames, config.frame_height, config.frame_width),
            "behavior": torch.randn(windows, len(config.behavior_channels), config.num_behavior_samples),
        }
        self.ids = torch.stack([torch.randperm(neurons) for _ in range(windows)]).numpy()
        self.groups = build_optimizers(self.model, FinetuneRecipe(steps=10), KEY)
        self.stored = StoredVideo(self.model, preset, FeatureFiles(folder))

    def row(self, task: str, repeats: int, lowest: Floor) -> Row:
        """Least times of a task, of calls in turns; each is called once before."""
        mask = as_mask(task, self.model.config)
        ways = {"forward": lambda: self.forward(mask), "step": lambda: self.step(mask, self.batch)}
        if mask.shows_video:
            features = self.encode(mask)
            cached = {name: array for name, array in self.batch.items() if name != "video"}
            cached["video_features"] = features
            self.read(mask)
            ways |= {"cached": lambda: self.step(mask, cached), "encode": lambda: self.encode(mask)}
            ways |= {"read": lambda: self.read(mask)}
            assert torch.equal(features, self.read(mask))
        turns = [{name: timed(way, 1, self.on.device)[0] for name, way in ways.items()} for _ in range(repeats + 1)]
        seconds = {name: min(turn[name] for turn in turns[1:]) for name in ways}
        plan, config = self.model.window_plan(mask, self.neurons), self.model.config
        sizes = {"n_windows": self.windows, "n_neurons": self.neurons}
        forward = self.windows * forward_flops(plan, config) + identity_flops(self.neurons, config)
        step = adapter_flops(plan, config, **sizes)
        precision = "bfloat16" if self.on.mixed_precision == "bf16" else "float32"
        share = lowest.share(operations=step, seconds=seconds["step"], precision=precision)
        return {
            "core": self.preset,
            "task": task,
            **seconds,
            "forward_flops": forward,
            "step_flops": step,
            "share": share,
        }

    def forward(self, mask) -> None:
        with torch.no_grad():
            forward_batch(self.model, self.on, KEY, self.batch, mask, self.ids)

    def step(self, mask, batch) -> None:
        _, loss = forward_batch(self.model, self.on, KEY, batch, mask, self.ids)
        self.on.backward(loss)
        for group in self.groups.values():
            self.on.clip_grad_norm_(group.parameters.values(), group.recipe.max_grad_norm)
            group.optimizer.step()
            group.optimizer.zero_grad(set_to_none=True)

    def encode(self, mask) -> torch.Tensor:
        with torch.no_grad(), self.on.autocast():
            return self.model.encode_video(self.batch["video"], mask)

    def read(self, mask) -> torch.Tensor:
        with self.on.autocast():
            return self.stored.encode(self.batch["video"], mask)


def shown(row: Row) -> list[str]:
    """A row of the table."""
    times = [f"{row[name]:.3g}" if name in row else "-" for name in ("cached", "encode", "read")]
    counted = f"{row['step_flops'] / row['forward_flops']:.2f}"
    return [row["core"], row["task"], f"{row['forward']:.3g}", f"{row['step']:.3g}",
            f"{row['step'] / row['forward']:.2f}", counted, *times, f"{row['share']:.0%}"]  # fmt: skip


def mean_row(rows: list[Row]) -> Row:
    """All tasks of a core together, each as often as the others; what shows no video is its own cached step."""
    total = {name: sum(row[name] for row in rows) / len(rows) for name in ("forward", "step")}
    total |= {name: sum(row[name] for row in rows) for name in ("forward_flops", "step_flops")}
    cached = sum(row.get("cached", row["step"]) for row in rows) / len(rows)
    share = sum(row["share"] * row["step"] for row in rows) / sum(row["step"] for row in rows)
    return {"core": rows[0]["core"], "task": "mean", **total, "cached": cached, "share": share}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(
        __doc__,
        {
            "presets": (["tiny", "5m"], ["tiny"], "cores"),
            "neurons": (0, 80, "neurons of the session, 0 for 128 (tiny) and 4096"),
            "windows": (0, 1, "windows of a step, 0 for 8 (tiny) and 1"),
            "repeats": (2, 1, "steps that are timed, of which the best counts"),
        },
    )
    options = parser.options(argv)
    lowest = floor(quick=options.quick)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets:
            neurons = options.neurons or NEURONS.get(preset, 4096)
            bench = Bench(preset, neurons, options.windows or (8 if preset == "tiny" else 1), Path(folder))
            with only_trainable(bench.model, bench.groups):
                for task in TASKS:
                    rows.append(bench.row(task, options.repeats, lowest))
                    print(" | ".join(shown(rows[-1])), flush=True)
            rows.append(mean_row(rows[-len(TASKS) :]))
            print(" | ".join(shown(rows[-1])), flush=True)
    run = describe_run(lowest, precision=bench.on.mixed_precision)
    text = report(
        "What adaptation costs", "adapter_step.py", conditions(run), markdown_table(COLUMNS, list(map(shown, rows)), 2)
    )
    print(text)
    write_results(options.output, "adapter-step", text, {"run": run, "rows": rows})


if __name__ == "__main__":
    main()
