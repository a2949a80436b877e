"""A recording from plain arrays: numpy, memory maps, h5py or zarr datasets, at any rates and frame sizes.

Responses and video stay where they are and are read window by window; behaviour, a few MB, is read at once. Nothing is
written. Shape letters: T response samples, N neurons, F displayed frames, K stored frames, H and W their pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from omnimouse.model.processing_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.data.animal_names import animal_of
from omnimouse.recordings.data.plausible import doubt_about_ids, identity
from omnimouse.recordings.data.reading import Findings
from omnimouse.recordings.data.recording_data import Finding, Recording
from omnimouse.recordings.data.screen import NoVideo, Screen
from omnimouse.recordings.formats.arrays.array_devices import ArrayDevice, Held
from omnimouse.recordings.formats.arrays.array_video import array_screen
from omnimouse.recordings.formats.arrays.axes import check_axes, check_neurons
from omnimouse.recordings.formats.arrays.behavior import behavior_devices, named_channels
from omnimouse.recordings.formats.arrays.clocks import as_clock, check_clock_names
from omnimouse.recordings.formats.arrays.likes import as_array, as_vector
from omnimouse.recordings.formats.arrays.trials import TrialTime, as_trials, choose_trials


@dataclass(repr=False)
class ArrayRecording(Recording):
    """A recording over arrays; there is no folder, and `path` only says so in messages."""

    stores_statistics: ClassVar[bool] = False

    def validate(self) -> list[Finding]:
        """Everything that is wrong or noteworthy, found by reading the arrays in pieces."""
        from omnimouse.recordings.checks.check import check_open_recording

        return check_open_recording(self)


def recording_from_arrays(
    responses: Any,
    rate: float | Mapping[str, float] | None = None,
    *,
    video: Any = None,
    behavior: Any = None,
    times: Any = None,
    video_index: Any = None,
    video_range: tuple[float, float] | None = None,
    blank_level: float = 128.0,
    channels: Sequence[str] = BEHAVIOR_CHANNELS,
    trials: Iterable[Sequence[Any]] | None = None,
    split: Mapping[str, float] | None = None,
    block_seconds: float = 60.0,
    unit_ids: Any = None,
    session_key: str = "arrays-1-1",
    animal_id: str | None = None,
) -> Recording:
    """Makes a recording of arrays, for every use that a session folder has; nothing is copied or written.

    What was not recorded is left out, and the model goes without it: masks and tasks show what there is, and a
    behaviour channel without values gets no token. The derivative of the pupil size is computed where only the size is
    given.

    Args:
        responses: `[T, N]`, one row per sample: numpy, memory map, torch, pandas, h5py, zarr, dask or xarray; any
            number type. Deconvolved activity or counts, 0 and above. Infinite, masked and fill values (-9999, 1e20) are
            read as NaN. Suite2p's `spks.npy` has neurons first, and regions that are no cells among them: pass
            `spks[iscell[:, 0] > 0].T`.
        rate: Hz of the responses, or a mapping from "responses", "video", "behavior" or a channel's name to Hz. What
            has neither rate nor times has the clock of the responses if it has as many rows. What has a rate only
            begins when the responses begin; responses that have a rate only begin at 0 s.
        video: frames `[K, H, W]` of any size, reduced to the model's by averaging over areas; grey.
        behavior: a mapping or a table (pandas, polars) from channel names to `[samples]`, or an array `[samples,
            channels]`. The names a model knows are pupil_size, pupil_size_derivative, gaze_x, gaze_y and running_speed;
            others that mean one of these ("running", "pupil_diameter", "Pupil X (px)") are read as it, with a finding;
            the rest is warned about and not used. What stands for no value is NaN afterwards, as for responses.
        times: seconds `[T]` of the responses, or a mapping as `rate` has, all on one clock. If video or trials come on
            the clock of a rig, so must the responses: `times={"responses": began + numpy.arange(T) / rate, ...}`. May
            jitter, and have gaps: of behaviour these are missing values, and in those of the responses, such as between
            trials that were stored one by one, no trial may lie.
        video_index: `[F]`, which row of `video` each displayed frame shows, negative for a blank; for movies that are
            shown several times. Rate and times of "video" are then those of the displayed frames.
        video_range: values of black and white in `video`. What is given here is meant; by default they are 0 and 255,
            and a movie whose frames, looked at all along it, lie between 0 and 1 is refused.
        blank_level: grey level of blanks, 0 to 255.
        channels: names of the columns where `behavior` is an array.
        trials: (start, end, tier) or (start, end, tier, condition) each, in seconds on the clock of `times`, or a table
            with columns "start", "end" or "duration", "tier" and, if known, "condition", or other usual names of these
            (`array_trials.COLUMNS`); pandas, polars, a mapping, a structured array. Time in no trial is not used. Ends
            that reach beyond the next start by rounding, up to 1 ms, are cut back to it. Placeholders such as NaN, "",
            "none" or -1 are no condition.
        split: tier -> share of the time, in blocks that alternate, where no trials are given; default 80 % train, 10 %
            validation, 10 % final_test.
        block_seconds: length of these blocks, at least 2; a tenth of the recording where that is shorter.
        unit_ids: `[N]` identities of the neurons.
        session_key: name of the session, such as "m1-2-1".
        animal_id: name of the animal; default: the one that the session key names (`animal_of`).

    Returns:
        The recording; `validate()` reads the arrays and reports what is wrong with them.

    Raises:
        ValueError: arrays whose shapes, types, rates or times do not fit; the message says which and what to do.

    Warns:
        UserWarning: what fits, but is probably not what was meant; `Recording.findings` has it too.
    """
    found, key, animal = Findings(), identity(session_key), identity(animal_id)
    if key is None:
        raise ValueError(f"session_key: {session_key!r}, expected a name such as 'm1-2-1'.")
    where = Path(f"arrays of {key}")
    names = list(map(str, getattr(responses, "columns", ())))
    responses = as_array(responses, "responses", 2, "[samples, neurons], time along rows")
    check_neurons(responses, names)
    signals = named_channels(behavior, channels, where, found)
    check_clock_names(rate, times, signals)
    if video is None and video_index is not None:
        raise ValueError("video_index is given, but no video. Pass the frames it counts as video=.")
    shown = video if video_index is None else video_index
    lengths = {name: (given, len(values)) for name, (given, values) in signals.items()}
    if shown is not None and hasattr(shown, "__len__"):
        lengths["video"] = "video", len(shown)
    n_units = None if unit_ids is None else as_vector(unit_ids, "unit_ids").size
    check_axes(responses.shape, rate, times, n_units=n_units, lengths=lengths, where=where, findings=found)
    clock = as_clock("responses", responses.shape[0], rate, times)
    neurons = Held(responses, clock.rows) if clock.rows is not None else responses
    device = ArrayDevice.over("responses", where / "responses", neurons, clock)
    device.unit_ids = _unit_ids(unit_ids, device.shape[1])
    eye_tracker, treadmill = behavior_devices(signals, rate, times, reference=clock, where=where, findings=found)
    bounds = (clock.start, clock.end)
    chosen = choose_trials(trials, split, block_seconds, bounds=bounds, rate=clock.rate, where=where, findings=found)
    _check_gaps(device, chosen, trials is None)
    screen: Screen
    if video is None:
        screen = NoVideo(where / "video", np.array(bounds), as_trials(chosen, np.array(bounds)))
    else:
        screen = array_screen(
            video, video_index, video_range, blank_level, rate, times,
            reference=clock, trials=chosen, folder=where / "video", findings=found,
        )  # fmt: skip
    for finding in found:
        if finding.severity == "warning":
            warnings.warn(str(finding).removeprefix("warning: "), stacklevel=2)
    return ArrayRecording(
        path=where,
        session_key=key,
        animal_id=animal or animal_of(key),
        responses=device,
        eye_tracker=eye_tracker,
        treadmill=treadmill,
        screen=screen,
        findings=tuple(found),
    )


def _check_gaps(device: ArrayDevice, trials: Sequence[TrialTime], are_blocks: bool) -> None:
    """Refuses trials in which responses were not recorded."""
    segments = np.array(device.segments()) / device.sampling_rate + device.start_time
    if len(segments) < 2:
        return
    if are_blocks:
        raise ValueError(
            f"responses: their times have gaps, the first from {segments[0, 1]:.6g} to {segments[1, 0]:.6g} s. Pass "
            "trials= that leave the gaps out, or each stretch as a recording of its own."
        )
    for start, end, *_ in trials:
        after = int(np.searchsorted(segments[:, 1], start, side="right"))
        if after < len(segments) - 1 and segments[after, 1] + 1 / device.sampling_rate < end:
            raise ValueError(
                f"responses: none were recorded from {segments[after, 1]:.6g} to {segments[after + 1, 0]:.6g} s, but a "
                f"trial lasts from {start:.6g} to {end:.6g} s. End it there, and begin another one after the gap."
            )


def _unit_ids(unit_ids: Any, n_neurons: int) -> np.ndarray | None:
    if unit_ids is None:
        return None
    ids = as_vector(unit_ids, "unit_ids").reshape(-1)
    doubt = doubt_about_ids(ids, n_neurons)
    if doubt is not None:
        raise ValueError(f"unit_ids: {doubt}")
    return np.array([str(value) for value in ids]) if ids.dtype == object else np.ma.getdata(ids)
