"""Predicting one task on one tier of a session, in memory or into a file that grows."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from omnimouse.evaluation.computing.precision import Precision
from omnimouse.evaluation.evaluate import name_tasks
from omnimouse.evaluation.inputs import Batch, Inputs, Task, as_recording, cut_windows, evaluating, prepare_inputs
from omnimouse.evaluation.predicting.growing_npz import Columns
from omnimouse.evaluation.predicting.prediction_store import MemoryStore, Store, growing_store
from omnimouse.evaluation.predicting.predictions import Predictions
from omnimouse.evaluation.predicting.rollout import Rollout
from omnimouse.evaluation.predicting.task_arrays import Rows, task_columns, task_facts, task_rows
from omnimouse.model.kernels.row_pieces import windows_at_once
from omnimouse.model.masking.mask_fitting import fit_mask
from omnimouse.model.processing_omnimouse import processor_fields
from omnimouse.recordings.views.fingerprint import fingerprint, window_fingerprint
from omnimouse.support.compute_devices import Device, autocast_type, resolve_device
from omnimouse.support.outputs import check_output
from omnimouse.support.validation import check_flag, whole_number
from omnimouse.support.version import __version__

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.masking.masks import Mask
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork
    from omnimouse.model.processing_omnimouse import OmniMouseProcessor
    from omnimouse.recordings import Recording

Ask = Callable[["OmniMouseNetwork", str, Batch], Rows | None]
"""Gives the rows of the windows of a batch that can be predicted, None if there is none."""


def predict(
    model: OmniMouseNetwork,
    recording: Recording | str | os.PathLike[str],
    task: str | Mask,
    *,
    tier: str | None = None,
    stride: int | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = True,
    rollout: int = 1,
    batch_size: int = 8,
    max_windows: int | None = None,
    all_neurons: bool = True,
    processor: OmniMouseProcessor | None = None,
    include_blanks: bool = True,
    progress: bool = True,
    session: str | None = None,
    device: Device = None,
    precision: Precision = "auto",
) -> Predictions:
    """Predicts one task on one tier of one session and returns aligned arrays.

    They take 8 bytes per window, target sample and target neuron, 8.6 GB an hour of 10,000: without `output` in memory.

    Args:
        model, recording, tier, include_blanks, processor, progress, session, device, precision: `omnimouse.evaluation`.
        task: a task name, "suite/name" or a `Mask`. Behaviour that was not recorded is not decoded.
        stride: see `omnimouse.evaluation`; default: what is predicted of a run follows without gap or overlap.
        output: the `.npz` file to write, which grows in a folder beside it (its name with ".partial") until it is
            whole; arrays returned lie in it, as those of `Predictions.load(output, mapped=True)`.
        resume: go on where a killed call stopped, refused where anything that decides numbers differs; False: anew.
        rollout: so many windows follow each other, each shown the predictions of the last; see `Rollout`.
        batch_size: windows per forward pass; fewer where these would take too much memory, see `windows_at_once`.
        max_windows: only the first so many windows.
        all_neurons: the whole population; False: only its first `config.max_population` neurons.

    Raises:
        ValueError: unknown session, tier, task or device; a task that does not fit (see `fit_mask`) or cannot be rolled
            out; other neurons than the session has; no window, or NaN in all; an output that cannot be or is in use.
        OSError: the disk is full; what was predicted is kept, and the same call goes on there.

    Warns:
        UserWarning: some windows hold NaN where the task needs values; they are left out and counted.
    """
    check_flag("resume", resume)
    place, recording = resolve_device(device), as_recording(recording)
    rollout, batch_size = whole_number("rollout", rollout), whole_number("batch_size", batch_size)
    file = None if output is None else check_output(output, recording.path)
    ((name, asked),) = name_tasks([task], model.config).items()
    inputs = prepare_inputs(
        model, recording, tier, include_blanks=include_blanks, processor=processor, session=session,
        stride=_target(asked, rollout, model.config) if stride is None else stride, max_windows=max_windows,
    )  # fmt: skip
    chosen = _task(name, asked, model.config, inputs, all_neurons=all_neurons)
    with evaluating(model, place, precision):
        call = _Call.of(model, chosen, inputs, rollout, max_windows, batch_size)
        result = call.in_memory(progress) if file is None else call.in_file(file, progress, resume=resume)
    if result.n_windows_left_out:
        warnings.warn(f"task {name!r}: {chosen.left_out(result.n_windows_left_out, call.n_windows)}", stacklevel=2)
    return result


def _target(mask: Mask, steps: int, config: OmniMouseConfig) -> int:
    """Samples that are predicted of a window, behaviour in all of it."""
    return mask.target_length * steps or config.num_response_samples


@dataclass(frozen=True)
class _Call:
    """What is to be predicted, of how many windows, on the device where the model is."""

    model: OmniMouseNetwork
    task: Task
    inputs: Inputs
    steps: int
    n_windows: int
    batch_size: int
    ask: Ask

    @classmethod
    def of(
        cls, model: OmniMouseNetwork, task: Task, inputs: Inputs, steps: int, max_windows: int | None, batch_size: int
    ) -> _Call:
        config = model.config
        ask = partial(_answer, task) if steps == 1 else Rollout.of(task, config, steps, inputs).rows
        most = min(batch_size, windows_at_once(task.resolved, config, model.device))
        return cls(model, task, inputs, steps, len(inputs.windows.starts[:max_windows]), most, ask)

    def in_memory(self, progress: bool) -> Predictions:
        store = MemoryStore(self._columns, self.n_windows)
        self._fill(store, progress)
        arrays: dict[str, Any] = {name: array[: store.rows] for name, array in store.whole.items()}
        return Predictions(**self._facts(store), **arrays)

    def in_file(self, file: Path, progress: bool, *, resume: bool) -> Predictions:
        with growing_store(file, self._columns, self.n_windows, self._identity, resume=resume) as store:
            self._fill(store, progress)
            store.finish({name: np.asarray(value) for name, value in self._facts(store).items()})
        return Predictions.load(file, mapped=True)

    @property
    def _columns(self) -> Columns:
        return task_columns(self.task, self.model.config, self.steps)

    def _fill(self, store: Store, progress: bool) -> None:
        """Predicts every window that a store does not have yet."""
        shown: dict[str, Any] = {"progress": progress, "label": "predict", "done": store.done}
        for batch in cut_windows(self.inputs.windows, list(range(self.n_windows)), self.batch_size, **shown):
            store.add(len(batch.indices), self.ask(self.model, self.inputs.session_key, batch) or {})

    def _facts(self, store: Store) -> dict[str, Any]:
        """What is said of the rows of a store that is full.

        Raises:
            ValueError: it holds none.
        """
        left_out, inputs = self.n_windows - store.rows, self.inputs
        if not store.rows:
            message = f"task {self.task.name!r}: {self.task.left_out(left_out, self.n_windows)}"
            raise ValueError(f"nothing to predict on {inputs.recording.path}, tier {inputs.tier!r}: {message}")
        facts = task_facts(self.task, inputs, self.model.config, store.starts(), self.steps)
        named = {"session_key": inputs.session_key, "tier": inputs.tier, "task": self.task.name}
        return {**named, **facts, "n_windows_left_out": left_out}

    @property
    def _identity(self) -> dict[str, Any]:
        """All that decides the numbers: a call goes on only where another with the same stopped."""
        model, inputs, processor, place = self.model, self.inputs, self.inputs.processor, self.model.device.type
        precision = autocast_type(place) or model.dtype
        made_by = {"precision": str(precision), "torch": torch.__version__, "omnimouse": __version__}
        return {
            "session": inputs.session_key,
            **inputs.hashes(model),
            "recording": fingerprint(inputs.recording, height=processor.frame_height, width=processor.frame_width),
            "processor": processor_fields(processor),
            "windows": window_fingerprint(inputs.windows.starts[: self.n_windows]),
            "tier": inputs.tier,
            "task": {"name": self.task.name, "mask": repr(self.task.mask), "neurons": self.task.resolved.n_neurons},
            "settings": {"batch_size": self.batch_size, "rollout": self.steps},
            "computed by": {"device": place, **made_by},
        }


def _answer(task: Task, model: OmniMouseNetwork, key: str, batch: Batch) -> Rows | None:
    answer = task.ask(model, key, batch)
    return None if answer is None else task_rows(task, answer)


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
