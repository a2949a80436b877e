"""Predictions of one task as aligned arrays, with times and neuron ids, for analyses outside this package.

Shape letters: W windows, L target samples, Q target neurons, C behaviour channels, T samples of a behaviour window.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from omnimouse.evaluation.evaluate import name_tasks
from omnimouse.evaluation.inputs import (
    Inputs,
    Needs,
    as_recording,
    batches,
    check_max_windows,
    describe_left_out,
    finite_windows,
    prepare,
    run_model,
    usable,
)
from omnimouse.evaluation.rotation import Rotation, in_file_order
from omnimouse.model.mask_fitting import fit_mask
from omnimouse.recordings.pooling import response_scale
from omnimouse.support.compute_devices import Device, computing_on, resolve_device
from omnimouse.support.files import atomic_path
from omnimouse.support.outputs import check_output

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.masks import Mask, ResolvedMask
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
    from omnimouse.model.processing_omnimouse import OmniMouseProcessor
    from omnimouse.recordings import Recording


@dataclass(frozen=True)
class Predictions:
    """Predicted and recorded signals of one task, in processed (normalised) units.

    Attributes:
        session_key: the session in the model.
        tier: the tier the windows come from.
        task: name of the task or mask.
        window_starts: start of every window [W], float64, absolute seconds on the recording's clock.
        times: time of every predicted response sample [W, L], float64, absolute seconds.
        neuron_index: position of every target neuron in the recording [Q].
        neuron_ids: the recording's own unit ids [Q]; the positions again if it has none.
        predictions: predicted responses [W, L, Q], float32; NaN where the mask predicts nothing. Of tasks that rotate
            (`population` and its kin) all neurons are targets, and NaN in the windows in which they are visible.
        targets: recorded responses [W, L, Q], float32.
        response_scale: recorded units per processed unit [Q], float64: multiply to convert back.
        behavior_times: time of every behaviour sample [W, T], float64, absolute seconds.
        behavior_channels: names of the behaviour channels, C of them.
        behavior_predictions: decoded behaviour [W, C, T], float32; None if the task decodes none.
        behavior_targets: recorded behaviour [W, C, T], float32, NaN where it was not recorded; None likewise.
        n_windows_left_out: windows without a prediction because what the task needs held NaN.

    The response arrays are None for a task that predicts no responses.
    """

    session_key: str
    tier: str
    task: str
    window_starts: np.ndarray
    times: np.ndarray | None = None
    neuron_index: np.ndarray | None = None
    neuron_ids: np.ndarray | None = None
    predictions: np.ndarray | None = None
    targets: np.ndarray | None = None
    response_scale: np.ndarray | None = None
    behavior_times: np.ndarray | None = None
    behavior_channels: tuple[str, ...] = ()
    behavior_predictions: np.ndarray | None = None
    behavior_targets: np.ndarray | None = None
    n_windows_left_out: int = 0

    def __repr__(self) -> str:
        """Names and shapes; the numbers themselves would fill screens."""
        arrays = ((f.name, getattr(self, f.name)) for f in fields(self))
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays if isinstance(array, np.ndarray))
        return f"<Predictions of {self.task} for session {self.session_key}, tier {self.tier}: {shapes}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything that is not None to an `.npz` file, atomically and without pickles. Returns the path."""
        arrays = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None}
        with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes any name for `allow_pickle`
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictions:
        """Read a file written by `save`.

        Raises:
            ValueError: the file holds something else.
        """
        names = {f.name for f in fields(cls)}
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is no .npz file; pass a file written by predict(..., output=...)")
        with np.load(path, allow_pickle=False) as file:
            if not {"session_key", "tier", "task", "window_starts"} <= set(file.files) <= names:
                raise ValueError(
                    f"{path} does not hold predictions: found arrays {', '.join(file.files)}, expected "
                    f"{', '.join(sorted(names))}; pass a file written by predict(..., output=...)"
                )
            values = {name: file[name] for name in file.files}
        scalars = {name: array.item() for name, array in values.items() if array.ndim == 0}
        channels = tuple(values["behavior_channels"].tolist())
        return cls(**{**values, **scalars, "behavior_channels": channels})


def predict(
    model: OmniMouseNetwork,
    recording: Recording | str | os.PathLike[str],
    task: str | Mask,
    *,
    tier: str | None = None,
    stride: int | None = None,
    output: str | os.PathLike[str] | None = None,
    batch_size: int = 8,
    max_windows: int | None = None,
    all_neurons: bool = True,
    processor: OmniMouseProcessor | None = None,
    include_blanks: bool = True,
    progress: bool = True,
    session: str | None = None,
    device: Device = None,
) -> Predictions:
    """Predict one task on one tier of one session and return aligned arrays.

    The result is held in memory: 8 bytes per window, target sample and target neuron (predictions and targets), which
    is 1.9 MB a window for 8,000 neurons and 30 samples. Use `max_windows` where that is too much.

    Args:
        model: holds the session of this recording.
        recording: an open recording or its folder.
        task: a task name, "suite/name" or a `Mask`. Behaviour that was not recorded is not decoded.
        tier: the trials to predict; default: those that `evaluate` scores by default.
        stride: use every stride-th possible window start; default: the length of the target, so that the predictions of
            a contiguous run follow each other without gap or overlap. The profile "strict" counts anew in every trial,
            so there the run is a trial.
        output: also write the result to this `.npz` file.
        batch_size: windows per forward pass.
        max_windows: only the first so many windows.
        all_neurons: the whole population in file order; False: only its first `config.max_population` neurons, as many
            as the model saw at once in training.
        processor: how to cut and normalise windows; default: the session's own, else the model's, else "strict".
        include_blanks: also predict windows on blank screens between trials.
        progress: show a progress bar.
        session: key of the session in the model; default: the key of the recording.
        device: where to compute, as for `evaluate`.

    Returns:
        Predictions.

    Raises:
        ValueError: unknown session, tier or task; a task that does not fit the population or what was recorded, see
            `fit_mask`; another number of neurons than the session has; no window; NaN in every window; an output that
            cannot be written; a device that is not there.

    Warns:
        UserWarning: some windows hold NaN where the task needs values; they are left out and counted.
    """
    place = resolve_device(device)
    check_max_windows(max_windows)
    recording = as_recording(recording)
    if output is not None:
        check_output(output, recording.path)
    ((name, asked),) = name_tasks([task], model.config).items()
    inputs = prepare(
        model,
        recording,
        tier,
        stride=asked.target_length or model.config.num_response_samples if stride is None else stride,
        include_blanks=include_blanks,
        processor=processor,
        session=session,
    )
    neurons = np.arange(recording.n_neurons)[: None if all_neurons else model.config.max_population]
    try:
        mask = fit_mask(asked, len(neurons), model.config, inputs.windows.missing)
    except ValueError as error:
        raise ValueError(
            f"task {name!r} cannot be predicted on {recording.path}: {error}; choose another task"
        ) from None
    resolved = mask.resolve(len(neurons), model.config)
    indices = list(range(len(inputs.windows)))[:max_windows]
    rotation = Rotation.of(mask, inputs.session_key, len(neurons), recording.unit_ids)
    collected = _Collected(mask, resolved, model.config, neurons, len(indices), rotation)
    was_training = model.training
    model.eval()
    try:
        with computing_on(model, place), torch.inference_mode():
            collected.run(model, inputs, indices, batch_size=batch_size, progress=progress)
    finally:
        model.train(was_training)
    n_left_out = len(indices) - collected.n_windows
    if n_left_out:
        message = f"task {name!r}: " + describe_left_out(n_left_out, len(indices), collected.needs.inputs)
        if collected.n_windows == 0:
            raise ValueError(f"nothing to predict on {recording.path}, tier {inputs.tier!r}: {message}")
        warnings.warn(message, stacklevel=2)
    result = collected.finish(inputs, name)
    if output is not None:
        result.save(output)
    return result


class _Collected:
    """The arrays of a prediction, filled batch by batch."""

    def __init__(
        self,
        mask: Mask,
        resolved: ResolvedMask,
        config: OmniMouseConfig,
        neurons: np.ndarray,
        n_windows: int,
        rotation: Rotation | None,
    ) -> None:
        self.rotation = rotation
        self.mask, self.resolved, self.config, self.neurons = mask, resolved, config, neurons
        self.needs = Needs.of(resolved)
        self.n_windows = 0
        self.starts = np.empty(n_windows, dtype=np.float64)
        self.arrays: dict[str, np.ndarray] = {}

    def run(
        self, model: OmniMouseNetwork, inputs: Inputs, indices: list[int], *, batch_size: int, progress: bool
    ) -> None:
        """Predict all windows that hold no NaN where the task needs values."""
        everything = len(self.neurons) == inputs.recording.n_neurons
        neuron_ids = None if everything else torch.as_tensor(self.neurons)
        for chosen, batch in batches(inputs.windows, indices, batch_size, progress=progress, label="predict"):
            rows = usable(finite_windows(batch, inputs.windows.missing_channels), self.needs.inputs)
            if not rows.any():
                continue
            part = {name: batch[name][rows].to(model.device) for name in self.needs.passed}
            starts = inputs.windows.starts[np.asarray(chosen)[rows.numpy()]]
            if self.rotation is not None:
                neuron_ids = self.rotation.neuron_ids(starts)
            output = run_model(model, inputs.session_key, self.mask, part, neuron_ids=neuron_ids)
            n = int(rows.sum())
            self.starts[self.n_windows : self.n_windows + n] = starts
            if self.resolved.predicts_responses:
                predictions, targets = output.response_predictions, output.response_targets
                if self.rotation is not None:
                    assert neuron_ids is not None and predictions is not None
                    ids = neuron_ids[:, self.resolved.first_target_neuron :]
                    predictions = in_file_order(predictions, ids, len(self.neurons))
                    samples = slice(self.resolved.target_start, self.resolved.target_start + predictions.shape[1])
                    targets = part["responses"][:, samples, : len(self.neurons)]
                self._put("predictions", predictions)
                self._put("targets", targets)
            if self.resolved.decodes_behavior:
                self._put("behavior_predictions", output.behavior_predictions)
                self._put("behavior_targets", part["behavior"])
            self.n_windows += n

    def _put(self, name: str, values: torch.Tensor | None) -> None:
        assert values is not None
        block = values.float().cpu().numpy()
        if name not in self.arrays:
            self.arrays[name] = np.empty((len(self.starts), *block.shape[1:]), dtype=np.float32)
        self.arrays[name][self.n_windows : self.n_windows + len(block)] = block

    def finish(self, inputs: Inputs, task: str) -> Predictions:
        """The result, cut to the windows that were predicted."""
        starts, config = self.starts[: self.n_windows], self.config
        result = Predictions(
            session_key=inputs.session_key,
            tier=inputs.tier,
            task=task,
            window_starts=starts,
            n_windows_left_out=len(self.starts) - self.n_windows,
            **{name: array[: self.n_windows] for name, array in self.arrays.items()},  # type: ignore[arg-type]
        )
        if self.resolved.predicts_responses:
            index = self.neurons[0 if self.rotation else self.resolved.first_target_neuron :]
            unit_ids = inputs.recording.unit_ids
            samples = self.resolved.target_start + np.arange(self.resolved.target_length)
            result = replace(
                result,
                times=starts[:, None] + samples / config.response_rate,
                neuron_index=index,
                neuron_ids=index if unit_ids is None else np.asarray(unit_ids)[index],
                response_scale=response_scale(inputs.recording, inputs.processor)[index],
            )
        if self.resolved.decodes_behavior:
            samples = np.arange(config.num_behavior_samples)
            result = replace(
                result,
                behavior_times=starts[:, None] + samples / config.behavior_rate,
                behavior_channels=tuple(config.behavior_channels),
            )
        return result
