"""A recording from plain arrays: numpy, memory maps, h5py or zarr datasets, at any rates and frame sizes.

Responses and video stay where they are and are read window by window; behaviour, a few MB, is read at once. Nothing is
written. A model knows behaviour by the names pupil_size, pupil_size_derivative, gaze_x, gaze_y and running_speed. If
video or trials come on the clock of a rig, so must the responses: `times={"responses": began + np.arange(T) / rate}`.
Trials that reach beyond the next one's start by rounding, up to 1 ms, are cut back to it.

Shape letters: T response samples, N neurons, F displayed frames, K stored frames, H and W their pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from omnimouse.model.configuration_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.model.session_tables.session_names import animal_of
from omnimouse.recordings.checks.check import check_open_recording
from omnimouse.recordings.data.findings import Finding, Findings
from omnimouse.recordings.data.plausible import doubt_about_ids, identity
from omnimouse.recordings.data.screen import NoVideo
from omnimouse.recordings.formats.arrays.array_behavior import behavior_devices, named_channels
from omnimouse.recordings.formats.arrays.array_devices import ArrayDevice, Held
from omnimouse.recordings.formats.arrays.array_video import Movie, array_screen
from omnimouse.recordings.formats.arrays.axes import check_axes, check_neurons
from omnimouse.recordings.formats.arrays.clocks import Timing, as_clock
from omnimouse.recordings.formats.arrays.likes import as_array, as_vector
from omnimouse.recordings.formats.arrays.trials import Tiers, TrialTime, as_trials
from omnimouse.recordings.recording import Recording


@dataclass(repr=False)
class ArrayRecording(Recording):
    """A recording over arrays; there is no folder, and `path` only says so in messages."""

    stores_statistics: ClassVar[bool] = False

    def validate(self) -> list[Finding]:
        """Everything that is wrong or noteworthy, found by reading the arrays in pieces."""
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

    What was not recorded is left out. Infinite, masked and fill values (-9999, 1e20) are read as NaN. The derivative of
    the pupil size is computed where only the size is given.

    Args:
        responses: `[T, N]`, deconvolved activity or counts from 0 on; numpy, torch, pandas, h5py, zarr, dask, xarray.
            Suite2p's `spks.npy` has neurons first, and regions that are no cells: pass `spks[iscell[:, 0] > 0].T`.
        rate: Hz of the responses (from 0 s), or a mapping from "responses", "video", "behavior" or a channel's name to
            Hz, counted from their begin. What has neither rate nor times has their clock if it has as many rows.
        video: grey frames `[K, H, W]` of any size, reduced to the model's by averaging over areas.
        behavior: a table or mapping from channel names to `[samples]`, or an array `[samples, channels]`. Names that
            mean a channel ("running", "Pupil X (px)") are read as it; others are warned about and not used.
        times: seconds `[T]` of the responses, or a mapping as `rate` has, on the one clock of all devices and trials.
            May jitter; gaps of behaviour are missing values, in those of the responses no trial may lie.
        video_index: `[F]`, the row of `video` that each displayed frame shows, negative for a blank: for movies that
            are shown several times. Rate and times of "video" are then those of the displayed frames.
        video_range: black and white; default 0 and 255, where a movie between 0 and 1 is refused.
        blank_level: grey level of blanks, 0 to 255.
        channels: names of the columns where `behavior` is an array.
        trials: (start, end, tier) or (start, end, tier, condition) each, in seconds; or a table with such columns, or
            "duration" (`trials.COLUMNS` has more names). Time in no trial is not used; placeholders are no condition.
        split: tier -> share of the time, where no trials are given; default: train .8, validation .1, final_test .1.
        block_seconds: length of the blocks of a split, at least 2; a tenth of the recording where that is shorter.
        unit_ids: `[N]` identities of the neurons.
        session_key, animal_id: names, such as "m1-2-1" and "m1"; default: the animal that the key names (`animal_of`).

    Raises:
        ValueError: arrays whose shapes, types, rates or times do not fit; the message says which and what to do.

    Warns:
        UserWarning: what fits, but is probably not what was meant; `Recording.findings` has it too.
    """
    timing, movie = Timing(rate, times), Movie(video, video_index, video_range, blank_level)
    tiers = Tiers(trials, split, block_seconds)
    return _assembled(session_key, animal_id, responses, unit_ids, timing, movie, behavior, channels, tiers)


def _assembled(
    session_key: str, animal_id: str | None, responses: Any, unit_ids: Any, timing: Timing, movie: Movie,
    behavior: Any, channels: Sequence[str], tiers: Tiers,
) -> ArrayRecording:  # fmt: skip
    found, key = Findings(), identity(session_key)
    if key is None:
        raise ValueError(f"session_key: {session_key!r}, expected a name such as 'm1-2-1'.")
    where = Path(f"arrays of {key}")
    columns = list(map(str, getattr(responses, "columns", ())))
    responses = as_array(responses, "responses", 2, "[samples, neurons], time along rows")
    check_neurons(responses, columns)
    signals = named_channels(behavior, channels, where, found)
    timing.check_names(signals)
    if movie.video is None and movie.index is not None:
        raise ValueError("video_index is given, but no video. Pass the frames it counts as video=.")
    lengths = {name: (given, len(values)) for name, (given, values) in signals.items()}
    if movie.n_displayed is not None:
        lengths["video"] = "video", movie.n_displayed
    ids = None if unit_ids is None else as_vector(unit_ids, "unit_ids")
    check_axes(
        responses.shape, timing, n_units=None if ids is None else ids.size, lengths=lengths, where=where, findings=found
    )
    clock = as_clock("responses", responses.shape[0], *timing.of_responses)
    neurons = Held(responses, clock.rows) if clock.rows is not None else responses
    device = ArrayDevice.over("responses", where / "responses", neurons, clock)
    device.unit_ids = None if ids is None else _checked_ids(ids.reshape(-1), device.shape[1])
    eye_tracker, treadmill = behavior_devices(signals, timing, clock, where, found)
    bounds = clock.start, clock.end
    chosen = tiers.trial_times(bounds, clock.rate, where, found)
    _refuse_gaps(device, chosen, tiers.trials is None)
    screen = (
        NoVideo(where / "video", np.array(bounds), as_trials(chosen, np.array(bounds)))
        if movie.video is None
        else array_screen(movie, timing, clock, chosen, where / "video", found)
    )
    for finding in found:
        if finding.severity == "warning":
            warnings.warn(str(finding).removeprefix("warning: "), stacklevel=3)
    return ArrayRecording(
        where, key, identity(animal_id) or animal_of(key), device, eye_tracker, treadmill, screen, tuple(found)
    )


def _refuse_gaps(device: ArrayDevice, trials: Sequence[TrialTime], are_blocks: bool) -> None:
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


def _checked_ids(ids: np.ndarray, n_neurons: int) -> np.ndarray:
    doubt = doubt_about_ids(ids, n_neurons)
    if doubt is not None:
        raise ValueError(f"unit_ids: {doubt}")
    return np.array([str(value) for value in ids]) if ids.dtype == object else np.ma.getdata(ids)
