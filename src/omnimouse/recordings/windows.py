"""Which windows a recording has, and cutting them.

A window is 2 s of one session. Its start is a point of a regular time grid; it exists when it and all its grid points
lie in admissible trials and away from NaNs of eye tracker and treadmill. Shape letters: G grid points, K windows,
N neurons, C behaviour channels, H and W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.channels import channel_rows, missing_modalities
from omnimouse.recordings.data.clock import (
    EXACT_TOLERANCE,
    have_common_time,
    inside,
    nan_free_intervals,
    query_times,
    sequence_rows,
    time_grid,
)
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.plausible import doubt_about_negatives
from omnimouse.recordings.data.recording_data import RecordingData
from omnimouse.recordings.pooling import is_pooled, pooled, response_scale
from omnimouse.support.text_tables import html_table


class Windows:
    """The windows of a recording in some tiers: a sequence of dicts of float32 tensors.

    ``windows[i]`` is ``{"responses" [60, N], "video" [1, 60, 36, 64], "behavior" [5, 40]}``, normalised by the
    processor; behaviour has the processor's channels. Video of INVALID trials is NaN (the published pipeline admits
    them as blanks; the "strict" profile does not). What was not recorded is never made up: a recording without video
    or without any of these channels has windows without that entry, and a single channel that it lacks is NaN
    throughout, which tells the model to go without it.

    Args:
        recording: an open recording.
        tiers: tier or tiers whose trials are admissible.
        stride: keep every stride-th valid start, by `processor.stride_rule`: "global" (profiles "published" and
            "experanto-main") counts through the whole list, "trial" ("strict") anew from the first valid start of every
            trial, so that the windows of a trial do not depend on those before it. Two windows on either side of a
            border between trials may then lie closer than the stride.
        include_blanks: admit blanks, so that windows may begin in, end in or span them.
        processor: rates, lengths, normalisation and rules; profile "published" when not given.
        quiet: do not warn when statistics have to be computed.
        allow_withheld: admit tiers whose responses are withheld, to predict them; there, responses are NaN.

    Attributes:
        starts: absolute seconds `[K]`, float64.
        missing: of "video" and "behavior" those that windows do not have.
        missing_channels: rows of the behaviour that the recording lacks.

    Raises:
        ValueError: a tier that the recording lacks or whose responses are withheld, a stride below 1, or behaviour
            channels that are neither named nor as many as the processor's. No window at all is no error; see
            `explain`.

    Source: the dataset class of experanto, which cut the windows behind the results of OmniMouse (ICLR 2026).
    """

    def __init__(
        self,
        recording: RecordingData,
        tiers: str | Sequence[str],
        stride: int = 1,
        include_blanks: bool = True,
        processor: OmniMouseProcessor | None = None,
        *,
        quiet: bool = False,
        allow_withheld: bool = False,
    ) -> None:
        self.recording = recording
        self.tiers = (tiers,) if isinstance(tiers, str) else tuple(tiers)
        self._check_tiers(allow_withheld)
        if isinstance(stride, bool) or not isinstance(stride, (int, np.integer)) or stride < 1:
            raise ValueError(f"stride is {stride!r}; it must be an integer >= 1 (1 keeps every valid start)")
        self.stride = int(stride)
        self.include_blanks = include_blanks
        self.processor = processor if processor is not None else OmniMouseProcessor(profile="published")
        names = self.processor.behavior_channels
        self._channels = channel_rows(recording, names)
        present = {row for rows in self._channels for row in rows if row is not None}
        self.missing_channels = tuple(row for row in range(len(names)) if row not in present)
        self.missing = missing_modalities(recording, names)
        self._counts: dict[str, int] = {}
        self._trial_starts = np.array([trial.start for trial in recording.trials])
        self.starts = self._find_starts()
        self._prepare_statistics(quiet)

    def _check_tiers(self, allow_withheld: bool) -> None:
        tiers, recording = self.tiers, self.recording
        unknown = [tier for tier in tiers if tier not in recording.tiers]
        if unknown or not tiers:
            asked = f"no tier {', '.join(map(repr, unknown))}" if unknown else "no tier was asked for"
            have = ", ".join(map(repr, recording.tiers)) or "none"
            raise ValueError(f"{recording.path}: {asked}; the tiers of this recording are: {have}")
        withheld = [tier for tier in tiers if tier in recording.withheld_tiers]
        if withheld and not allow_withheld:
            have = ", ".join(repr(tier) for tier in recording.tiers if tier not in recording.withheld_tiers) or "none"
            raise ValueError(
                f"{recording.path}: the responses of tier {', '.join(map(repr, withheld))} are withheld (not "
                f"published), so nothing can be trained or scored on it; tiers with responses are: {have}"
            )

    def __len__(self) -> int:
        return len(self.starts)

    def __repr__(self) -> str:
        return f"Windows({self.recording.session_key!r}, tiers={list(self.tiers)}, stride={self.stride}, n={len(self)})"

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        facts = {
            "tiers": ", ".join(self.tiers),
            "windows": f"{len(self)} of {self.processor.window_seconds:g} s, stride {self.stride}",
            "rules": self.processor.profile,
            "missing": ", ".join(self.missing) or "nothing",
        }
        return html_table(("session", self.recording.session_key), list(facts.items()))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        names = [name for name in ("responses", "video", "behavior") if name not in self.missing]
        return self._cut(index, names)

    def _cut(self, index: int, names: Sequence[str]) -> dict[str, torch.Tensor]:
        start = self._start(index)
        read = {"responses": self._read_responses, "video": self._read_video, "behavior": self._read_behavior}
        return {name: torch.from_numpy(read[name](start)) for name in names}

    def batch(self, indices: Sequence[int], names: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Windows stacked along a leading dimension B, one per index; of `names` alone where they are given."""
        if not len(indices):
            raise ValueError("an empty list of window indices makes no batch; pass at least one index")
        items = [self[int(i)] if names is None else self._cut(int(i), names) for i in indices]
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def response_indices(self, index: int) -> np.ndarray:
        """Rows of the stored response array that a window reads, int64 `[60]`; where it averages, the first of each.

        Raises:
            ValueError: the recording shifts the phase of each neuron, so that a sample has no single row.
        """
        if self.recording.responses.phase_shifts is not None:
            raise ValueError(
                f"{self.recording.path}: neurons are sampled at shifted phases, so a window has one row per neuron; "
                "response_indices is defined only without phase shifts"
            )
        rate, n_samples = self.processor.response_rate, self.processor.num_response_samples
        return self._rows(self.recording.responses, self._start(index), rate, n_samples)

    def trial_index(self, index: int) -> int:
        """Position in `recording.trials` of the trial that a window starts in."""
        return int(np.searchsorted(self._trial_starts, self._start(index), side="right")) - 1

    def explain(self) -> str:
        """How many possible starts were lost to tier, filter and duration, in that order, and how many remain."""
        counts = self._counts
        blanks = "with blanks" if self.include_blanks else "without blanks"
        return (
            f"{counts['grid']} possible starts: {counts['tier']} outside tiers {', '.join(self.tiers)} ({blanks}), "
            f"{counts['filter']} to the filter (NaN in eye tracker or treadmill), {counts['duration']} to duration "
            f"(less than {self.processor.window_seconds:g} s of both follow), {counts['samples']} to missing samples; "
            f"{counts['valid']} valid, {len(self)} kept at stride {self.stride}"
        )

    def _start(self, index: int) -> float:
        if not -len(self) <= index < len(self):
            # IndexError, not ValueError: it is what ends a for loop over a sequence.
            raise IndexError(f"window {index} of {len(self)} ({self.explain()})")
        return self.starts[index]

    def _find_starts(self) -> np.ndarray:
        recording, processor = self.recording, self.processor
        grid = time_grid(
            recording.start_time + processor.safe_interval,
            recording.end_time - processor.safe_interval,
            processor.video_rate,
            processor.time_rule,
        )
        trial_of = np.searchsorted(self._trial_starts, grid, side="right") - 1
        in_tier = np.zeros(0, dtype=bool)
        if len(grid):
            ends = np.array([trial.end for trial in recording.trials])
            in_tier = self._admissible_trials()[trial_of] & (trial_of >= 0) & (grid < ends[trial_of])
        unfiltered = self._nan_free(grid)
        free = in_tier & unfiltered
        length = processor.num_frames
        complete = np.zeros(len(grid), dtype=bool)
        if len(grid) >= length:
            running = np.concatenate([[0], np.cumsum(free)])
            complete[: len(grid) - length + 1] = running[length:] - running[:-length] == length
        stored = self._has_samples(grid)
        valid = np.flatnonzero(complete & stored)
        self._counts = {
            "grid": len(grid),
            "tier": int(np.count_nonzero(~in_tier)),
            "filter": int(np.count_nonzero(in_tier & ~unfiltered)),
            "duration": int(np.count_nonzero(free & ~complete)),
            "samples": int(np.count_nonzero(complete & ~stored)),
            "valid": len(valid),
        }
        if processor.stride_rule == "global":
            return grid[valid[:: self.stride]]
        _, first, trial = np.unique(trial_of[valid], return_index=True, return_inverse=True)
        return grid[valid[(np.arange(len(valid)) - first[trial]) % self.stride == 0]]

    def _admissible_trials(self) -> np.ndarray:
        by_modality = self.processor.blank_rule == "modality"
        admissible = []
        for trial in self.recording.trials:
            wanted = trial.tier in self.tiers and not (by_modality and trial.modality == "invalid")
            # experanto reads a missing tier as "blank", so INVALID trials pass as blanks.
            blank = trial.modality == "blank" if by_modality else trial.tier in (None, "blank")
            admissible.append(wanted or (blank and self.include_blanks))
        return np.array(admissible, dtype=bool)

    def _nan_free(self, grid: np.ndarray) -> np.ndarray:
        intervals = [
            nan_free_intervals(
                device.nan_rows(),
                start=device.start_time,
                end=device.end_time,
                rate=device.sampling_rate,
                buffer=self.processor.nan_buffer(device.sampling_rate),
            )
            for device in (self.recording.eye_tracker, self.recording.treadmill)
            if device.shape[1]
        ]
        ignored = self.processor.empty_filter_rule == "ignore"
        if not intervals or (ignored and not have_common_time(intervals)):
            return np.ones(len(grid), dtype=bool)
        return np.logical_and.reduce([inside(grid, allowed) for allowed in intervals])

    def _has_samples(self, grid: np.ndarray) -> np.ndarray:
        """Whether each device has stored samples for all that a window from each grid point would look up."""
        processor, recording = self.processor, self.recording
        enough = np.ones(len(grid), dtype=bool)
        # Of the last sample all that is averaged.
        last = processor.num_response_samples - (not is_pooled(recording.responses, processor))
        behavior = (processor.num_behavior_samples - 1) / processor.behavior_rate
        for device, span in zip(recording.devices, (last / processor.response_rate, behavior, behavior), strict=True):
            if not device.shape[1]:
                continue
            # The tolerance covers the rounding of query times to 10 us by the "integer" rule.
            enough &= grid + span < device.valid_end - EXACT_TOLERANCE
            enough &= grid >= device.valid_range[0] + (EXACT_TOLERANCE if processor.time_rule == "integer" else 0.0)
        return enough

    def _prepare_statistics(self, quiet: bool) -> None:
        recording, processor = self.recording, self.processor
        stored = [device for device in recording.devices if device.shape[1]]
        missing = [device.name for device in stored if device.means is None or device.stds is None]
        if missing and recording.stores_statistics and not quiet:
            warnings.warn(
                f"{recording.path}: no stored statistics for {', '.join(missing)}; "
                "computed from the train tier (or from everything, where there is none)",
                stacklevel=3,
            )
        self._response_stds = response_scale(recording, processor)
        self._behavior = [
            (device, *processor.behavior_statistics(*recording.statistics(device)))
            for device in (recording.eye_tracker, recording.treadmill)
        ]

    def _rows(self, device: SequenceDevice, start: float | np.ndarray, rate: float, n_samples: int) -> np.ndarray:
        return sequence_rows(
            start,
            rate,
            n_samples,
            device_start=device.start_time,
            device_rate=device.sampling_rate,
            time_rule=self.processor.time_rule,
            shifts=device.phase_shifts,
        )

    def _read_responses(self, start: float) -> np.ndarray:
        processor, device = self.processor, self.recording.responses
        if is_pooled(device, processor):
            edges = self._rows(device, start, processor.response_rate, processor.num_response_samples + 1)
            return processor.normalize_responses(pooled(device, edges), self._response_stds)
        rows = self._rows(device, start, processor.response_rate, processor.num_response_samples)
        return processor.normalize_responses(device.read(rows), self._response_stds)

    def _read_behavior(self, start: float) -> np.ndarray:
        processor, n_samples = self.processor, self.processor.num_behavior_samples
        behavior = np.full((len(processor.behavior_channels), n_samples), np.nan, dtype=np.float32)
        for (device, means, stds), targets in zip(self._behavior, self._channels, strict=True):
            if not device.shape[1]:
                continue
            rows = self._rows(device, start, processor.behavior_rate, n_samples)
            values = processor.normalize_behavior(device.read(rows), means, stds).T
            for channel, row in zip(values, targets, strict=True):
                if row is not None:
                    behavior[row] = channel
        return behavior

    def _read_video(self, start: float) -> np.ndarray:
        processor = self.processor
        times = query_times(start, processor.video_rate, processor.num_frames, processor.time_rule)
        frames = self.recording.screen.frames_at(times, height=processor.frame_height, width=processor.frame_width)
        return processor.normalize_video(frames)[None]


def mean_responses(
    recording: RecordingData, processor: OmniMouseProcessor, *, tiers: str | Sequence[str] = ("train",)
) -> np.ndarray:
    """Mean of each neuron's processed response over the samples inside trials of some tiers, float64 `[N]`.

    Phase shifts, at most one scan period, are left out of account. NaN and infinity are left out of the mean; a
    neuron without any finite value gets NaN.

    Raises:
        ValueError: no stored sample lies inside a trial of these tiers; the message lists the tiers there are.
    """
    tiers = (tiers,) if isinstance(tiers, str) else tuple(tiers)
    ranges = recording.row_ranges(recording.responses, tiers)
    if not ranges:
        have = ", ".join(map(repr, recording.tiers)) or "none"
        raise ValueError(
            f"{recording.path}: no responses inside trials of tiers {', '.join(map(repr, tiers))}; "
            f"the tiers of this recording are: {have}"
        )
    stds = response_scale(recording, processor)
    total, count, n_negative = np.zeros(recording.n_neurons), np.zeros(recording.n_neurons), 0
    for rows in ranges:
        for _, block in recording.responses.chunks(rows):
            finite = usable(block)
            total += np.where(finite, block, 0).sum(axis=0, dtype=np.float64)
            count += np.count_nonzero(finite, axis=0)
            n_negative += int(np.count_nonzero(block < 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = total / count / stds
    doubt = doubt_about_negatives(n_negative, int(count.sum()), float(np.median(means)))
    if doubt is not None:
        warnings.warn(f"{recording.path}: responses: {doubt}", stacklevel=2)
    return means
