"""Responses sampled faster than windows are: their samples are averaged, since picking some would drop the others.

What a spike train in bins of 1 ms says is in all of its bins. Shape letters: T stored samples, N neurons, B bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.data.clock import EXACT_TOLERANCE
from omnimouse.recordings.data.devices import CHUNK_BYTES, SequenceDevice
from omnimouse.recordings.data.recording_data import RecordingData

FASTER = 1.1
"""Times the rate of windows from which responses are averaged; what is closer loses few samples."""


def is_pooled(device: SequenceDevice, processor: OmniMouseProcessor) -> bool:
    """Whether windows hold means of responses over all samples of each of their bins."""
    return processor.fast_responses == "average" and device.sampling_rate > FASTER * processor.response_rate


def pooled(device: SequenceDevice, rows: np.ndarray) -> np.ndarray:
    """Means over consecutive bins of rows.

    `rows` are the first of each bin and the one after the last, `[B + 1]`, or `[B + 1, N]` for one per neuron.

    Returns:
        `[B, N]` float64; NaN where a sample of the bin is.
    """
    if rows.ndim == 1:
        return _bin_means(device.read(np.arange(rows[0], rows[-1])), rows - rows[0])
    total, count = np.zeros((len(rows) - 1, rows.shape[1])), np.diff(rows, axis=0)
    for number in range(int(count.max())):
        # A bin that has fewer samples than others reads its last one again, which does not count.
        values = device.read(np.minimum(rows[:-1] + number, rows[1:] - 1)).astype(np.float64)
        total += np.where(number < count, values, 0)
    return total / count


def _bin_means(block: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.add.reduceat(block.astype(np.float64), edges[:-1], axis=0) / np.diff(edges)[:, None]


def response_scale(recording: RecordingData, processor: OmniMouseProcessor) -> np.ndarray:
    """What windows divide responses by, float64 `[N]`: stds of what windows hold, stored ones where there are any.

    Stds of responses that are averaged are those of the averages, over the train tier.
    """
    device = recording.responses
    if not is_pooled(device, processor):
        return processor.floored_response_stds(recording.statistics(device)[1])
    return processor.floored_response_stds(recording.statistics(PooledDevice.of(device, processor.response_rate))[1])


@dataclass(repr=False)
class PooledDevice(SequenceDevice):
    """Means of a device over bins of a lower rate, from its first sample on; for whoever goes through all of it."""

    source: SequenceDevice = field(kw_only=True)

    @classmethod
    def of(cls, source: SequenceDevice, rate: float) -> PooledDevice:
        """The bins at `rate` Hz, which must be below that of the device."""
        n_bins = int(source.shape[0] * rate / source.sampling_rate)
        return cls(
            f"{source.name} at {rate:g} Hz", source.file, rate, source.start_time, source.end_time,
            (n_bins, source.shape[1]), "float64", source=source,
        )  # fmt: skip

    def chunks(self, rows: slice = slice(None)) -> Iterator[tuple[int, np.ndarray]]:
        """Pairs of first bin and block `[<=B, N]`, see `SequenceDevice.chunks`."""
        first, last, _ = rows.indices(self.shape[0])
        factor = self.source.sampling_rate / self.sampling_rate
        step = max(1, int(CHUNK_BYTES / max(1, 8 * self.shape[1] * factor)))
        for low in range(first, last, step):
            bins = np.arange(low, min(low + step, last) + 1)
            edges = np.floor(bins * factor + EXACT_TOLERANCE * self.source.sampling_rate).astype(np.int64)
            edges = np.minimum(edges, self.source.shape[0])
            yield low, _bin_means(self.source.read(np.arange(edges[0], edges[-1])), edges - edges[0])
