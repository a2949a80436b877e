"""Scoring and predicting responses to single images (SENSORIUM 2022): `evaluate_static`, `write_static_submission`.

The model sees an image held still for a window, with the behaviour of the trial, and none of the responses. Its
prediction of the one number per neuron that was recorded is the mean of the responses it predicts over the target
samples of the task.

Shape letters: K trials, N neurons.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from omnimouse.evaluation.computing.precision import NOTE, Precision
from omnimouse.evaluation.evaluate import select_tasks
from omnimouse.evaluation.inputs import Inputs, Needs, Task, as_recording, cut_windows, evaluating, prepare_inputs
from omnimouse.evaluation.static.static_scores import StaticScores, score
from omnimouse.evaluation.tiers import STATIC_TIERS
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import is_static
from omnimouse.support.compute_devices import Device, resolve_device
from omnimouse.support.files import atomic_path
from omnimouse.support.outputs import check_output

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
    from omnimouse.recordings import Recording, Trial

STATIC_TASKS = ("stimulus+behavior", "stimulus")
"""Tasks that predict the response to an image from nothing that was recorded of it."""

SUBMISSION_COLUMNS = ("trial_indices", "image_ids", "prediction", "neuron_ids")


def evaluate_static(
    model: OmniMouseNetwork,
    recording: Recording | str | os.PathLike[str],
    tier: str | None = None,
    *,
    task: str = "stimulus+behavior",
    processor: OmniMouseProcessor | None = None,
    batch_size: int = 8,
    progress: bool = True,
    session: str | None = None,
    device: Device = None,
    precision: Precision = "auto",
) -> StaticScores:
    """Scores a model on single images, by the metrics of the SENSORIUM 2022 competition.

    Responses are divided by their std as the processor does it. The metrics are single-trial correlation, correlation
    to the average over repeats, and fraction of explainable variance explained: see `static_metrics`.

    Args:
        model, processor, batch_size, progress, session, device, precision: see `omnimouse.evaluation`; a window is a
            trial.
        recording: an open SENSORIUM 2022 recording, its folder or its `.zip`.
        tier: the trials to score; default: "test", which holds the images that were repeated, else the first of
            `STATIC_TIERS` whose responses are known and that the weights were not trained on.
        task: "stimulus+behavior" (image and behaviour are shown) or "stimulus" (the image alone).

    Raises:
        ValueError: a recording of another kind; another task; an unknown session or tier; withheld responses; NaN in
            every trial; a device that is not there.
    """
    place = resolve_device(device)
    inputs = prepare_inputs(
        model, _as_static(recording), tier, stride=1, include_blanks=False, processor=processor, session=session,
        order=STATIC_TIERS,
    )  # fmt: skip
    trials = _predict(
        model, inputs, task, place, precision, batch_size=batch_size, progress=progress, with_responses=True
    )
    # An image that is not known is none that another trial showed, as far as anybody can tell.
    images = [trial.condition_hash or f"\0 of trial {trial.index}" for trial in trials.trials]
    n_unknown = sum(trial.condition_hash is None for trial in trials.trials)
    assert trials.responses is not None
    result, notes = score(trials.predictions, trials.responses, images if n_unknown < len(images) else None)
    if 0 < n_unknown < len(images):
        notes = (*notes, f"{n_unknown} trials count as images shown once: it is not known what they showed")
    if trials.n_left_out:
        notes = (*notes, f"{trials.n_left_out} trials left out: NaN in behaviour, image or responses")
    inputs.warn_of_use(stacklevel=3)
    return StaticScores(
        session_key=inputs.session_key,
        tier=inputs.tier,
        task=task,
        n_neurons=inputs.recording.n_neurons,
        n_trials_left_out=trials.n_left_out,
        notes=(*inputs.notes, *notes, *([NOTE] if trials.precision == "bfloat16" else [])),
        settings=trials.settings(),
        **(inputs.hashes(model) | result),
    )


def write_static_submission(
    model: OmniMouseNetwork,
    recording: Recording | str | os.PathLike[str],
    path: str | os.PathLike[str],
    tier: str = "test",
    *,
    task: str = "stimulus+behavior",
    processor: OmniMouseProcessor | None = None,
    batch_size: int = 8,
    progress: bool = True,
    session: str | None = None,
    device: Device = None,
    precision: Precision = "auto",
) -> Path:
    """Writes predictions for the SENSORIUM 2022 competition, whose responses may be withheld.

    A CSV file with one row per trial, in the order of the files: `trial_indices` and `image_ids` as stored,
    `prediction` (a list of one number per neuron) and `neuron_ids` (a list of the unit ids, in the same order).
    Predictions are in the competition's units: responses divided by their stored std, of which those below 1 % of the
    mean std are raised to that.

    Args:
        model, recording, task, processor, batch_size, progress, session, device, precision: as for
            `evaluate_static`.
        path: the file to write; it appears when it is whole. The competition's names are
            `submission_file_live_test.csv` for the tier "test" and `submission_file_final_test.csv`.
        tier: the trials to predict.

    Returns:
        The path.

    Raises:
        ValueError: as for `evaluate_static`; the recording does not name trials, images or neurons; a trial cannot be
            predicted because of NaN; a prediction is not finite; the file cannot be written.
    """
    place, recording = resolve_device(device), as_recording(recording)
    check_output(path, recording.path)
    inputs = prepare_inputs(
        model, _as_static(recording), tier, stride=1, include_blanks=False, processor=processor, session=session,
        allow_withheld=True,
    )  # fmt: skip
    result = _predict(
        model, inputs, task, place, precision, batch_size=batch_size, progress=progress, with_responses=False
    )
    _refuse_incomplete(result)
    _write_submission(Path(path), result)
    return Path(path)


def _refuse_incomplete(result: _Trials) -> None:
    """Raises ValueError where the competition would not take predictions."""
    recording = result.inputs.recording
    named = {
        "meta/trials/trial_idx.npy": all(trial.trial_id is not None for trial in result.trials),
        "meta/trials/frame_image_id.npy": all(trial.condition_hash is not None for trial in result.trials),
        "meta/neurons/unit_ids.npy": recording.unit_ids is not None,
    }
    if not all(named.values()):
        missing = ", ".join(name for name, there in named.items() if not there)
        raise ValueError(f"{recording.path}: a submission names trials, images and neurons; restore {missing}")
    if result.n_left_out:
        raise ValueError(
            f"{recording.path}: {result.n_left_out} of {result.n_left_out + len(result.trials)} trials of tier "
            f"{result.inputs.tier!r} cannot be predicted because of NaN in image or behaviour, but a submission needs "
            "all; `omnimouse check` lists the files to repair"
        )
    if not np.isfinite(result.predictions).all():
        raise ValueError(f"the predictions for {recording.path} hold NaN or infinity; train the session anew")


def _write_submission(path: Path, result: _Trials) -> None:
    recording = result.inputs.recording
    stds = recording.statistics(recording.responses)[1]
    ours = result.inputs.processor.floored_response_stds(stds)
    # The floor of this profile is the competition's.
    theirs = OmniMouseProcessor(profile="experanto-main").floored_response_stds(stds)
    scale = np.divide(ours, theirs, out=np.ones_like(ours), where=np.isfinite(theirs) & (theirs > 0))
    unit_ids = np.asarray(recording.unit_ids).tolist()
    neurons = "[" + ", ".join(map(str, unit_ids)) + "]"
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SUBMISSION_COLUMNS)
        for trial, prediction in zip(result.trials, result.predictions, strict=True):
            # Nine digits tell every float32 from its neighbours.
            numbers = "[" + ", ".join(f"{value:.9g}" for value in prediction * scale) + "]"
            writer.writerow((trial.trial_id, trial.condition_hash, numbers, neurons))


@dataclass(frozen=True)
class _Trials:
    """Predictions for trials in the order of the recording; responses `[K, N]` like them, or None."""

    inputs: Inputs
    trials: list[Trial]
    predictions: np.ndarray
    responses: np.ndarray | None
    n_left_out: int
    precision: str

    def settings(self) -> dict[str, str]:
        """How the predictions were made."""
        recording = self.inputs.recording.path.name
        return {"profile": self.inputs.processor.profile, "recording": recording, "precision": self.precision}


def _as_static(recording: Recording | str | os.PathLike[str]) -> Recording:
    recording = as_recording(recording)
    if not is_static(recording):
        raise ValueError(
            f"{recording.path} is no recording of single images (SENSORIUM 2022); score it with evaluate, predict it "
            "with predict"
        )
    return recording


def _predict(
    model: OmniMouseNetwork,
    inputs: Inputs,
    name: str,
    device: torch.device | None,
    precision: Precision,
    *,
    batch_size: int,
    progress: bool,
    with_responses: bool,
) -> _Trials:
    windows, recording = inputs.windows, inputs.recording
    task = _static_task(model, name, inputs)
    shown = task.needs.besides_responses
    task = replace(task, needs=Needs((*shown, "responses") if with_responses else shown, passed=shown))
    # One window per trial; a processor with shorter windows finds several, which are all alike.
    positions, first = np.unique([windows.trial_index(i) for i in range(len(windows))], return_index=True)
    trial_of = dict(zip(first.tolist(), positions.tolist(), strict=True))
    kept, predictions, responses = [], [], []
    with evaluating(model, device, precision) as chosen:
        for batch in cut_windows(windows, first.tolist(), batch_size, progress=progress, label="images"):
            answer = task.ask(model, inputs.session_key, batch)
            if answer is None:
                continue
            assert answer.output.response_predictions is not None
            kept += [trial_of[i] for i, usable in zip(batch.indices, answer.rows.tolist(), strict=True) if usable]
            predictions.append(answer.output.response_predictions.double().mean(dim=1).cpu().numpy())
            # Responses are constant over a window.
            responses.append(batch.arrays["responses"][answer.rows, 0].double().numpy())
    n_trials = sum(trial.tier == inputs.tier for trial in recording.trials)
    if not predictions:
        raise ValueError(
            f"{recording.path}: all {n_trials} trials of tier {inputs.tier!r} hold NaN; see `omnimouse check`"
        )
    trials = [recording.trials[position] for position in kept]
    truth = np.concatenate(responses) if with_responses else None
    return _Trials(inputs, trials, np.concatenate(predictions), truth, n_trials - len(trials), chosen)


def _static_task(model: OmniMouseNetwork, name: str, inputs: Inputs) -> Task:
    """The task that single images are scored by.

    Raises:
        ValueError: another task, and why not.
    """
    windows = inputs.windows
    (mask,) = select_tasks([name], inputs.recording.n_neurons, model.config, windows.missing)[0].values()
    task = Task.of(name, mask, model.config, inputs.session_key, windows)
    if name in STATIC_TASKS:
        return task
    if task.resolved.shows_responses:
        reason = "it shows responses, and the one response of a trial is what is to be predicted"
    elif not task.resolved.predicts_responses:
        reason = "it predicts no responses"
    else:
        reason = "scores of single images are those of a whole image and the whole population"
    raise ValueError(f"task {name!r} cannot be scored on single images: {reason}; choose {' or '.join(STATIC_TASKS)}")
