"""Simulated neurons: spatiotemporal Gabor filters, energy, divisive normalisation, gain and a shared state.

Shape letters: K video bins, L taps of the temporal filters, N neurons, H pixels per column, W pixels per row, D shared
dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from omnimouse.recordings.simulation.settings import SimulationSettings, log_uniform, random_stream
from omnimouse.recordings.simulation.stimuli import GRAY, between_pixels, render_clip

FILTER_SECONDS = 0.43
"""Memory of the temporal filters; the slowest one has decayed by then."""

_CALIBRATION_CLIPS = 10
_CALIBRATION_SEED = 20240229
_CONTRAST_SIGMA = 8.0
_CONTRAST_SECONDS = 0.1
_SHARPNESS = np.float32(2.0)


@dataclass(frozen=True)
class Population:
    """Parameters of all neurons of one recording."""

    centre: np.ndarray  # receptive field centre (y, x) in pixels, [N, 2]
    orientation: np.ndarray  # radians, [N]
    wavelength: np.ndarray  # pixels, [N]
    sigma: np.ndarray  # receptive field sigma in pixels, [N]
    temporal_frequency: np.ndarray  # Hz, [N]
    latency: np.ndarray  # centre of the temporal filter, s, [N]
    simple: np.ndarray  # whether the neuron is a simple cell, bool [N]
    threshold: np.ndarray  # output threshold in standard deviations of the drive, [N]
    mean_rate: np.ndarray  # firing rate averaged over movies at rest, Hz, [N]
    running_gain: np.ndarray  # change of the logarithm of the rate from rest to running, [N]
    pupil_gain: np.ndarray  # change of the logarithm of the rate per standard deviation of pupil size, [N]
    shared_weight: np.ndarray  # weight of each shared dimension in the logarithm of the rate, [N, D]
    response_scale: np.ndarray  # stored units per spike, [N]

    def __len__(self) -> int:
        return len(self.orientation)


def draw_population(settings: SimulationSettings, seed: int, n_neurons: int) -> Population:
    """Draws neurons; every recording draws from the same distribution."""
    rng = random_stream(seed, "neurons")
    n, height, width = n_neurons, settings.frame_height, settings.frame_width
    margin = min(3.0, height / 4, width / 4)
    centre = rng.uniform((margin, margin), (height - 1 - margin, width - 1 - margin), (n, 2))
    wavelength = log_uniform(rng, settings.wavelength, n)
    direction = rng.standard_normal((n, settings.shared_dimensions))
    # All neurons lean the same way along the first dimension, which thus shows as an up and down of the population.
    direction[:, :1] += 1.0
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    strength = settings.shared_strength * rng.uniform(0.6, 1.4, (n, 1))
    return Population(
        centre=centre,
        orientation=rng.uniform(0, np.pi, n),
        wavelength=wavelength,
        sigma=np.clip(settings.envelope_ratio * wavelength, 3.0, 7.0),
        # The sign of the temporal frequency is the preferred direction of motion.
        temporal_frequency=log_uniform(rng, settings.temporal_frequency, n) * rng.choice([-1, 1], n),
        latency=rng.uniform(*settings.latency, size=n),
        simple=rng.uniform(size=n) < settings.simple_fraction,
        threshold=rng.uniform(*settings.threshold, size=n),
        mean_rate=settings.mean_rate * np.exp(settings.mean_rate_spread * rng.standard_normal(n)),
        running_gain=settings.running_gain * (1 + 0.8 * rng.standard_normal(n)),
        pupil_gain=settings.pupil_gain * (1 + 0.8 * rng.standard_normal(n)),
        shared_weight=strength * direction / np.maximum(length, 1e-9),
        response_scale=settings.response_scale * np.exp(settings.response_scale_spread * rng.standard_normal(n)),
    )


class Encoder:
    """Firing rates that a movie evokes at rest, without gain or shared state.

    Each neuron filters the movie with a space-time Gabor in two phases, takes the rectified response of one phase
    (simple) or the energy of both (complex), divides by the recent contrast around its receptive field, saturates, and
    passes the result, in standard deviations above a threshold, through a softplus. Scale and mean are set on movies
    that are the same for all recordings, so that a neuron does not depend on what happens to be shown to it.
    """

    def __init__(self, population: Population, settings: SimulationSettings) -> None:
        self.population = population
        self.settings = settings
        self.history = max(1, round(FILTER_SECONDS * settings.video_rate)) - 1
        self._space, self._blobs = _spatial_filters(population, settings)
        self._cosine, self._sine = _temporal_filters(population, settings, self.history + 1)
        lag = np.arange(self.history + 1) / settings.video_rate
        decay = np.exp(-lag / _CONTRAST_SECONDS)
        self._contrast_kernel = (decay / decay.sum()).astype(np.float32)
        self._scale, self._mean, self._std, self._gain = np.ones((4, len(population)), np.float32)
        self._calibrate()

    def rates(self, frames: np.ndarray) -> np.ndarray:
        """Firing rates at rest, Hz, float32 [K, N], of gray levels [history + K, H, W].

        The first `history` frames only fill the filters' memory.
        """
        return self._output(self._drive(frames))

    def _drive(self, frames: np.ndarray) -> np.ndarray:
        """Normalised filter responses before the output non-linearity, float32 [K, N]."""
        n = len(self.population)
        pixels = ((frames.astype(np.float32) - GRAY) / 64).reshape(len(frames), -1)
        response = pixels @ self._space
        even, odd = response[:, :n], response[:, n:]
        n_bins = len(frames) - self.history
        first, second = np.zeros((2, n_bins, n), np.float32)
        contrast = np.zeros((n_bins, n), np.float32)
        local = np.square(pixels) @ self._blobs
        for lag in range(self.history + 1):
            past = slice(self.history - lag, self.history - lag + n_bins)
            first += even[past] * self._cosine[lag] - odd[past] * self._sine[lag]
            second += even[past] * self._sine[lag] + odd[past] * self._cosine[lag]
            contrast += local[past] * self._contrast_kernel[lag]
        energy = np.where(self.population.simple, np.maximum(first, 0), np.hypot(first, second))
        # The constant keeps faint contrasts faint, as contrast gain control does.
        return energy / (0.35 + self.settings.normalization_strength * np.sqrt(contrast))

    def _output(self, drive: np.ndarray) -> np.ndarray:
        """Softplus of the saturated drive in standard deviations above threshold, scaled to the mean rate."""
        above = (self._saturated(drive) - self._mean) / self._std - self.population.threshold.astype(np.float32)
        return self._gain * np.logaddexp(np.float32(0), _SHARPNESS * above)

    def _saturated(self, drive: np.ndarray) -> np.ndarray:
        """The drive in standard deviations, levelling off above ``saturation``."""
        scaled = drive / self._scale
        return scaled / (1 + scaled / np.float32(self.settings.saturation))

    def _calibrate(self) -> None:
        """Set scale, threshold and mean rate on movies that every recording shares."""
        # Clips as long as the default ones, however short those of the recording are.
        settings = replace(self.settings, clip_seconds=SimulationSettings.clip_seconds)
        movies = (render_clip(settings, _CALIBRATION_SEED, clip) for clip in range(_CALIBRATION_CLIPS))
        values = np.concatenate([self._drive(movie) for movie in movies])
        self._scale = np.maximum(values.std(axis=0), 1e-3)
        saturated = self._saturated(values)
        self._mean, self._std = saturated.mean(axis=0), np.maximum(saturated.std(axis=0), 1e-3)
        self._gain = (self.population.mean_rate / self._output(values).mean(axis=0)).astype(np.float32)


def shift_frames(frames: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    """The movie [K, H, W] as the retina sees it: moved against the gaze, bilinear, with repeated edges, float32.

    `gaze` is the shift of receptive fields in pixels (horizontal, vertical), [K, 2].
    """
    height, width = frames.shape[1:]
    reach = int(np.ceil(np.abs(gaze).max(initial=0))) + 1
    out = np.empty(frames.shape, np.float32)
    for k, (x, y) in enumerate(gaze):
        padded = np.pad(frames[k], reach, mode="edge").astype(np.float32)
        ix, iy = int(np.floor(x)), int(np.floor(y))
        patch = padded[reach + iy : reach + iy + height + 1, reach + ix : reach + ix + width + 1]
        out[k] = between_pixels(patch, np.float32(y - iy), np.float32(x - ix))
    return out


def _spatial_filters(population: Population, settings: SimulationSettings) -> tuple[np.ndarray, np.ndarray]:
    """Even and odd Gabor filters without mean and with unit norm, and windows that average squared contrast around.

    Returns:
        float32 [H * W, 2 N] and [H * W, N].
    """
    grid = np.mgrid[: settings.frame_height, : settings.frame_width].reshape(2, -1, 1)
    y, x = grid.astype(np.float32)
    centre = population.centre.astype(np.float32)
    cosine, sine = np.cos(population.orientation, dtype=np.float32), np.sin(population.orientation, dtype=np.float32)
    dy, dx = y - centre[:, 0], x - centre[:, 1]
    along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    envelope = np.exp(-(along**2 + (0.8 * across) ** 2) / (2 * population.sigma.astype(np.float32) ** 2))
    phase = along * (2 * np.pi / population.wavelength).astype(np.float32)
    filters = []
    for carrier in (np.cos(phase), np.sin(phase)):
        gabor = envelope * carrier
        gabor -= envelope * gabor.sum(axis=0) / envelope.sum(axis=0)
        filters.append(gabor / np.linalg.norm(gabor, axis=0))
    blobs = np.exp(-(dy**2 + dx**2) / (2 * _CONTRAST_SIGMA**2))
    return np.concatenate(filters, axis=1), blobs / blobs.sum(axis=0)


def _temporal_filters(
    population: Population, settings: SimulationSettings, n_taps: int
) -> tuple[np.ndarray, np.ndarray]:
    """A pair of temporal filters in quadrature, each float32 [L, N]."""
    lag = (np.arange(n_taps) / settings.video_rate)[:, None] - population.latency
    # Fast neurons integrate briefly, slow ones longer.
    width = np.clip(0.25 / np.abs(population.temporal_frequency), 0.04, 0.08)
    envelope = np.exp(-(lag**2) / (2 * width**2))
    envelope /= np.linalg.norm(envelope, axis=0)
    phase = 2 * np.pi * population.temporal_frequency * lag
    return (envelope * np.cos(phase)).astype(np.float32), (envelope * np.sin(phase)).astype(np.float32)
