"""Scoring a model on held-out trials: correlation per task and neuron, with baselines and, if known, the ceiling.

Follows the evaluation of the released models: windows of 2 s, all neurons, one Pearson correlation per
neuron over all scored samples of all windows (no averaging over repeats, no noise correction), a neuron without a
correlation counting as zero. Windows are streamed; only running moments are kept.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omnimouse.evaluation.accumulate import TaskRun, score_windows
from omnimouse.evaluation.computing.precision import Precision
from omnimouse.evaluation.encoded_video.stored_video import StoredVideo
from omnimouse.evaluation.inputs import Inputs, Task, encode_windows, evaluating, prepare_inputs
from omnimouse.evaluation.scores import Scores
from omnimouse.model.masking.mask_fitting import NotRecordedError, fit_mask, without_modalities
from omnimouse.model.masking.masks import Mask, as_mask, build_tasks
from omnimouse.recordings import Recording, mean_responses
from omnimouse.recordings.simulation.simulated import load_truth
from omnimouse.support.compute_devices import Device, resolve_device
from omnimouse.support.spreading import spread
from omnimouse.support.validation import check_flag, whole_number

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
    from omnimouse.model.processing_omnimouse import OmniMouseProcessor

Tasks = str | Mask | Sequence[str | Mask] | Mapping[str, str | Mask]


def evaluate(
    model: OmniMouseNetwork,
    recording: Recording | str | os.PathLike[str],
    tasks: Tasks = "all",
    tier: str | None = None,
    *,
    stride: int = 30,
    include_blanks: bool = True,
    processor: OmniMouseProcessor | None = None,
    batch_size: int = 8,
    max_windows: int | None = None,
    progress: bool = True,
    session: str | None = None,
    device: Device = None,
    precision: Precision = "auto",
    cache_video: bool = False,
) -> Scores:
    """Scores a model on one tier of one session.

    Args:
        model, recording, tier, include_blanks, processor, batch_size, progress, session, device, precision:
            see `omnimouse.evaluation`.
        tasks: "all" (every task that fits the population and what was recorded), a task name or "suite/name", a `Mask`,
            a list of these, or a dict from your own names to them. Behaviour that was not recorded is not decoded;
            tasks that show what was not recorded are left out, with the reason in `Scores.left_out`.
        stride: see `omnimouse.evaluation`; 30 (the published choice) scores every sample of a contiguous run once,
            apart from its first 30. The published scores of the tier "validation" used 60.
        max_windows: score only so many windows, evenly spread over the tier.
        cache_video: keep video features on disk, for scoring these windows again; see `evaluation/encoded_video`.

    Returns:
        Scores; `print(scores.table())` shows them. They carry the hashes of the weights scored.

    Raises:
        ValueError: unknown session, tier or task; a task asked for by name that the population cannot serve; other
            neurons than the session has; no task that can do without what was not recorded; no window; NaN in every
            window; a device that is not there; another precision, or float32 of weights in another type.

    Warns:
        UserWarning: windows hold NaN where a task needs values, and are left out of it and counted (the published
            evaluation passed the NaN video of INVALID trials to the model); or the weights were trained or selected on
            this tier, as far as is stored with the session; the scores say so too.
    """
    place = resolve_device(device)
    check_flag("cache_video", cache_video)
    batch_size = whole_number("batch_size", batch_size)
    inputs = prepare_inputs(
        model, recording, tier, stride=stride, include_blanks=include_blanks, processor=processor, session=session,
        max_windows=max_windows,
    )  # fmt: skip
    runs, left_out = _task_runs(tasks, inputs, model.config)
    indices = spread(len(inputs.windows), max_windows)
    source = StoredVideo.of(model).source if cache_video else encode_windows
    with evaluating(model, place, precision) as chosen:
        score_windows(
            model, inputs.session_key, inputs.windows, indices, runs, batch_size=batch_size,
            truth=load_truth(inputs.recording), progress=progress, video_source=source,
        )  # fmt: skip
    settings = {"stride": stride, "include_blanks": include_blanks, "max_windows": max_windows, "precision": chosen}
    return _scores(model, inputs, runs, left_out, len(indices), settings)


def _task_runs(tasks: Tasks, inputs: Inputs, config: OmniMouseConfig) -> tuple[list[TaskRun], dict[str, str]]:
    """The tasks to score, and name -> why another is left out."""
    windows, recording = inputs.windows, inputs.recording
    chosen, left_out = select_tasks(tasks, recording.n_neurons, config, windows.missing)
    means = mean_responses(recording, inputs.processor) if "train" in recording.tiers else None
    made = [Task.of(name, mask, config, inputs.session_key, windows) for name, mask in chosen.items()]
    return [TaskRun(task, config, means, windows.missing_channels) for task in made], left_out


def _scores(
    model: OmniMouseNetwork,
    inputs: Inputs,
    runs: Sequence[TaskRun],
    left_out: dict[str, str],
    n_windows: int,
    settings: dict[str, Any],
) -> Scores:
    """What came of it, with warnings of what a reader must know."""
    finished = {run.task.name: run.finish() for run in runs if run.n_windows}
    left_out |= {run.task.name: run.task.left_out(run.n_left_out, n_windows) for run in runs if not run.n_windows}
    if not finished:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"no task could be scored on {inputs.recording.path}, tier {inputs.tier!r}: {reasons}")
    inputs.warn_of_use(stacklevel=4)
    affected = [f"{name}: {task.n_windows_left_out}" for name, task in finished.items() if task.n_windows_left_out]
    if affected:
        text = f"windows with NaN left out, of {n_windows}: {', '.join(affected)}; see the notes of each task"
        warnings.warn(text, stacklevel=3)
    missing = inputs.windows.missing
    named = [_is_named(run.task.name, run.task.mask, model.config, missing) for run in runs]
    settings |= {
        "n_windows": n_windows,
        "profile": inputs.processor.profile,
        "recording": inputs.recording.path.name,
        "missing": list(missing),
        "tier_in_training": inputs.use,
        "tier_notes": list(inputs.notes),
        "own_masks": [run.task.name for run, is_named in zip(runs, named, strict=True) if not is_named],
    }
    n_neurons, hashes = inputs.recording.n_neurons, inputs.hashes(model)
    return Scores(inputs.session_key, inputs.tier, n_neurons, finished, left_out, settings, **hashes)


def select_tasks(
    tasks: Tasks, n_neurons: int, config: OmniMouseConfig, missing: Sequence[str] = ()
) -> tuple[dict[str, Mask], dict[str, str]]:
    """Turns the `tasks` argument into masks that fit the population and what was recorded, see `fit_mask`.

    Returns:
        (name -> mask, name -> why it was left out). Left out are tasks that need what is missing and,
        when `tasks` is "all", those that the population cannot serve.

    Raises:
        ValueError: unknown task, none given, one asked for by name that the population cannot serve, or none that can
            do without what is missing.
    """
    asked = name_tasks(tasks, config)
    if not asked:
        raise ValueError(f"tasks is empty; pass 'all' or some of {', '.join(build_tasks(config))}")
    chosen, left_out = {}, {}
    for name, mask in asked.items():
        try:
            chosen[name] = fit_mask(mask, n_neurons, config, missing)
        except NotRecordedError as error:
            left_out[name] = str(error)
        except ValueError as error:
            if not (isinstance(tasks, str) and tasks == "all"):
                raise ValueError(f"task {name!r} cannot be scored: {error}") from None
            left_out[name] = str(error)
    if not chosen:
        reasons = "; ".join(f"task {name!r}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"nothing can be scored: {reasons}; choose another task")
    return chosen, left_out


def name_tasks(tasks: Tasks, config: OmniMouseConfig) -> dict[str, Mask]:
    """Looks up what was asked for: name -> mask.

    Raises:
        ValueError: an unknown name.
    """
    known = build_tasks(config)
    if isinstance(tasks, str):
        return known if tasks == "all" else {tasks: as_mask(tasks, config)}
    if isinstance(tasks, Mapping):
        return {name: as_mask(mask, config) for name, mask in tasks.items()}
    items = [tasks] if isinstance(tasks, Mask) else list(tasks)
    names = {mask: name for name, mask in known.items()}
    labels = [item if isinstance(item, str) else names.get(item, f"mask {i}") for i, item in enumerate(items, 1)]
    return {label: as_mask(item, config) for label, item in zip(labels, items, strict=True)}


def _is_named(name: str, mask: Mask, config: OmniMouseConfig, missing: Sequence[str]) -> bool:
    """Whether a name, looked up, gives this very mask; a caller may give any name to a mask of their own."""
    try:
        return without_modalities(as_mask(name, config), missing) == mask
    except ValueError:
        return False
