"""The demonstration: a mouse the core has never seen, from its recording to a scored session adapter and a report.

It calls the same public functions that serve a recording of one's own, in the same order.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from omnimouse.cli.model_options import DemoSettings
from omnimouse.cli.output import hint
from omnimouse.evaluation import Scores, evaluate, predict, write_report
from omnimouse.pretrained.omnimouse_model import OmniMouseModel
from omnimouse.recordings import Recording, open_recording
from omnimouse.recordings.simulation.simulated import simulate_recording
from omnimouse.support.compute_devices import Device, resolve_device
from omnimouse.support.files import write_json
from omnimouse.support.progress import PartClock, say
from omnimouse.training import FinetuneResult, finetune

CORE = "omnimouse-tiny"

ANIMAL = "demo"
"""Animal of the simulated recording; no recording that the shipped core was trained on has this one."""

TASKS = (
    "forecasting+stimulus+behavior",
    "population",
    "population+stimulus+behavior",
    "stimulus+behavior",
    "behavior",
)
"""Tasks that the demonstration trains on and scores: each modality is shown and predicted at least once. Forecasting
from responses alone is not among them: the shipped core is too small for it (its card gives the figures)."""

SESSION_LEARNING_RATE = 3e-2
"""Higher than in the release, where a session is trained for a million steps and not for minutes."""

VALIDATIONS = 5
"""How often the training looks which weights are best; at a rate that decays, the last ones are as a rule."""

TRACE_TASKS = ("stimulus+behavior", "forecasting+stimulus+behavior")
"""Tasks whose predicted traces are drawn in the report."""

TRACE_WINDOWS = 40
"""Windows predicted for the traces."""

MARKER = "demo.json"
"""File by which a folder is known to be a demonstration's; it holds the settings."""

PARTS = ("recording", "recording.truth", "finetune", "adapter", "scores.json", "report.html", MARKER)
"""What the demonstration writes, and all it ever deletes."""


@dataclass(frozen=True)
class DemoResult:
    """What a demonstration leaves."""

    scores: Scores  # held-out scores of the session adapter
    recording: Path  # folder of the simulated recording
    adapter: Path  # folder of the session adapter
    report: Path  # the HTML file
    clock: PartClock  # where the time went


def run_demo(
    output: str | os.PathLike[str] = "omnimouse-demo",
    *,
    settings: DemoSettings | None = None,
    force: bool = False,
    device: Device = None,
) -> DemoResult:
    """Simulate a mouse, adapt the shipped core to it, score it on held-out trials and write a report.

    A run that was interrupted is resumed, and a finished one repeated without training again.

    Args:
        output: folder for everything; new, empty, or of an earlier demonstration with the same settings.
        settings: the mouse and the training.
        force: start anew in the folder of an earlier demonstration, whatever its settings.
        device: where to train and score, as for `finetune`.

    Raises:
        ValueError: the folder holds something else, or a demonstration with other settings; a device that is not
            there.
        ImportError: matplotlib, which draws the report, is missing.
    """
    device = resolve_device(device)
    _require_matplotlib()
    settings = settings or DemoSettings()
    folder, clock = Path(output), PartClock()
    claim_folder(folder, settings, force=force)
    with clock.part("simulation"):
        recording = _simulated(folder / "recording", settings)

    say(f"2/4  Training a session adapter for {recording.session_key} on the frozen core {CORE}")
    with clock.part("loading"):
        model = OmniMouseModel.from_pretrained(CORE, sessions="all")
    result = finetune(
        model,
        recording,
        output_dir=folder / "finetune",
        steps=settings.steps,
        session_learning_rate=SESSION_LEARNING_RATE,
        masks=TASKS,
        validate_every=max(1, settings.steps // VALIDATIONS),
        seed=settings.seed,
        resume=True,
        device=device,
    )
    clock.seconds |= result.parts
    model.save_session(recording.session_key, folder / "adapter")

    say("3/4  Scoring it on trials it has not seen")
    with clock.part("scoring"):
        scores = evaluate(model, recording, tasks=TASKS, tier="final_test")
        scores.save(folder / "scores.json")
    with clock.part("report"):
        report = _report(folder / "report.html", settings, model, recording, result, scores)
    return DemoResult(scores, folder / "recording", folder / "adapter", report, clock)


def _simulated(folder: Path, settings: DemoSettings) -> Recording:
    if not folder.exists():
        say(f"1/4  Simulating a mouse: {settings.n_neurons} neurons, {settings.minutes:g} minutes")
        simulate_recording(
            folder,
            seed=settings.seed,
            n_neurons=settings.n_neurons,
            minutes=settings.minutes,
            animal=ANIMAL,
            progress=True,
        )
    return open_recording(folder)


def _report(
    path: Path,
    settings: DemoSettings,
    model: OmniMouseModel,
    recording: Recording,
    result: FinetuneResult,
    scores: Scores,
) -> Path:
    say("4/4  Writing the report")
    predictions = [predict(model, recording, t, max_windows=TRACE_WINDOWS, progress=False) for t in TRACE_TASKS]
    return write_report(
        path,
        title="OmniMouse demo: a new mouse",
        introduction=(
            f"The core {CORE} had never seen this simulated mouse. With the core frozen, {settings.steps} training "
            f"steps ({result.seconds:.0f} s) gave it a session adapter, scored here on held-out trials."
        ),
        scores=scores,
        history=result.history,
        predictions=predictions,
        settings={"core": CORE, **vars(settings)},
    )


def claim_folder(folder: Path, settings: DemoSettings, *, force: bool) -> None:
    """Make `folder` this demonstration's, without ever touching what is not one's own.

    Raises:
        ValueError: it holds something else, or a demonstration with other settings and `force` is not set.
    """
    marker, wanted = folder / MARKER, dict(vars(settings))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected a folder; choose another output")
    if folder.is_dir() and any(folder.iterdir()):
        if not marker.is_file():
            raise ValueError(f"{folder} is not empty and no demonstration wrote it; choose another output")
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        # One that failed before it wrote anything, say for a setting out of range, is no obstacle.
        begun = any((folder / part).exists() for part in PARTS if part != MARKER)
        if begun and found != wanted and not force:
            raise ValueError(
                f"{folder} holds a demonstration with {found}, asked for {wanted}; pass --force (force=True) to "
                "replace it, or choose another output"
            )
        if force:
            for part in PARTS:
                path = folder / part
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, wanted)


def next_steps(result: DemoResult) -> str:
    """What to do next, with this mouse and with one's own data, as text for a terminal."""
    adapter = ("--session-adapter", result.adapter)
    return f"""\
Report:          {result.report}
Session adapter: {result.adapter}
Recording:       {result.recording}
Time:            {result.clock.sentence()}

Try on this mouse:
  {hint("check", result.recording)}
  {hint("predict", result.recording, *adapter, "--task", "stimulus", "--output", "predictions.npz")}

With a recording of your own (a session folder as experanto writes it):
  {hint("check", "YOUR-RECORDING")}
  {hint("finetune", "YOUR-RECORDING", "--output", "my-mouse")}
  {hint("evaluate", "YOUR-RECORDING", "--session-adapter", "my-mouse/adapter")}"""


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401 (asked for now, so that nobody waits minutes for the error)
    except ImportError as error:
        raise ImportError('the report needs matplotlib; install it with: pip install "omnimouse[viz]"') from error
