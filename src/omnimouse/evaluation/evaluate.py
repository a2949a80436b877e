"""Scoring a model on held-out trials: correlation per task and neuron, with baselines and, if known, the ceiling.

Follows the evaluation of the released models: windows of 2 s, all neurons, one Pearson correlation per
neuron over all scored samples of all windows (no averaging over repeats, no noise correction), a neuron without a
correlation counting as zero. Windows are streamed; only running moments are kept.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from omnimouse.evaluation import baselines
from omnimouse.evaluation.accumulate import TaskRun
from omnimouse.evaluation.inputs import (
    Inputs,
    batches,
    check_max_windows,
    describe_left_out,
    finite_windows,
    prepare,
    run_model,
    usable,
)
from omnimouse.evaluation.rotation import Rotation
from omnimouse.evaluation.scores import Scores, TaskScore
from omnimouse.model.core_identity import scored_core
from omnimouse.model.mask_fitting import NotRecordedError, fit_mask, without_modalities
from omnimouse.model.masks import Mask, ResolvedMask, as_mask, build_tasks
from omnimouse.recordings import Recording, mean_responses
from omnimouse.recordings.simulation.simulated import load_truth
from omnimouse.support.compute_devices import Device, computing_on, resolve_device
from omnimouse.support.spreading import spread
from omnimouse.support.tensor_files import hash_tensors

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
) -> Scores:
    """Score a model on one tier of one session.

    At most `batch_size` windows are in memory at a time; every batch is cut once and serves all tasks. The model is put
    into eval mode meanwhile. Call it under `torch.autocast` to score in reduced precision, as the published scores
    were (bfloat16).

    Args:
        model: holds the session of this recording.
        recording: an open recording or its folder.
        tasks: "all" (every task that fits the population and what was recorded), a task name or "suite/name", a `Mask`,
            a list of these, or a dict from your own names to them. Behaviour that was not recorded is not decoded;
            tasks that show what was not recorded are left out, with the reason in `Scores.left_out`.
        tier: the trials to score; default: the first of `SCORED_TIERS` ("final_test", "test", ..., "oracle") that the
            recording has, else any other whose responses are known and that the weights were not trained on.
        stride: use every stride-th possible window start. 30 (the published choice) scores every sample of a contiguous
            run once, apart from its first 30; the published scores of the tier "validation" used 60. The profile
            "strict" counts anew in every trial, so there the run is a trial: what lies behind its border may be scored
            both by a window that reaches across and by one of the next trial.
        include_blanks: also score windows on blank screens between trials, as the published test scores do.
        processor: how to cut and normalise windows; default: the session's own, else the model's, else "strict".
        batch_size: windows per forward pass.
        max_windows: score only so many windows, evenly spread over the tier.
        progress: show a progress bar.
        session: key of the session in the model; default: the key of the recording.
        device: where to compute ("cpu", "cuda", "cuda:1", "mps", a `torch.device`); default: where the model is. The
            model is moved for the call, and is afterwards where it was.

    Returns:
        Scores; `print(scores.table())` shows them. They carry the hashes of the weights scored.

    Raises:
        ValueError: unknown session, tier or task; a task asked for by name that the population cannot serve; another
            number of neurons than the session has; no task that can do without what was not recorded; no window; NaN
            in every window; a device that is not there.

    Warns:
        UserWarning: some windows hold NaN where a task needs values; they are left out of that task and counted. (The
            published evaluation passed the NaN video of INVALID trials to the model.) Or the weights were trained or
            selected on this tier, as far as is stored with the session; the scores say so too.
    """
    place = resolve_device(device)
    inputs = prepare(
        model,
        recording,
        tier,
        stride=stride,
        include_blanks=include_blanks,
        processor=processor,
        session=session,
    )
    missing, absent = inputs.windows.missing, inputs.windows.missing_channels
    chosen, left_out = select_tasks(tasks, inputs.recording.n_neurons, model.config, missing)
    check_max_windows(max_windows)
    indices = spread(len(inputs.windows), max_windows)
    means = _training_means(inputs)
    key, n_neurons, unit_ids = inputs.session_key, inputs.recording.n_neurons, inputs.recording.unit_ids
    runs = [
        TaskRun(name, mask, resolved, model.config, means, absent, Rotation.of(mask, key, n_neurons, unit_ids))
        for name, (mask, resolved) in chosen.items()
    ]
    was_training = model.training
    model.eval()
    try:
        with computing_on(model, place), torch.inference_mode():
            _stream(model, inputs, indices, runs, batch_size=batch_size, progress=progress)
    finally:
        model.train(was_training)
    finished: dict[str, TaskScore] = {}
    for run in runs:
        if run.n_windows == 0:
            left_out[run.name] = describe_left_out(run.n_left_out, len(indices), run.needs.inputs)
        else:
            finished[run.name] = run.finish()
    if not finished:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"no task could be scored on {inputs.recording.path}, tier {inputs.tier!r}: {reasons}")
    if inputs.use is not None:
        warnings.warn(f"session {inputs.session_key}: {inputs.notes[-1]}", stacklevel=2)
    _warn_left_out(finished, len(indices))
    settings = {
        "stride": stride,
        "include_blanks": include_blanks,
        "max_windows": max_windows,
        "n_windows": len(indices),
        "profile": inputs.processor.profile,
        "recording": inputs.recording.path.name,
        "missing": list(missing),
        "tier_in_training": inputs.use,
        "tier_notes": list(inputs.notes),
        "own_masks": [run.name for run in runs if not _is_named(run.name, run.mask, model.config, missing)],
    }
    return Scores(
        inputs.session_key,
        inputs.tier,
        inputs.recording.n_neurons,
        finished,
        left_out,
        settings,
        core_sha256=scored_core(model),  # a LoRA makes other scores
        session_sha256=hash_tensors(model.session_state(inputs.session_key)),
    )


def select_tasks(
    tasks: Tasks, n_neurons: int, config: OmniMouseConfig, missing: Sequence[str] = ()
) -> tuple[dict[str, tuple[Mask, ResolvedMask]], dict[str, str]]:
    """Turn the `tasks` argument into masks that fit the population and what was recorded, see `fit_mask`.

    Returns:
        (name -> (mask, resolved mask), name -> why it was left out). Left out are tasks that need what is missing and,
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
            fitted = fit_mask(mask, n_neurons, config, missing)
            chosen[name] = (fitted, fitted.resolve(n_neurons, config))
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


def _training_means(inputs: Inputs) -> np.ndarray | None:
    if "train" not in inputs.recording.tiers:
        return None
    return mean_responses(inputs.recording, inputs.processor)


def _stream(
    model: OmniMouseNetwork,
    inputs: Inputs,
    indices: list[int],
    runs: list[TaskRun],
    *,
    batch_size: int,
    progress: bool,
) -> None:
    truth = load_truth(inputs.recording)
    for chosen, batch in batches(inputs.windows, indices, batch_size, progress=progress, label="evaluate"):
        finite = finite_windows(batch, inputs.windows.missing_channels)
        expected = None if truth is None else baselines.expected_responses(truth, inputs.windows, chosen)
        for run in runs:
            rows = usable(finite, run.needs.inputs)
            run.n_left_out += int((~rows).sum())
            if rows.any():
                part = {name: batch[name][rows].to(model.device) for name in run.needs.passed}
                starts = inputs.windows.starts[np.asarray(chosen)[rows.numpy()]]
                ids = None if run.rotation is None else run.rotation.neuron_ids(starts)
                output = run_model(model, inputs.session_key, run.mask, part, neuron_ids=ids)
                truth_part = None if expected is None else {name: value[rows] for name, value in expected.items()}
                run.update(output, part, truth_part, finite.get("behavior", rows)[rows], ids)


def _warn_left_out(finished: Mapping[str, TaskScore], n_windows: int) -> None:
    affected = {name: task.n_windows_left_out for name, task in finished.items() if task.n_windows_left_out}
    if affected:
        counts = ", ".join(f"{name}: {count}" for name, count in affected.items())
        warnings.warn(f"windows with NaN left out, of {n_windows}: {counts}; see the notes of each task", stacklevel=3)
