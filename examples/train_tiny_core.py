"""Trains the core that ships with the package, `omnimouse-tiny`, on simulated mice.

    python examples/train_tiny_core.py --work tiny-core --minutes 60

A plain loop, to be read from top to bottom: simulate mice, draw one of them at each step with some of its windows and
one mask, step the core and that mouse's tables. It can be stopped and started again; the learning rate is constant but
for a warm-up, and the last fifth of the time budget decays it to zero. The core goes to `<work>/omnimouse-tiny`.

Where a mask hides all responses, targets are not the recorded responses but what the simulator expects of them given
stimulus and behaviour. Both have the same conditional mean, so the optimum is the same; the gradient is less noisy.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from omnimouse import Mask, OmniMouseConfig, OmniMouseModel
from omnimouse.masks import as_mask
from omnimouse.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import Windows, open_recording
from omnimouse.recordings.simulated import load_truth, simulate_recording
from omnimouse.training.initialization import open_stimulus_path

N_MICE, N_NEURONS, MINUTES, FIRST_SEED = 4, 256, 20, 100
BATCH, WARM_UP, CORE_RATE, SESSION_RATE = 4, 150, 1.5e-3, 8e-3

# Weight of each mask, before and after 70 % of the time budget. Stimulus-heavy at first: how the stimulus drives
# neurons takes longest to learn; then also how activity goes on.
TASK_WEIGHTS = {
    "stimulus+behavior": (3.0, 3.0),
    "stimulus": (2.0, 1.0),
    "population+stimulus+behavior": (1.0, 1.5),
    "population": (0.7, 1.0),
    "population+behavior": (0.3, 0.5),
    "forecasting": (0.7, 2.0),
    "forecasting+behavior": (0.3, 1.5),
    "forecasting+stimulus+behavior": (1.0, 2.0),
    "forecasting+stimulus": (0.3, 0.5),
    "behavior": (0.4, 0.5),
    "behavior+stimulus": (0.2, 0.2),
}
LATE_STIMULUS = Mask(0, 0, 0, 0, 0, 0, None, 30, 30, 20, 40, "encoded")  # cheaper: two thirds of the frames
MASKS = [as_mask(name) for name in TASK_WEIGHTS] + [LATE_STIMULUS]
WEIGHTS = np.array([*TASK_WEIGHTS.values(), (2.0, 1.5)]).T


def build_model() -> OmniMouseModel:
    """A `tiny` model whose stimulus path is open from the start."""
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset("tiny"))
    open_stimulus_path(model)
    return model


@dataclass
class Mouse:
    """Windows of one mouse, and its expected responses `[T, N]` in stored units with the factor to the model's."""

    windows: Windows
    expected: np.ndarray
    scale: np.ndarray

    def batch(self, indices: list[int], *, expected: bool) -> dict[str, torch.Tensor]:
        batch = self.windows.batch(indices)
        if expected:
            rows = np.stack([self.windows.response_indices(i) for i in indices])
            batch["responses"] = torch.from_numpy(self.expected[rows] * self.scale)
        return batch


def add_mice(model: OmniMouseModel, folder: Path) -> list[Mouse]:
    """Simulates the mice that are not there yet and adds them, with random vectors, to the model."""
    mice = []
    for i in range(N_MICE):
        path = folder / f"mouse-{i}"
        if not path.exists():
            simulate_recording(path, FIRST_SEED + i, n_neurons=N_NEURONS, minutes=MINUTES, animal=f"core{i:02d}")
        recording = open_recording(path)
        key = model.add_session(recording, processor=model.processor)
        for name, parameter in model.session_named_parameters(key):
            if not name.endswith("neuron_bias"):
                torch.nn.init.trunc_normal_(parameter, std=parameter.shape[-1] ** -0.5)
        stds = model.processor.floored_response_stds(recording.statistics(recording.responses)[1])
        mice.append(
            Mouse(
                windows=Windows(recording, ["train"], processor=model.processor),
                expected=load_truth(path).given_stimulus_and_behavior,
                scale=(1 / np.ravel(stds)).astype(np.float32),
            )
        )
    return mice


def scale_of_learning_rate(step: int, elapsed: float, budget: float) -> float:
    """Warm-up over steps, then constant, then linear to zero over the last fifth of the time budget."""
    return min(1.0, step / WARM_UP, max(0.0, (budget - elapsed) / (0.2 * budget)))


def train(model: OmniMouseModel, mice: list[Mouse], work: Path, budget: float) -> None:
    """Trains until the time budget is spent, over all sittings."""
    core = dict(model.core_named_parameters())
    tables = dict(model.session_named_parameters())
    settings = {"betas": (0.9, 0.98), "eps": 1e-6}
    optimizers = [
        (torch.optim.AdamW(core.values(), lr=CORE_RATE, weight_decay=0.1, **settings), core, CORE_RATE),
        (torch.optim.AdamW(tables.values(), lr=SESSION_RATE, weight_decay=1e-3, **settings), tables, SESSION_RATE),
    ]
    step, elapsed = load_checkpoint(work, model, optimizers)
    log = (work / "log.jsonl").open("a")
    losses: dict[str, list[float]] = {}
    saved = elapsed
    while elapsed < budget:
        start = time.perf_counter()
        step += 1
        rng = np.random.default_rng((17, step))
        torch.manual_seed(step)
        for optimizer, _, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale_of_learning_rate(step, elapsed, budget)
        mouse = mice[rng.integers(len(mice))]
        weights = WEIGHTS[int(elapsed > 0.7 * budget)]
        mask = MASKS[rng.choice(len(MASKS), p=weights / weights.sum())]
        indices = [int(i) for i in rng.integers(len(mouse.windows), size=BATCH)]
        batch = mouse.batch(indices, expected=mask.prefix_length == 0)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(mouse.windows.recording.session_key, **batch, mask=mask)
        out.loss.backward()
        for optimizer, parameters, _ in optimizers:
            torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        for name in ("response_loss", "behavior_loss"):
            if (loss := getattr(out, name)) is not None:
                kind = "video" if mask.n_frames else "no_video"
                losses.setdefault(f"{name}/{kind}", []).append(float(loss.detach()))
        elapsed += time.perf_counter() - start
        if step % 100 == 0:
            row = {"step": step, "minutes": elapsed / 60, **{k: float(np.mean(v)) for k, v in sorted(losses.items())}}
            print(json.dumps(row), file=log, flush=True)
            losses.clear()
        if elapsed - saved > 300 or elapsed >= budget:
            save_checkpoint(work, model, optimizers, step, elapsed)
            saved = elapsed


def save_checkpoint(work: Path, model: OmniMouseModel, optimizers: list, step: int, elapsed: float) -> None:
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    for optimizer, parameters, _ in optimizers:
        for name, parameter in parameters.items():
            for key, value in optimizer.state[parameter].items():
                tensors[f"adam/{key}/{name}"] = value
    tensors["progress"] = torch.tensor([step, elapsed], dtype=torch.float64)
    save_file(tensors, work / "checkpoint.new")
    (work / "checkpoint.new").replace(work / "checkpoint.safetensors")


def load_checkpoint(work: Path, model: OmniMouseModel, optimizers: list) -> tuple[int, float]:
    path = work / "checkpoint.safetensors"
    if not path.exists():
        return 0, 0.0
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    for optimizer, parameters, _ in optimizers:
        for name, parameter in parameters.items():
            if f"adam/step/{name}" in tensors:
                optimizer.state[parameter] = {
                    key: tensors[f"adam/{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
                }
    step, elapsed = tensors["progress"].tolist()
    return int(step), elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("tiny-core"), help="folder for mice, checkpoint and log")
    parser.add_argument("--minutes", type=float, default=60, help="time budget of training, over all sittings")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = build_model().train()
    model.processor = OmniMouseProcessor(profile="strict")
    mice = add_mice(model, arguments.work)
    train(model, mice, arguments.work, 60 * arguments.minutes)
    model.update_initial_vectors()
    model.eval().to(torch.bfloat16).save_pretrained(arguments.work / "omnimouse-tiny")


if __name__ == "__main__":
    main()
