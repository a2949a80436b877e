"""What evaluation and prediction share: the windows of one session, checked against the model, cut batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnimouse.evaluation.simulated_cores import say_if_only_simulated
from omnimouse.evaluation.tiers import SCORED_TIERS, choose_tier, notes_on_tier, use_in_training
from omnimouse.model.processing_omnimouse import OmniMouseProcessor, session_processor
from omnimouse.model.sessions import hash_unit_ids
from omnimouse.recordings import Recording, Windows, open_recording
from omnimouse.support.progress import progress_bar

if TYPE_CHECKING:
    from omnimouse.model.masks import Mask, ResolvedMask
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


def as_recording(recording: Recording | str | os.PathLike[str]) -> Recording:
    """Open a recording unless it already is."""
    return open_recording(recording) if isinstance(recording, (str, os.PathLike)) else recording


def prepare(
    model: OmniMouseNetwork,
    recording: Recording | str | os.PathLike[str],
    tier: str | None,
    *,
    stride: int,
    include_blanks: bool,
    processor: OmniMouseProcessor | None,
    session: str | None,
    allow_withheld: bool = False,
    order: Sequence[str] = SCORED_TIERS,
) -> Inputs:
    """Open the windows of a tier and check that model and recording belong together.

    With `allow_withheld`, also those of tiers whose responses are withheld, which are then NaN. Without a tier, it is
    the first in the order, see `choose_tier`.

    Raises:
        ValueError: unknown session or tier, another number of neurons than the session has, other neurons, no window.
    """
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
    if stride < 1:
        raise ValueError(f"stride is {stride}; expected 1 or more (every stride-th possible window start is used)")
    if processor is None:
        processor = session_processor(model.sessions, key, model.processor)
    windows = Windows(
        recording,
        (tier,),
        stride=stride,
        include_blanks=include_blanks,
        processor=processor,
        allow_withheld=allow_withheld,
    )
    if len(windows) == 0:
        raise ValueError(f"recording {recording.path} has no window of tier {tier!r}: {windows.explain()}")
    use = use_in_training(tier, training)
    return Inputs(recording, key, processor, windows, tier, use, tuple(notes_on_tier(tier, default, use)))


def check_max_windows(max_windows: int | None) -> None:
    """Raises ValueError where it is not positive."""
    if max_windows is not None and max_windows < 1:
        raise ValueError(f"max_windows is {max_windows}; expected 1 or more, or None for all windows")


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
    """Which parts of a window a task takes in or is compared with."""

    inputs: tuple[str, ...]
    passed: tuple[str, ...]

    @classmethod
    def of(cls, resolved: ResolvedMask) -> Needs:
        """The needs of a task: `inputs` must be finite, `passed` also holds the behaviour to be decoded."""
        wanted = {
            "responses": resolved.shows_responses or resolved.predicts_responses,
            "video": resolved.shows_video,
            "behavior": resolved.encodes_behavior,
        }
        inputs = tuple(name for name, needed in wanted.items() if needed)
        decoded = ("behavior",) if resolved.decodes_behavior else ()
        return cls(inputs, inputs + decoded)


def finite_windows(batch: dict[str, Tensor], missing_channels: Sequence[int] = ()) -> dict[str, Tensor]:
    """For every part of a batch, which of its windows are free of NaN and infinity: name -> bool [B].

    `missing_channels` are rows of the behaviour that nobody expects values in.
    """
    finite = {name: torch.isfinite(values) for name, values in batch.items()}
    if "behavior" in finite:
        finite["behavior"][:, list(missing_channels)] = True
    return {name: values.flatten(1).all(dim=1) for name, values in finite.items()}


def usable(finite: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """Which windows are finite in all the named parts: bool [B]."""
    size = len(next(iter(finite.values())))
    return torch.stack([torch.ones(size, dtype=torch.bool), *(finite[name] for name in names)]).all(dim=0)


def batches(
    windows: Windows, indices: list[int], batch_size: int, *, progress: bool, label: str
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Cut windows in batches: yields (indices, windows), the last batch may be short.

    Raises:
        ValueError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    with progress_bar(total=len(indices), desc=label, unit="window", shown=progress, leave=False) as bar:
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            yield chosen, windows.batch(chosen)
            bar.update(len(chosen))


def run_model(
    model: OmniMouseNetwork,
    session_key: str,
    mask: Mask,
    batch: dict[str, Tensor],
    *,
    neuron_ids: Tensor | None = None,
) -> OmniMouseOutput:
    """One forward pass; without `neuron_ids` over the whole population in file order.

    Args:
        model: in eval mode.
        session_key: the session.
        mask: the task.
        batch: the parts this task needs, on the model's device.
        neuron_ids: [P'], the neurons to pass in, the same for every window, or [B, P'] for each its own.
    """
    if neuron_ids is None:
        return model(session_key, **batch, mask=mask, all_neurons=True)
    size = len(next(iter(batch.values())))
    return model(session_key, **batch, mask=mask, neuron_ids=neuron_ids.to(model.device).expand(size, -1))


def describe_left_out(n_left_out: int, n_windows: int, names: tuple[str, ...]) -> str:
    """The sentence about windows that hold NaN."""
    return (
        f"{n_left_out} of {n_windows} windows left out: NaN in what the task needs ({', '.join(names)}); usual causes "
        "are INVALID trials and missing samples of the eye trace, which the processor profile 'strict' excludes"
    )
