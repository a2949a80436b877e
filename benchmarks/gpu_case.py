"""The cases of `gpu.py`: `python gpu_case.py DEVICE FOLDER GROUP,GROUP quick|full LEAVE_OUT`.

Prints a JSON object a line: the cases with the seconds each may take, then a row for each.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attention_case import random_windows, small_model
from gpu_bench import TOY, Bench, Case
from gpu_paths import BF16_ERROR, FLOAT32_ERROR, gradient, paths
from gpu_speed import before, compilation, flex, scaled, speed, training
from meters import Row

from omnimouse import OmniMouseModel, evaluate, finetune, predict, simulate_recording, train
from omnimouse.model.masking.masks import TRAINING_MASKS, Mask
from omnimouse.published import model_from_state_dict
from omnimouse.training.finetuning import loop

REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "data" / "reference"
BLOCK = 20
"""Training masks per row."""

CPU_SECONDS = 45.0
"""For gradients on the CPU, per preset; masks beyond are compared with the device's own float32."""


class Checks(Bench):
    """The groups that tell whether all is right."""

    # The published mathematics.

    def reference(self) -> Iterator[Case]:
        cases = json.loads((REFERENCE / "cases.json").read_text())
        for case in cases["cases"][:: 7 if self.quick else 1]:
            yield Case(case["name"], 30, lambda case=case: self._reference(cases, case))

    def _reference(self, cases: Row, case: Row) -> Row:
        from safetensors.torch import load_file

        sys.path.append(str(REFERENCE.parents[1] / "model"))
        import test_reference

        weights, inputs, outputs = (
            load_file(REFERENCE / f"{name}.safetensors") for name in ("published_state_dict", "inputs", "outputs")
        )
        model = model_from_state_dict(weights, cases["hyperparameters"], cases["sessions"]).to(self.device)
        inputs, outputs = ({k: v.to(self.device) for k, v in part.items()} for part in (inputs, outputs))
        test_reference.test_predictions_losses_and_gradients(model, inputs, outputs, case)
        out = test_reference.run(model, inputs, case)
        return {"loss_error": test_reference.relative(out.loss, outputs[f"{case['name']}.loss"])}

    # Gradients of the training masks.

    def gradients(self, preset: str) -> Iterator[Case]:
        masks = TRAINING_MASKS[::24] if self.quick else TRAINING_MASKS
        spent = [0.0]
        for first in range(0, len(masks), BLOCK):
            part = masks[first : first + BLOCK]
            name = f"{preset}, masks {first} to {first + len(part) - 1}"
            yield Case(name, 60, lambda part=part: self._gradients(preset, part, spent))

    def _gradients(self, preset: str, masks: tuple[Mask, ...], spent: list[float]) -> Row:
        n_neurons = 16 if self.quick else 128  # small, so that a CPU keeps up; masks are those of 4,096, scaled
        config = self.config(preset)
        models = {}
        for place in (self.device, torch.device("cpu")):
            models[place] = small_model(config, n_neurons).to(place)
        arrays = random_windows(config, n_neurons, 1 if self.quick else 2)
        worst, n_cpu, wrong = {"float32": 0.0, "bf16": 0.0}, 0, []
        for mask in (scaled(mask, n_neurons / 4096) for mask in masks):
            place = torch.device("cpu") if spent[0] < CPU_SECONDS else self.device
            n_cpu += place.type == "cpu"
            begun = time.perf_counter()
            with plain_attention_only(place):
                expected = gradient(models[place], arrays, mask)
            spent[0] += time.perf_counter() - begun
            for name in worst:
                found = gradient(models[self.device], arrays, mask, bf16=name == "bf16")
                error = float((found - expected).norm() / expected.norm()) if found.isfinite().all() else math.inf
                worst[name] = max(worst[name], error)
                if not error <= (BF16_ERROR if name == "bf16" else FLOAT32_ERROR):
                    wrong.append(f"{name}: {mask}")
        row = {"neurons": n_neurons, "against_cpu": n_cpu, **{f"{n}_error": e for n, e in worst.items()}}
        return {"status": f"WRONG for {len(wrong)} masks: {wrong[0]}", **row} if wrong else row

    # What users do.

    def workflow(self) -> Iterator[Case]:
        for run in (self.finetune, self.evaluate, self.predict, self.train, self.kill_and_resume):
            yield Case(run.__name__, 120, run)

    def _steps(self, n: int) -> int:
        return max(2, n // 10) if self.quick else n

    def recording(self) -> Path:
        """Folder of a simulated mouse."""
        folder = self.folder / "mouse"
        if not folder.exists():
            simulate_recording(folder, 1, n_neurons=16 if self.quick else 128, minutes=1.0 if self.quick else 4.0)
        return folder

    def core(self) -> OmniMouseModel:
        if self.quick:
            torch.manual_seed(0)
            return OmniMouseModel(self.config("tiny"))
        return OmniMouseModel.from_pretrained("omnimouse-tiny")

    def finetune(self) -> Row:
        result = finetune(self.core(), self.recording(), steps=self._steps(30), device=self.device, progress=False,
                          batch_size=2 if self.quick else 8, max_validation_windows=2)  # fmt: skip
        losses = [row["loss"] for row in result.history]
        return {"first_loss": losses[0], "last_loss": losses[-1], "best_validation": result.best_validation_loss}

    def evaluate(self) -> Row:
        model, scores = self.core(), {}
        model.add_session(self.opened())
        for place in (self.device, torch.device("cpu")):
            found = evaluate(model, self.recording(), "stimulus", max_windows=4, device=place, progress=False)
            scores[place] = found["stimulus"].response_loss
        error = abs(scores[self.device] / scores[torch.device("cpu")] - 1)
        row = {"loss": scores[self.device], "relative_difference_to_cpu": error}
        return row if error < 1e-3 else {"status": "WRONG", **row}

    def opened(self) -> Any:
        from omnimouse import open_recording

        return open_recording(self.recording())

    def predict(self) -> Row:
        model = self.core()
        model.add_session(self.opened())
        found, expected = (
            predict(model, self.recording(), "stimulus", max_windows=4, device=place, progress=False).predictions
            for place in (self.device, "cpu")
        )
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        row = {"relative_difference_to_cpu": error}
        return row if error < 1e-3 else {"status": "WRONG", **row}

    def train(self) -> Row:
        """Half of the steps, and the rest in a second call, which goes on from the first one's checkpoint."""
        self.recording()
        steps = self._steps(30)
        recipe = {
            "output": str(self.folder / "run"), "recordings": {"paths": [str(self.folder / "mouse")]},
            "batch_size": 1 if self.quick else 8, "seed": 3,
            "model": {"preset": "tiny", "overrides": TOY if self.quick else {}},
            "schedule": {"warmup_steps": 1}, "evaluation": {"every": None}, "cpu": self.device.type == "cpu",
            "outputs": {"checkpoint_every": steps // 2, "keep_every": None, "log_every": 1, "trackers": []},
        }  # fmt: skip
        train({**recipe, "steps": steps // 2}, progress=False)
        result = train({**recipe, "steps": steps}, progress=False)
        losses = result.history[-1]["losses"]
        row = {"steps": result.steps, "resumed_from": result.resumed_from, "last_losses": str(losses)}
        known = [loss for loss in losses.values() if loss is not None]  # a step's mask predicts some of it
        finite = bool(known) and all(map(math.isfinite, known))
        return row if finite and result.resumed_from == steps // 2 else {"status": "WRONG", **row}

    def kill_and_resume(self) -> Row:
        """A process that is killed (SIGKILL) between two checkpoints, and the same call again."""
        steps = 4 if self.quick else 20
        if os.environ.get("OMNIMOUSE_DIE_AT"):
            append, last = loop.append_history, int(os.environ["OMNIMOUSE_DIE_AT"])

            def append_or_die(path: Path, row: Row) -> None:
                append(path, row)
                if row["step"] == last:
                    os.kill(os.getpid(), signal.SIGKILL)

            loop.append_history = append_or_die
        else:
            self.recording()
            names = [str(self.device), str(self.folder), "workflow", "quick" if self.quick else "full", "4"]
            environment = {**os.environ, "OMNIMOUSE_DIE_AT": str(steps - 1)}
            killed = subprocess.run([sys.executable, __file__, *names], env=environment, capture_output=True, text=True)
            if killed.returncode != -signal.SIGKILL:
                return {"status": f"FAILED: the first process ended with {killed.returncode}: {killed.stderr[-200:]}"}
        result = finetune(self.core(), self.recording(), steps=steps, checkpoint_every=1 if self.quick else 6,
                          output_dir=self.folder / "killed", device=self.device, progress=False, validation_tier=None,
                          batch_size=2)  # fmt: skip
        row = {"resumed_from": result.resumed_from, "steps": len(result.history)}
        return row if result.resumed_from else {"status": "WRONG: it began anew", **row}


@contextmanager
def plain_attention_only(device: torch.device) -> Iterator[None]:
    """What the device is compared with when the CPU has no time: its own plain kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if device.type == "cpu":
        yield
    else:
        with sdpa_kernel([SDPBackend.MATH]):
            yield


def main() -> None:
    device, folder, groups, size, leave_out = sys.argv[1:]
    bench = Checks(torch.device(device), Path(folder), size == "quick")
    made = {
        "reference": bench.reference,
        "gradients-tiny": lambda: bench.gradients("tiny"),
        "gradients-5m": lambda: bench.gradients("tiny" if bench.quick else "5m"),
        "workflow": bench.workflow,
        **{group.__name__: partial(group, bench) for group in (paths, speed, before, training, compilation, flex)},
    }
    cases = [case for group in groups.split(",") for case in made[group]()]
    print(json.dumps({"cases": [[case.name, case.seconds] for case in cases]}), flush=True)
    for case in cases[int(leave_out) :]:
        begun = time.perf_counter()
        try:
            row = case.run()
        except Exception as error:  # a case that fails is a result; the others go on
            reason = (str(error).strip() or "no message").splitlines()[0]
            row = {"status": f"FAILED: {type(error).__name__}: {reason[:200]}"}
        content = {"case": case.name, "status": "ok", "seconds": time.perf_counter() - begun, **row}
        print(json.dumps(content), flush=True)
        if device.startswith("cuda") and row.get("status", "").startswith("FAILED"):
            os._exit(1)  # after an error the device may serve this process no more; the next one begins afresh


if __name__ == "__main__":
    main()
