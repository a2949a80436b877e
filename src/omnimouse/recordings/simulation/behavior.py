"""What the simulated animal does: bouts of running, pupil size, gaze with saccades, blinks.

Shape letter: S samples of the behavior clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnimouse.recordings.simulation.settings import SimulationSettings, random_stream

BEHAVIOR_RATE = 100.0
"""Rate of the clock on which behavior is generated, Hz."""


@dataclass(frozen=True)
class Behavior:
    """True behavior, without measurement noise."""

    start: float  # time of the first sample, s
    running: np.ndarray  # running speed, cm/s, [S]
    running_drive: np.ndarray  # running from 0 (rest) to about 1 (vigorous), smoothed: what neurons feel, [S]
    pupil: np.ndarray  # pupil size with zero mean and unit variance, [S]
    gaze: np.ndarray  # shift of receptive fields in pixels, (horizontal, vertical), [S, 2]
    blinks: np.ndarray  # start and end of each blink, s, [number of blinks, 2]

    def at(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """A trace of this behavior [S] at given times [n] (s, on the clock of `start`), by linear interpolation."""
        return np.interp((times - self.start) * BEHAVIOR_RATE, np.arange(len(values)), values)


def simulate_behavior(settings: SimulationSettings, seed: int, *, start: float, seconds: float) -> Behavior:
    """Behavior of one animal in one recording, from a time (s) on for so many seconds."""
    n = round(seconds * BEHAVIOR_RATE) + 1
    running, drive = _running(settings, random_stream(seed, "running"), n)
    rng = random_stream(seed, "pupil")
    arousal = _smooth(drive, 1.5) - drive.mean()
    slow = ornstein_uhlenbeck(rng, n, 1 / BEHAVIOR_RATE, np.array([6.0]))[:, 0]
    pupil = _smooth(1.3 * arousal + 0.6 * slow, 0.4)
    pupil = (pupil - pupil.mean()) / max(float(pupil.std()), 1e-6)
    rng = random_stream(seed, "blinks")
    n_blinks = rng.poisson(settings.blink_rate * seconds)
    onset = np.sort(rng.uniform(0, seconds, n_blinks)) + start
    blinks = np.stack([onset, onset + rng.uniform(*settings.blink_seconds, size=n_blinks)], axis=1)
    gaze = _gaze(settings, random_stream(seed, "gaze"), drive)
    return Behavior(start=start, running=running, running_drive=drive, pupil=pupil, gaze=gaze, blinks=blinks)


def eye_trace(settings: SimulationSettings, seed: int, behavior: Behavior, times: np.ndarray) -> np.ndarray:
    """What the eye camera stores at given times (s, [n]).

    Returns:
        Pupil size, its change per second, gaze x, gaze y, in camera pixels, NaN during blinks, float64 [n, 4].
    """
    rng = random_stream(seed, "eye camera")
    size = 45 + 7 * behavior.at(behavior.pupil, times) + 0.05 * rng.standard_normal(len(times))
    change = np.gradient(size) * settings.eye_rate
    # About two camera pixels per pixel of shift: the camera's units are arbitrary, and only correlations matter.
    x = 140 + 2 * behavior.at(behavior.gaze[:, 0], times) + 0.2 * rng.standard_normal(len(times))
    y = 90 + 2 * behavior.at(behavior.gaze[:, 1], times) + 0.2 * rng.standard_normal(len(times))
    trace = np.stack([size, change, x, y], axis=1)
    for begin, end in behavior.blinks:
        trace[(times >= begin) & (times < end)] = np.nan
    return trace


def ornstein_uhlenbeck(rng: np.random.Generator, n: int, step: float, seconds: np.ndarray) -> np.ndarray:
    """Independent stationary Gaussian processes with zero mean, unit variance and exponential autocorrelation.

    `n` samples, `step` s apart, of processes with time constants `seconds` [d]: float64 [n, d].
    """
    # Filtering in the frequency domain needs no loop over samples. Five time constants more than asked keep the
    # periodic ends of such a filter apart.
    total = n + int(5 * float(np.max(seconds, initial=0.0)) / step) + 1
    frequency = np.fft.rfftfreq(total, step)[:, None]
    response = 1 / np.sqrt(1 + (2 * np.pi * frequency * seconds) ** 2)
    response[0] = 0
    power = np.concatenate([response**2, response[1 : (total + 1) // 2][::-1] ** 2]).mean(axis=0)
    spectrum = np.fft.rfft(rng.standard_normal((total, len(seconds))), axis=0)
    return np.fft.irfft(spectrum * response / np.sqrt(power), n=total, axis=0)[:n]


def _smooth(values: np.ndarray, seconds: float) -> np.ndarray:
    """A causal exponential average with the given time constant, [S]."""
    length = int(5 * seconds * BEHAVIOR_RATE) + 1
    kernel = np.exp(-np.arange(length) / (seconds * BEHAVIOR_RATE))
    total = len(values) + length
    padded = np.concatenate([np.full(length, values[0]), values])
    spectrum = np.fft.rfft(padded, total + length) * np.fft.rfft(kernel / kernel.sum(), total + length)
    return np.fft.irfft(spectrum, total + length)[length:total]


def _running(settings: SimulationSettings, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Running speed in cm/s and the drive it exerts (0 to about 1), both [S]."""
    state = np.zeros(n)
    position, runs = 0, bool(rng.integers(2))
    while position < n:
        low, high = settings.run_seconds if runs else settings.rest_seconds
        length = max(1, round(rng.uniform(low, high) * BEHAVIOR_RATE))
        state[position : position + length] = float(runs) * rng.uniform(0.5, 1.3)
        position, runs = position + length, not runs
    vigor = np.exp(0.25 * ornstein_uhlenbeck(rng, n, 1 / BEHAVIOR_RATE, np.array([0.8]))[:, 0])
    drive = np.maximum(_smooth(state * vigor, 0.3), 0)
    strides = 1 + 0.1 * np.sin(2 * np.pi * 3.5 * np.arange(n) / BEHAVIOR_RATE)
    wheel_noise = 0.05 * np.abs(rng.standard_normal(n))
    return 15 * drive * strides + wheel_noise, drive


def _gaze(settings: SimulationSettings, rng: np.random.Generator, drive: np.ndarray) -> np.ndarray:
    """Fixations between saccades, which are more frequent while running, plus slow drift, [S, 2] in pixels."""
    n = len(drive)
    saccade = rng.uniform(size=n) < (0.25 + 0.35 * np.minimum(drive, 1)) / BEHAVIOR_RATE
    fixation = np.cumsum(saccade)
    targets = rng.standard_normal((int(fixation[-1]) + 1, 2))
    drift = 0.25 * ornstein_uhlenbeck(rng, n, 1 / BEHAVIOR_RATE, np.array([4.0, 4.0]))
    position = targets[fixation] + drift
    gaze = np.stack([_smooth(position[:, axis], 0.02) for axis in (0, 1)], axis=1)
    # Very large shifts would move the screen's edge into receptive fields.
    return np.clip(gaze, -2.5, 2.5) * np.array([1.0, 0.6]) * settings.gaze_pixels
