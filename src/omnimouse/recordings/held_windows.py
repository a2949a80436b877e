"""The windows of a recording held as tensors on a device, and cut there by index: bit for bit what `Windows` cuts.

Every sample that a window looks up is held once, normalised, whatever the number of windows that show it; a window is a
list of rows of these tables. Shape letters: K windows, B of a batch, T' samples held, N neurons, C behaviour channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from omnimouse.recordings.data.clock import frame_indices, query_times
from omnimouse.recordings.data.devices import CHUNK_BYTES
from omnimouse.recordings.pooling import is_pooled
from omnimouse.recordings.windows import Windows


def can_be_held(windows: Windows) -> bool:
    """Whether samples of windows are rows that windows share; those averaged or shifted for each neuron are not."""
    recording = windows.recording
    shifted = any(device.phase_shifts is not None for device in recording.devices)
    return not shifted and not is_pooled(recording.responses, windows.processor)


def held_bytes(windows: Windows) -> int:
    """About how many bytes `HeldWindows` takes; frames that are no whole grey levels take four times as much."""
    processor, recording = windows.processor, windows.recording
    length = processor.window_seconds
    seconds = np.minimum(np.diff(windows.starts), length).sum() + length  # that any window shows
    samples = (processor.num_response_samples, processor.num_frames, processor.num_behavior_samples)
    rates = (min(processor.response_rate, recording.responses.sampling_rate), processor.video_rate)
    frame, channels = processor.frame_height * processor.frame_width, len(processor.behavior_channels)
    per_second = 4 * recording.n_neurons * rates[0] + frame * rates[1] + 4 * channels * processor.behavior_rate
    return int(seconds * per_second) + 4 * len(windows) * sum(samples)


@dataclass(frozen=True)
class _Table:
    """Samples of one modality.

    Attributes:
        values: `[T', ...]`, float32, or uint8 grey levels.
        rows: int32 `[K, samples]`, which of them each window shows.
        finite: bool `[K]`, on the host: whether all of these are finite where anything was recorded.
        levels: float32 `[256]`, normalised grey levels of frames that are held as uint8.
    """

    values: torch.Tensor
    rows: torch.Tensor
    finite: np.ndarray
    levels: torch.Tensor | None = None

    def cut(self, windows: torch.Tensor) -> torch.Tensor:
        """`[B, samples, ...]`, float32."""
        rows = self.rows.index_select(0, windows)
        values = self.values.index_select(0, rows.flatten())
        if self.levels is not None:
            values = self.levels.index_select(0, values.flatten().int()).view(values.shape)
        return values.view(*rows.shape, *values.shape[1:])


class HeldWindows:
    """Windows as `Windows` cuts them, from tables on a device.

    Args:
        windows: what to hold; see `can_be_held`.
        device: where to.

    Attributes:
        windows: the same, with no file open.
        starts, missing, missing_channels: see `Windows`.
    """

    def __init__(self, windows: Windows, device: torch.device) -> None:
        self.windows, self.device = copy.deepcopy(windows), device
        self.starts, self.missing_channels, self.missing = windows.starts, windows.missing_channels, windows.missing
        self._tables = {"responses": self._responses(windows)}
        if "video" not in self.missing:
            self._tables["video"] = self._video(windows)
        if "behavior" not in self.missing:
            self._tables["behavior"] = self._behavior(windows)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_bytes(self) -> int:
        """Bytes on the device."""
        return sum(tensor.nbytes for table in self._tables.values() for tensor in (table.values, table.rows))

    def batch(self, indices: Sequence[int], names: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Windows on the device, see `Windows.batch`."""
        chosen = torch.tensor(indices, dtype=torch.int32).to(self.device, non_blocking=True)
        cut = {name: self._tables[name].cut(chosen) for name in (self._tables if names is None else names)}
        if "video" in cut:
            cut["video"] = cut["video"].unsqueeze(1)
        if "behavior" in cut:
            cut["behavior"] = cut["behavior"].transpose(1, 2).contiguous()
        return cut

    def finite(self, name: str, indices: Sequence[int]) -> np.ndarray:
        """Whether windows hold neither NaN nor infinity where anything was recorded, bool `[B]`; known beforehand."""
        return self._tables[name].finite[list(indices)]

    def _responses(self, windows: Windows) -> _Table:
        processor, device = windows.processor, windows.recording.responses
        rate, n_samples = processor.response_rate, processor.num_response_samples
        rows = windows._rows(device, windows.starts[:, None], rate, n_samples)

        def read(samples: np.ndarray) -> np.ndarray:
            return processor.normalize_responses(device.read(samples), windows._response_stds)

        return self._table(rows, read, 4 * device.shape[1])

    def _behavior(self, windows: Windows) -> _Table:
        """Eye tracker and treadmill side by side, by the pairs of their rows that are looked up together."""
        processor = windows.processor
        rate, n_samples = processor.behavior_rate, processor.num_behavior_samples
        pairs = np.zeros((2, len(windows), n_samples), dtype=np.int64)
        for rows, (device, _, _) in zip(pairs, windows._behavior, strict=True):
            if device.shape[1]:
                rows[:] = windows._rows(device, windows.starts[:, None], rate, n_samples)
        width = int(pairs[1].max()) + 1

        def read(samples: np.ndarray) -> np.ndarray:
            values = np.full((len(samples), len(processor.behavior_channels)), np.nan, dtype=np.float32)
            parts = zip(windows._behavior, windows._channels, (samples // width, samples % width), strict=True)
            for (device, means, stds), targets, rows in parts:
                if device.shape[1]:
                    stored = processor.normalize_behavior(device.read(rows), means, stds)
                    for channel, target in zip(stored.T, targets, strict=True):
                        if target is not None:
                            values[:, target] = channel
            return values

        row_bytes = 4 * len(processor.behavior_channels)
        return self._table(pairs[0] * width + pairs[1], read, row_bytes, windows.missing_channels)

    def _video(self, windows: Windows) -> _Table:
        processor, screen = windows.processor, windows.recording.screen
        rate, n_frames, rule = processor.video_rate, processor.num_frames, processor.time_rule
        times = query_times(windows.starts[:, None], rate, n_frames, rule)
        shown = frame_indices(times, screen.timestamps)
        asked = np.zeros(len(screen.timestamps))  # a time at which each frame was looked up
        asked[shown] = times
        size = {"height": processor.frame_height, "width": processor.frame_width}
        levels = processor.normalize_video(np.arange(256))

        def read(frames: np.ndarray) -> np.ndarray:
            return screen.frames_at(asked[frames], **size)

        def read_levels(frames: np.ndarray) -> np.ndarray:
            block = read(frames)
            with np.errstate(invalid="ignore"):
                whole = block.astype(np.uint8)
            if not (whole == block).all():
                raise _NoLevels
            return whole

        row_bytes = 4 * processor.frame_height * processor.frame_width
        try:
            table = self._table(shown, read_levels, row_bytes)
        except _NoLevels:
            return self._table(shown, lambda frames: processor.normalize_video(read(frames)), row_bytes)
        return replace(table, levels=torch.from_numpy(levels).to(self.device))

    def _table(
        self,
        rows: np.ndarray,
        read: Callable[[np.ndarray], np.ndarray],
        row_bytes: int,
        unrecorded: Sequence[int] = (),
    ) -> _Table:
        """Reads every row that is looked up once, in pieces; nobody expects values in columns that are `unrecorded`."""
        used, places = _used(rows)
        values, finite = [], []
        for part in np.array_split(used, max(1, -(-len(used) * row_bytes // CHUNK_BYTES))):
            block = read(part)
            values.append(torch.tensor(block).to(self.device))
            finite.append(np.isfinite(np.delete(block, unrecorded, axis=1)).reshape(len(part), -1).all(axis=1))
        shown = torch.from_numpy(places).to(self.device)
        return _Table(torch.cat(values), shown, np.concatenate(finite)[places].all(axis=1))


class _NoLevels(Exception):
    """Frames that are no whole grey levels from 0 to 255."""


def _used(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Increasing rows that occur, and the position of each entry among them, int32."""
    used, places = np.unique(rows, return_inverse=True)
    return used, places.reshape(rows.shape).astype(np.int32)
