"""A recording from plain arrays: numpy, memory maps, h5py or zarr datasets, at any rates and frame sizes.

Responses and video stay where they are and are read window by window; behaviour, a few MB, is read at once. Nothing is
written. Shape letters: T response samples, N neurons, F displayed frames, K stored frames, H and W their pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from omnimouse.processing_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.array_clocks import Clock, as_clock, hold, tier_blocks
from omnimouse.recordings.array_devices import ArrayDevice, ArrayScreen, Held
from omnimouse.recordings.base import Finding, Recording
from omnimouse.recordings.clock import frame_indices
from omnimouse.recordings.devices import MissingDevice, SequenceDevice
from omnimouse.recordings.files import Findings
from omnimouse.recordings.screen import NoVideo, Screen, Trial
from omnimouse.recordings.session_names import animal_of

if TYPE_CHECKING:
    pass

DEFAULT_SPLIT = {"train": 0.8, "validation": 0.1, "final_test": 0.1}
"""Shares of the recording's time."""

_RUNNING = BEHAVIOR_CHANNELS[4]
_SIZE, _DERIVATIVE = BEHAVIOR_CHANNELS[:2]


@dataclass
class ArrayRecording(Recording):
    """A recording over arrays; there is no folder, and `path` only says so in messages."""

    stores_statistics: ClassVar[bool] = False

    def validate(self) -> list[Finding]:
        """Everything that is wrong or noteworthy, found by reading the arrays in pieces."""
        from omnimouse.recordings.check import check_open_recording

        return check_open_recording(self)


def recording_from_arrays(
    responses: Any,
    rate: float | Mapping[str, float] | None = None,
    *,
    video: Any = None,
    behavior: Any = None,
    times: Any = None,
    video_index: Any = None,
    video_range: tuple[float, float] = (0.0, 255.0),
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
        responses: `[T, N]`, one row per sample: numpy, memory map, h5py or zarr; any number type.
        rate: Hz of the responses, or a mapping from "responses", "video", "behavior" or a channel's name to Hz. What
            has neither rate nor times has the clock of the responses if it has as many rows.
        video: frames `[K, H, W]` of any size, reduced to the model's by averaging over areas; grey.
        behavior: a mapping from channel names to `[samples]`, or an array `[samples, channels]`. The names a model
            knows are pupil_size, pupil_size_derivative, gaze_x, gaze_y and running_speed; others are not used.
        times: seconds `[T]` of the responses, or a mapping as `rate` has. May jitter, and behaviour may have gaps,
            which are missing values; the responses may not.
        video_index: `[F]`, which row of `video` each displayed frame shows, negative for a blank; for movies that are
            shown several times. Rate and times of "video" are then those of the displayed frames.
        video_range: values of black and white in `video`.
        blank_level: grey level of blanks, 0 to 255.
        channels: names of the columns where `behavior` is an array.
        trials: (start, end, tier) or (start, end, tier, condition) each, in seconds on the clock of `times`. Time in no
            trial is not used.
        split: tier -> share of the time, in blocks that alternate, where no trials are given; default 80 % train, 10 %
            validation, 10 % final_test.
        block_seconds: length of these blocks; a tenth of the recording where that is shorter.
        unit_ids: `[N]` identities of the neurons.
        session_key: name of the session, such as "m1-2-1".
        animal_id: name of the animal; default: the one that the session key names (`animal_of`).

    Returns:
        The recording; `validate()` reads the arrays and reports what is wrong with them.

    Raises:
        ValueError: arrays whose shapes, types, rates or times do not fit; the message says which and what to do.
    """
    found = Findings()
    where = Path(f"arrays of {session_key}")
    n_samples, n_neurons = _shape(responses, "responses", 2, "[samples, neurons], time along rows")
    clock = as_clock("responses", n_samples, rate, times)
    if clock.rows is not None and (clock.rows < 0).any():
        raise ValueError("responses: their times have gaps. Pass each stretch as a recording of its own.")
    neurons = Held(responses, clock.rows) if clock.rows is not None else responses
    device = _device("responses", where, neurons, clock, None)
    device.unit_ids = _unit_ids(unit_ids, n_neurons)
    eye_tracker, treadmill = _behavior(behavior, channels, rate, times, clock, where, found)
    bounds = (clock.start, clock.end)
    chosen = _trials(trials, split, block_seconds, bounds)
    screen: Screen
    if video is None:
        if video_index is not None:
            raise ValueError("video_index is given, but no video. Pass the frames it counts as video=.")
        screen = NoVideo(where / "video", np.array(bounds), _as_trials(chosen, np.array(bounds)))
    else:
        timestamps, index = _video(video, video_index, video_range, rate, times, clock)
        screen = ArrayScreen(
            where / "video", timestamps, _as_trials(chosen, timestamps),
            frames=video, index=index, levels=(float(video_range[0]), float(video_range[1])), blank=float(blank_level),
        )  # fmt: skip
    return ArrayRecording(
        path=where,
        session_key=session_key,
        animal_id=animal_of(session_key) if animal_id is None else str(animal_id),
        responses=device,
        eye_tracker=eye_tracker,
        treadmill=treadmill,
        screen=screen,
        findings=tuple(found),
    )


def _shape(array: Any, name: str, n_axes: int, layout: str) -> tuple[int, ...]:
    """The shape of an array-like of numbers with a given number of axes."""
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    if shape is None or dtype is None:
        raise ValueError(f"{name}: {type(array).__name__} is no array; pass numpy, a memory map, h5py or zarr.")
    if len(shape) != n_axes or 0 in shape:
        raise ValueError(f"{name}: shape {tuple(shape)}, expected {layout}.")
    if np.dtype(dtype).kind not in "fiu":
        raise ValueError(f"{name}: dtype {dtype}, expected real numbers.")
    return tuple(shape)


def _device(name: str, where: Path, array: Any, clock: Clock, channels: tuple[str, ...] | None) -> ArrayDevice:
    return ArrayDevice(
        name=name,
        file=where / name,
        sampling_rate=clock.rate,
        start_time=clock.start,
        end_time=clock.end,
        shape=(int(array.shape[0]), int(array.shape[1])),
        dtype=str(np.dtype(array.dtype)),
        channels=channels,
        _data=array,
    )


def _unit_ids(unit_ids: Any, n_neurons: int) -> np.ndarray | None:
    if unit_ids is None:
        return None
    ids = np.asarray(unit_ids).reshape(-1)
    if len(ids) != n_neurons or len(np.unique(ids)) != n_neurons:
        raise ValueError(f"unit_ids: {len(np.unique(ids))} distinct of {len(ids)}, expected {n_neurons}, one a neuron.")
    return ids


def _behavior(
    behavior: Any,
    names: Sequence[str],
    rate: Any,
    times: Any,
    reference: Clock,
    where: Path,
    findings: Findings,
) -> tuple[SequenceDevice, SequenceDevice]:
    """Eye tracker and treadmill: running speed is the treadmill's, everything else the eye tracker's."""
    signals: dict[str, tuple[np.ndarray, Clock]] = {}
    for name, values in _named_signals(behavior, names).items():
        given = name if any(isinstance(part, Mapping) and name in part for part in (rate, times)) else "behavior"
        signals[name] = values, as_clock(given, len(values), rate, times, reference, label=f"behavior {name!r}")
    if _SIZE in signals and _DERIVATIVE not in signals:
        size, clock = signals[_SIZE]
        regular = size if clock.rows is None else np.where(clock.rows < 0, np.nan, size[clock.rows])
        derived = np.gradient(regular.astype(np.float64)) * clock.rate if len(regular) > 1 else np.zeros(len(regular))
        signals[_DERIVATIVE] = derived, Clock(clock.start, clock.rate, len(regular))
        findings.info(
            where / "behavior",
            _DERIVATIVE,
            expected="a channel of its own",
            found="pupil_size only",
            do="It is derived: central differences of the pupil size, per second.",
        )
    running = {name: signal for name, signal in signals.items() if name == _RUNNING}
    others = {name: signals[name] for name in sorted(signals, key=_order) if name != _RUNNING}
    return _together("eye_tracker", others, where), _together("treadmill", running, where)


def _order(name: str) -> int:
    return BEHAVIOR_CHANNELS.index(name) if name in BEHAVIOR_CHANNELS else len(BEHAVIOR_CHANNELS)


def _named_signals(behavior: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    if behavior is None:
        return {}
    if not isinstance(behavior, Mapping):
        _, n_channels = _shape(behavior, "behavior", 2, "[samples, channels], or a mapping from names to [samples]")
        if n_channels != len(names):
            raise ValueError(
                f"behavior: {n_channels} columns for {len(names)} channels ({', '.join(names)}). Pass channels=[...] "
                "with a name for each column, or a mapping from names to arrays."
            )
        behavior = {name: np.asarray(behavior[:, column]) for column, name in enumerate(names)}
    signals = {}
    for name, values in behavior.items():
        array = np.asarray(values)
        array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
        _shape(array, f"behavior {name!r}", 1, "[samples]")
        signals[str(name)] = array
    return signals


def _together(name: str, signals: Mapping[str, tuple[np.ndarray, Clock]], where: Path) -> SequenceDevice:
    """One device of several signals, on the clock of the fastest; the others are held between their samples."""
    if not signals:
        return MissingDevice.named(name, where / name)
    fastest = max((clock for _, clock in signals.values()), key=lambda clock: clock.rate)
    start = max(clock.start for _, clock in signals.values())
    end = min(clock.end for _, clock in signals.values())
    if end <= start:
        raise ValueError(f"behavior: {', '.join(signals)} do not overlap in time; pass their times on one clock.")
    shared = Clock(start, fastest.rate, max(1, int(np.floor((end - start) * fastest.rate + 1e-6))))
    columns = [hold(values, clock, shared) for values, clock in signals.values()]
    return _device(name, where, np.stack(columns, axis=1), shared, tuple(signals))


def _video(
    video: Any, index: Any, levels: tuple[float, float], rate: Any, times: Any, reference: Clock
) -> tuple[np.ndarray, np.ndarray | None]:
    """Times of the displayed frames, and which stored frame each of them is."""
    layout = "[frames, height, width], grey"
    shape: tuple[int, ...] = getattr(video, "shape", ())
    if len(shape) == 4 and shape[3] in (3, 4):
        raise ValueError(f"video: shape {tuple(shape)} is in colour, expected {layout}. Convert it to grey.")
    n_frames = _shape(video, "video", 4 if len(shape) == 4 and shape[3] == 1 else 3, layout)[0]
    if len(levels) != 2 or not np.isfinite(levels).all() or levels[0] == levels[1]:
        raise ValueError(f"video_range: {levels}, expected the values of black and white, such as (0, 255).")
    sample = np.asarray(video[: min(n_frames, 64)], dtype=np.float32)
    if tuple(levels) == (0.0, 255.0) and np.nanmax(sample) <= 1 and np.nanmax(sample) > 0:
        raise ValueError(
            "video: its values lie between 0 and 1, but black and white are 0 and 255. Pass video_range=(0, 1), or the "
            "range that is meant."
        )
    if index is not None:
        index = np.asarray(index)
        if index.ndim != 1 or not len(index) or index.dtype.kind not in "iu" or index.max() >= n_frames:
            raise ValueError(
                f"video_index: shape {index.shape}, dtype {index.dtype}, largest {index.max() if index.size else '-'}; "
                f"expected one row number below {n_frames} per displayed frame."
            )
    shown = n_frames if index is None else len(index)
    clock = as_clock("video", shown, rate, times, reference, irregular=True)
    timestamps = clock.times if clock.times is not None else clock.start + np.arange(shown) / clock.rate
    # The last frame stays for as long as a frame does.
    timestamps = np.append(timestamps, timestamps[-1] + 1 / clock.rate)
    rows = np.arange(n_frames) if index is None else index.astype(np.int64)
    return timestamps, np.append(rows, rows[-1])


def _trials(
    trials: Iterable[Sequence[Any]] | None,
    split: Mapping[str, float] | None,
    block_seconds: float,
    bounds: tuple[float, float],
) -> list[tuple[float, float, str, str | None]]:
    if trials is None:
        return tier_blocks(*bounds, DEFAULT_SPLIT if split is None else split, block_seconds)
    if split is not None:
        raise ValueError("trials and split exclude each other: trials say which time belongs to which tier.")
    chosen = []
    for number, trial in enumerate(trials):
        if len(trial) not in (3, 4) or not all(isinstance(edge, (int, float, np.number)) for edge in trial[:2]):
            raise ValueError(
                f"trials[{number}]: {trial!r}, expected (start, end, tier) or (start, end, tier, condition)."
            )
        start, end, tier = float(trial[0]), float(trial[1]), str(trial[2])
        if not (np.isfinite([start, end]).all() and end > start):
            raise ValueError(f"trials[{number}]: from {start} to {end} s, expected an end after the start.")
        condition = None if len(trial) == 3 or trial[3] is None else str(trial[3])
        chosen.append((start, end, tier, condition))
    chosen.sort(key=lambda trial: trial[0])
    for before, after in itertools.pairwise(chosen):
        if after[0] < before[1]:
            raise ValueError(f"trials: one from {after[0]} s begins before the one from {before[0]} s ends.")
    if not chosen:
        raise ValueError("trials is empty; pass at least one, or leave it out for a split into blocks.")
    return chosen


def _as_trials(chosen: list[tuple[float, float, str, str | None]], timestamps: np.ndarray) -> list[Trial]:
    starts, ends = np.array([trial[:2] for trial in chosen]).T
    firsts = np.maximum(frame_indices(starts, timestamps), 0)
    edges = np.stack([firsts, np.searchsorted(timestamps, ends)], axis=1)
    return [
        Trial(
            index=number,
            modality="video",
            tier=tier,
            first_frame=int(first),
            n_frames=int(max(1, last - first)),
            start=start,
            end=end,
            condition_hash=condition,
            name=f"{number:05d}",
        )
        for number, ((start, end, tier, condition), (first, last)) in enumerate(zip(chosen, edges, strict=True))
    ]
