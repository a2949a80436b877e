"""Predictions of one task as aligned arrays, with times and neuron ids, for analyses outside this package.

Shape letters: W windows, L target samples, Q target neurons, C behaviour channels, T samples of a behaviour window.
"""

from __future__ import annotations

import html
import os
import warnings
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from omnimouse.evaluation.evaluate import name_tasks
from omnimouse.evaluation.inputs import Answer, Inputs, Task, as_recording, cut_windows, evaluating, prepare_inputs
from omnimouse.evaluation.rotation import in_file_order
from omnimouse.model.masking.mask_fitting import fit_mask
from omnimouse.recordings.pooling import response_scale
from omnimouse.support.compute_devices import Device, resolve_device
from omnimouse.support.files import atomic_path
from omnimouse.support.outputs import check_output
from omnimouse.support.text_tables import html_table

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.masking.masks import Mask
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
        shapes = "\n".join(f"  {name} {shape}" for name, shape in self._shapes())
        return f"Predictions of {self.task} for session {self.session_key}, tier {self.tier}:\n{shapes}"

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        rows = [[name, shape] for name, shape in self._shapes()]
        title = f"Predictions of {self.task} for session {self.session_key}, tier {self.tier}"
        return f"<p>{html.escape(title)}</p>{html_table(['array', 'shape'], rows)}"

    def _shapes(self) -> list[tuple[str, str]]:
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return [(name, str(list(array.shape))) for name, array in arrays.items() if isinstance(array, np.ndarray)]

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
    """Predicts one task on one tier of one session and returns aligned arrays.

    They take 8 bytes of memory per window, target sample and target neuron: 1.9 MB a window of 8,000 neurons.

    Args:
        model, recording, tier, include_blanks, processor, batch_size, progress, session, device: see
            `omnimouse.evaluation`.
        task: a task name, "suite/name" or a `Mask`. Behaviour that was not recorded is not decoded.
        stride: see `omnimouse.evaluation`; default: the length of the target, so that the predictions of a contiguous
            run follow each other without gap or overlap.
        output: also write the result to this `.npz` file.
        max_windows: only the first so many windows.
        all_neurons: the whole population in file order; False: only its first `config.max_population` neurons, as many
            as the model saw at once in training.

    Raises:
        ValueError: unknown session, tier or task; a task that does not fit the population or what was recorded, see
            `fit_mask`; other neurons than the session has; no window; NaN in every window; an output that cannot be
            written; a device that is not there.

    Warns:
        UserWarning: some windows hold NaN where the task needs values; they are left out and counted.
    """
    place, recording = resolve_device(device), as_recording(recording)
    file = None if output is None else check_output(output, recording.path)
    ((name, asked),) = name_tasks([task], model.config).items()
    inputs = prepare_inputs(
        model, recording, tier, include_blanks=include_blanks, processor=processor, session=session,
        stride=asked.target_length or model.config.num_response_samples if stride is None else stride,
        max_windows=max_windows,
    )  # fmt: skip
    chosen = _task(name, asked, model.config, inputs, all_neurons=all_neurons)
    indices = list(range(len(inputs.windows)))[:max_windows]
    collected = _Collected(chosen, inputs, len(indices))
    with evaluating(model, place):
        for batch in cut_windows(inputs.windows, indices, batch_size, progress=progress, label="predict"):
            collected.add(chosen.ask(model, inputs.session_key, batch))
    result = collected.finish(model.config)
    if result.n_windows_left_out:
        warnings.warn(f"task {name!r}: {chosen.left_out(result.n_windows_left_out, len(indices))}", stacklevel=2)
    if file is not None:
        result.save(file)
    return result


def _task(name: str, asked: Mask, config: OmniMouseConfig, inputs: Inputs, *, all_neurons: bool) -> Task:
    """The task, on all neurons or as many as the model takes at once."""
    n_neurons = inputs.recording.n_neurons if all_neurons else min(inputs.recording.n_neurons, config.max_population)
    try:
        mask = fit_mask(asked, n_neurons, config, inputs.windows.missing)
    except ValueError as error:
        raise ValueError(
            f"task {name!r} cannot be predicted on {inputs.recording.path}: {error}; choose another task"
        ) from None
    first = None if n_neurons == inputs.recording.n_neurons else n_neurons
    return Task.of(name, mask, config, inputs.session_key, inputs.windows, first)


class _Collected:
    """The arrays of a prediction, filled batch by batch."""

    def __init__(self, task: Task, inputs: Inputs, n_windows: int) -> None:
        self.task, self.inputs = task, inputs
        self.n_windows = 0
        self.starts = np.empty(n_windows, dtype=np.float64)
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, answer: Answer | None) -> None:
        """Takes the windows of a batch that were predicted."""
        if answer is None:
            return
        self.starts[self.n_windows : self.n_windows + len(answer)] = answer.starts
        output, resolved = answer.output, self.task.resolved
        if resolved.predicts_responses:
            predictions, targets = output.response_predictions, output.response_targets
            if self.task.rotation is not None:
                assert answer.neuron_ids is not None and predictions is not None
                ids = answer.neuron_ids[:, resolved.first_target_neuron :]
                predictions = in_file_order(predictions, ids, resolved.n_neurons)
                samples = slice(resolved.target_start, resolved.target_start + predictions.shape[1])
                targets = answer.part["responses"][:, samples, : resolved.n_neurons]
            self._put("predictions", predictions)
            self._put("targets", targets)
        if resolved.decodes_behavior:
            self._put("behavior_predictions", output.behavior_predictions)
            self._put("behavior_targets", answer.part["behavior"])
        self.n_windows += len(answer)

    def _put(self, name: str, values: torch.Tensor | None) -> None:
        assert values is not None
        block = values.float().cpu().numpy()
        if name not in self.arrays:
            self.arrays[name] = np.empty((len(self.starts), *block.shape[1:]), dtype=np.float32)
        self.arrays[name][self.n_windows : self.n_windows + len(block)] = block

    def finish(self, config: OmniMouseConfig) -> Predictions:
        """The result, cut to the windows that were predicted.

        Raises:
            ValueError: there is none.
        """
        starts, inputs, resolved = self.starts[: self.n_windows], self.inputs, self.task.resolved
        if not self.n_windows:
            message = f"task {self.task.name!r}: {self.task.left_out(len(self.starts), len(self.starts))}"
            raise ValueError(f"nothing to predict on {inputs.recording.path}, tier {inputs.tier!r}: {message}")
        known: dict[str, Any] = {name: array[: self.n_windows] for name, array in self.arrays.items()}
        if resolved.predicts_responses:
            index = np.arange(self.task.first_target_neuron, resolved.n_neurons)
            unit_ids = inputs.recording.unit_ids
            known |= {
                "times": starts[:, None]
                + (resolved.target_start + np.arange(resolved.target_length)) / config.response_rate,
                "neuron_index": index,
                "neuron_ids": index if unit_ids is None else np.asarray(unit_ids)[index],
                "response_scale": response_scale(inputs.recording, inputs.processor)[index],
            }
        if resolved.decodes_behavior:
            known["behavior_times"] = starts[:, None] + np.arange(config.num_behavior_samples) / config.behavior_rate
            known["behavior_channels"] = tuple(config.behavior_channels)
        return Predictions(
            session_key=inputs.session_key,
            tier=inputs.tier,
            task=self.task.name,
            window_starts=starts,
            n_windows_left_out=len(self.starts) - self.n_windows,
            **known,
        )
