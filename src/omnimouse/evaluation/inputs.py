"""What evaluation and prediction share: the windows of one session, checked against the model, cut batch by batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from omnimouse.evaluation.computing.precision import Precision, computing_in
from omnimouse.evaluation.rotation import Rotation
from omnimouse.evaluation.simulated_cores import say_if_only_simulated
from omnimouse.evaluation.tiers import SCORED_TIERS, choose_tier, notes_on_tier, use_in_training
from omnimouse.model.input_checks import recorded_channels
from omnimouse.model.processing_omnimouse import OmniMouseProcessor, session_processor
from omnimouse.model.session_tables.core_and_sessions import scored_core
from omnimouse.model.session_tables.session_specs import hash_unit_ids
from omnimouse.recordings import Recording, Windows, open_recording
from omnimouse.support.compute_devices import computing_on
from omnimouse.support.progress import progress_bar
from omnimouse.support.tensor_files import hash_tensors
from omnimouse.support.validation import whole_number

if TYPE_CHECKING:
    from omnimouse.model.configuration_omnimouse import OmniMouseConfig
    from omnimouse.model.masking.masks import Mask, ResolvedMask
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork, OmniMouseOutput


@dataclass(frozen=True)
class Inputs:
    """The windows of one session and tier, ready for a model.

    Attributes:
        recording: the open recording.
        session_key: its session in the model.
        processor: how the recording is resampled and normalised.
        windows: at least one window.
        tier: the tier of the windows.
        use: what the weights know of this tier, see `use_in_training`.
        notes: what a reader of scores must know of the tier.
    """

    recording: Recording
    session_key: str
    processor: OmniMouseProcessor
    windows: Windows
    tier: str
    use: str | None
    notes: tuple[str, ...]

    def warn_of_use(self, *, stacklevel: int) -> None:
        """Warns where the weights were trained or selected on these trials."""
        if self.use is not None:
            warnings.warn(f"session {self.session_key}: {self.notes[-1]}", stacklevel=stacklevel)

    def hashes(self, model: OmniMouseNetwork) -> dict[str, Any]:
        """The weights that scores of this session belong to; a LoRA around a core makes other scores."""
        state = model.session_state(self.session_key)
        return {"core_sha256": scored_core(model), "session_sha256": hash_tensors(state)}


def as_recording(recording: Recording | str | os.PathLike[str]) -> Recording:
    """Open a recording unless it already is."""
    return open_recording(recording) if isinstance(recording, (str, os.PathLike)) else recording


def prepare_inputs(
    model: OmniMouseNetwork,
    recording: Recording | str | os.PathLike[str],
    tier: str | None,
    *,
    stride: int,
    include_blanks: bool,
    processor: OmniMouseProcessor | None,
    session: str | None,
    allow_withheld: bool = False,
    max_windows: int | None = None,
    order: Sequence[str] = SCORED_TIERS,
) -> Inputs:
    """Opens the windows of a tier and checks that model and recording belong together.

    With `allow_withheld`, also those of tiers whose responses are withheld, which are then NaN. Without a tier, it is
    the first in the order, see `choose_tier`.

    Raises:
        ValueError: unknown session or tier, other neurons than the session has, a number that is not positive, no
            window.
    """
    if max_windows is not None:
        whole_number("max_windows", max_windows, ", or None for all windows")
    recording = as_recording(recording)
    key = model.sessions.full_key(recording.session_key if session is None else session)
    if key not in model.session_keys:
        known = ", ".join(model.session_keys) or "none"
        raise ValueError(
            f"session {key!r} is not in the model (its sessions: {known}); add it with model.add_session(recording) "
            "and finetune, load its adapter with model.load_session(folder), or pass session=KEY"
        )
    check_session(model, recording, key)
    say_if_only_simulated(model, recording)
    training = model.session_spec(key).training
    default = order[0] if tier is None else None
    if tier is None:
        tier = choose_tier(recording, training, order)
    if tier not in recording.tiers:
        raise ValueError(
            f"recording {recording.path} has no trials of tier {tier!r}; its tiers are {', '.join(recording.tiers)}: "
            "pass one of these"
        )
    stride = whole_number("stride", stride, " (every stride-th possible window start is used)")
    if processor is None:
        processor = session_processor(model.sessions, key, model.processor)
    windows = Windows(
        recording, (tier,), stride=stride, include_blanks=include_blanks, processor=processor,
        allow_withheld=allow_withheld,
    )  # fmt: skip
    if len(windows) == 0:
        raise ValueError(f"recording {recording.path} has no window of tier {tier!r}: {windows.explain()}")
    use = use_in_training(tier, training)
    return Inputs(recording, key, processor, windows, tier, use, tuple(notes_on_tier(tier, default, use)))


def check_session(model: OmniMouseNetwork, recording: Recording, key: str) -> None:
    """Refuses a recording whose neurons are not those of its session in the model.

    Raises:
        ValueError: another number of neurons, other unit ids, or the same in another order.
    """
    spec = model.session_spec(key)
    do = "Use the recording this session was added from, or add this one under another key with session=KEY."
    if recording.n_neurons != spec.n_neurons:
        raise ValueError(
            f"recording {recording.path} has {recording.n_neurons} neurons, but session {key!r} in the model has "
            f"{spec.n_neurons}. {do}"
        )
    found = hash_unit_ids(recording.unit_ids)
    if found is not None and spec.unit_ids_hash is not None and found != spec.unit_ids_hash:
        raise ValueError(
            f"recording {recording.path} has other unit ids than those session {key!r} in the model was added with "
            f"(SHA-256 {found[:12]}, expected {spec.unit_ids_hash[:12]}): its neurons are others or in another order, "
            f"so the neuron vectors would belong to other neurons. {do}"
        )


@dataclass(frozen=True)
class Needs:
    """Which of "responses", "video" and "behavior" a task takes in or is compared with.

    Attributes:
        inputs: what must be finite.
        passed: what the model is given, the behaviour to be decoded too.
    """

    inputs: tuple[str, ...]
    passed: tuple[str, ...]

    @classmethod
    def of(cls, resolved: ResolvedMask) -> Needs:
        """The needs of a task."""
        wanted = {
            "responses": resolved.shows_responses or resolved.predicts_responses,
            "video": resolved.shows_video,
            "behavior": resolved.encodes_behavior,
        }
        inputs = tuple(name for name, needed in wanted.items() if needed)
        return cls(inputs, (*inputs, "behavior") if resolved.decodes_behavior else inputs)

    @property
    def besides_responses(self) -> tuple[str, ...]:
        """What a task shows besides responses."""
        return tuple(name for name in self.inputs if name != "responses")


@dataclass(frozen=True)
class Batch:
    """Windows that were cut together.

    Attributes:
        indices: which they are.
        starts: their starts [B], float64 seconds.
        arrays: what was cut, by name.
        finite: by the same names, which windows hold neither NaN nor infinity there: bool [B].
    """

    indices: list[int]
    starts: np.ndarray
    arrays: dict[str, Tensor]
    finite: dict[str, Tensor]


def cut_windows(
    windows: Windows, indices: list[int], batch_size: int, *, progress: bool = False, label: str = "", done: int = 0
) -> Iterator[Batch]:
    """Cuts windows in batches, of which the last may be short; so many of them are done already.

    Raises:
        ValueError: `batch_size` is not positive.
    """
    batch_size = whole_number("batch_size", batch_size)
    counted: dict[str, Any] = {"total": len(indices), "initial": done, "unit": "window"}
    with progress_bar(desc=label, shown=progress, leave=False, **counted) as bar:
        for start in range(done, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            arrays = windows.batch(chosen)
            finite = {name: torch.isfinite(values) for name, values in arrays.items()}
            if "behavior" in finite:  # nobody expects values in channels that were not recorded
                finite["behavior"][:, list(windows.missing_channels)] = True
            whole = {name: values.flatten(1).all(dim=1) for name, values in finite.items()}
            yield Batch(chosen, windows.starts[np.asarray(chosen)], arrays, whole)
            bar.update(len(chosen))


VideoSource = Callable[["OmniMouseNetwork", Batch, Tensor, "Mask"], Tensor]
"""Gives `model.encode_video` of those windows of a batch (bool [B]) for a mask, on the model's device."""


def encode_windows(model: OmniMouseNetwork, batch: Batch, rows: Tensor, mask: Mask) -> Tensor:
    """The source that computes them."""
    return model.encode_video(batch.arrays["video"][rows].to(model.device), mask)


class SharedVideo:
    """Video features of the windows of a batch, for tasks that show the same frames of the same windows.

    Only those asked for last are kept: ask tasks in the order of `shared_order`.

    Args:
        model: the model.
        batch: the windows.
        source: where features come from.
    """

    def __init__(self, model: OmniMouseNetwork, batch: Batch, source: VideoSource = encode_windows) -> None:
        self.model, self.batch, self.source = model, batch, source
        self._kept: tuple[Any, Tensor] | None = None

    def features(self, rows: Tensor, mask: Mask) -> Tensor:
        """Features of the windows `rows` (bool [B]) under a mask."""
        shown = (mask.frames_start, mask.n_frames, tuple(rows.tolist()))
        if self._kept is None or self._kept[0] != shown:
            self._kept = None  # before the next are made: two are never held at once
            self._kept = (shown, self.source(self.model, self.batch, rows, mask))
        return self._kept[1]


@dataclass(frozen=True)
class Answer:
    """What a model makes of the windows of a batch that a task can be put to.

    Attributes:
        rows: which windows of the batch they are: bool [B].
        part: what the model was given, on its device.
        starts: starts of these windows, float64 seconds.
        neuron_ids: int64 [windows, P], the neurons of each as the mask counts them; None for file order.
        output: of the model.
    """

    rows: Tensor
    part: dict[str, Tensor]
    starts: np.ndarray
    neuron_ids: Tensor | None
    output: OmniMouseOutput

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True)
class Task:
    """A mask put to the first neurons of a session.

    Attributes:
        name: what it is called.
        mask: the mask.
        resolved: on these neurons.
        needs: what it takes of a window.
        rotation: which neurons it shows in which window; None for file order.
        first: so many neurons of the population are passed in, None for all.
    """

    name: str
    mask: Mask
    resolved: ResolvedMask
    needs: Needs
    rotation: Rotation | None
    first: int | None = None

    @classmethod
    def of(
        cls, name: str, mask: Mask, config: OmniMouseConfig, key: str, windows: Windows, first: int | None = None
    ) -> Task:
        """A task for the windows of session `key`."""
        recording = windows.recording
        n_neurons = recording.n_neurons if first is None else first
        resolved = mask.resolve(n_neurons, config)
        rotation = Rotation.of(mask, key, n_neurons, recording.unit_ids)
        return cls(name, mask, resolved, Needs.of(resolved), rotation, first)

    @property
    def first_target_neuron(self) -> int:
        """Position of the first neuron that is ever a target."""
        return 0 if self.rotation else self.resolved.first_target_neuron

    def ask(self, model: OmniMouseNetwork, key: str, batch: Batch, video: SharedVideo | None = None) -> Answer | None:
        """One forward pass over the windows that are finite where the task needs values; None if there is none.

        With `video`, features that other tasks have asked for are not computed again.
        """
        rows = torch.ones(len(batch.indices), dtype=torch.bool)
        for name in self.needs.inputs:
            rows &= batch.finite[name]
        if not rows.any():
            return None
        shared = video if "video" in self.needs.passed else None
        names = [name for name in self.needs.passed if shared is None or name != "video"]
        given = {name: batch.arrays[name][rows] for name in names}
        channels = recorded_channels(self.mask, given.get("behavior"), key)  # while it is on the host
        channels = tuple(range(len(model.config.behavior_channels))) if channels is None else channels
        part = {name: array.to(model.device) for name, array in given.items()}
        if shared is not None:
            part["video_features"] = shared.features(rows, self.mask)
        starts, ids = batch.starts[rows.numpy()], None
        if self.rotation is not None:
            ids = self.rotation.neuron_ids(starts)
        elif self.first is not None:
            ids = torch.arange(self.first).expand(len(starts), -1)
        return Answer(rows, part, starts, ids, run_model(model, key, self.mask, part, ids, channels))

    def left_out(self, n_left_out: int, n_windows: int) -> str:
        """The sentence about windows that hold NaN."""
        return (
            f"{n_left_out} of {n_windows} windows left out: NaN in what the task needs "
            f"({', '.join(self.needs.inputs)}); usual causes are INVALID trials and missing samples of the eye trace, "
            "which the processor profile 'strict' excludes"
        )


def shared_order(tasks: Sequence[Task]) -> list[list[int]]:
    """Which of some tasks of a session, by number, are put to a batch together: those of one mask, which have one
    answer; and after each other, those that show the same frames of the same windows."""
    masks: dict[Mask, list[int]] = {}
    for index, task in enumerate(tasks):
        masks.setdefault(task.mask, []).append(index)

    def shown(same: list[int]) -> tuple[int, int, tuple[str, ...]]:
        task = tasks[same[0]]
        return task.mask.frames_start, task.mask.n_frames, task.needs.inputs

    return sorted(masks.values(), key=shown)


def run_model(
    model: OmniMouseNetwork,
    key: str,
    mask: Mask,
    part: dict[str, Tensor],
    neuron_ids: Tensor | None,
    channels: tuple[int, ...] | None = None,
) -> OmniMouseOutput:
    """One forward pass; without `neuron_ids` [B, P], on the host, over the whole population in file order."""
    all_neurons = neuron_ids is None
    return model(key, **part, mask=mask, neuron_ids=neuron_ids, all_neurons=all_neurons, behavior_channels=channels)


@contextmanager
def evaluating(model: OmniMouseNetwork, device: torch.device | None, precision: Precision) -> Iterator[str]:
    """Has a model in eval mode, on a device, in a precision, without gradients; afterwards it is as and where it was.

    Gives the precision that was chosen.
    """
    was_training = model.training
    model.eval()
    try:
        with computing_on(model, device), torch.inference_mode(), computing_in(model, precision) as chosen:
            yield chosen
    finally:
        model.train(was_training)
