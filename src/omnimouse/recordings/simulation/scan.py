"""From spikes to stored responses: calcium tail, scanning at a few hertz, resampling to the stored rate.

Everything here is linear, so that what happens to spikes happens to expected spikes too, exactly.

Shape letters: K video bins, F scan frames, T stored samples, N neurons.
"""

from __future__ import annotations

import numpy as np

from omnimouse.recordings.simulation.settings import SimulationSettings


def scan_weights(
    settings: SimulationSettings, scan_times: np.ndarray, bin_starts: np.ndarray
) -> tuple[int, np.ndarray]:
    """How much of the spikes in each video bin ends up in each scan frame.

    A scan frame holds the deconvolved activity since the frame before. Of each spike, a share is attributed to the
    moment it happened and the rest follows with an exponential tail; spikes are spread evenly over their bin.
    `scan_times` [F] and `bin_starts` [K] of consecutive bins are in s.

    Returns:
        Index of the first scan frame that these bins reach, and weights [frames reached, K].
    """
    width = 1 / settings.video_rate
    reach = 12 * settings.residual_seconds
    first = int(np.searchsorted(scan_times, bin_starts[0], side="right"))
    stop = int(np.searchsorted(scan_times, bin_starts[-1] + width + reach, side="right"))
    edges = np.empty(stop - first + 1)
    edges[1:] = scan_times[first:stop]
    edges[0] = scan_times[first - 1] if first > 0 else scan_times[0] - 1 / settings.scan_rate
    elapsed = edges[:, None] - bin_starts
    arrived = (_arrival(settings, elapsed) - _arrival(settings, elapsed - width)) / width
    # Rounding leaves some weights a hair below zero, and responses must not be negative.
    return first, np.maximum(np.diff(arrived, axis=0), 0)


def _arrival(settings: SimulationSettings, elapsed: np.ndarray) -> np.ndarray:
    """Integral over time of the share of a spike that has arrived after ``elapsed`` seconds."""
    since, tau = np.maximum(elapsed, 0), settings.residual_seconds
    return since - settings.residual_fraction * tau * (1 - np.exp(-since / tau))


def resample(frames: np.ndarray, scan_times: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Values of scan frames [F, N] at `times` (s, [T], increasing, within the scan), by linear interpolation, float32.

    `frames` may be a memory map: only those around `times` are read.
    """
    lower = np.clip(np.searchsorted(scan_times, times, side="right") - 1, 0, len(scan_times) - 2)
    weight = ((times - scan_times[lower]) / (scan_times[lower + 1] - scan_times[lower]))[:, None].astype(np.float32)
    near = np.asarray(frames[lower[0] : lower[-1] + 2])
    lower = lower - lower[0]
    return (near[lower] * (1 - weight) + near[lower + 1] * weight).astype(np.float32)
