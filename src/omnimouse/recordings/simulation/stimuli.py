"""Clips of video, and the programme of trials in which they are shown.

Shape letters: T frames, H pixels per column, W pixels per row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from omnimouse.recordings.simulation.settings import SimulationSettings, log_uniform, random_stream

GRAY = 128
"""Gray level of blanks."""

LEAD_SECONDS = 2.0
"""Gray screen, at least, before the first and after the last clip; readers drop half a second at both ends."""

MAX_GAP_FRAMES = 1.5
"""Longest time between the last frame of a clip and the next trial, in frames."""

_SPECTRAL_SLOPE = 1.2
"""Natural images have amplitude spectra 1/f^a with a around 1.2."""


@dataclass(frozen=True)
class Presentation:
    """One clip on the screen, and the blank that follows it."""

    clip: int  # index of the clip; presentations that repeat a clip share it
    tier: str  # ``train``, ``validation``, ``oracle`` or ``final_test``
    blank_seconds: float  # length of the gray screen after the clip; 0 for none


def plan_presentations(settings: SimulationSettings, stimulus_seed: int, seconds: float) -> list[Presentation]:
    """Clips in the order they are shown: every tier occurs, and `oracle` holds repeats.

    Raises:
        ValueError: The recording is too short for one clip per tier and one repeat.
    """
    slot = (settings.frames_per_clip + MAX_GAP_FRAMES) / settings.video_rate
    available = seconds - 2 * LEAD_SECONDS
    blank_cost = settings.blank_probability * settings.blank_seconds[1]
    n_clips = math.floor(available / (slot + blank_cost)) if available > 0 else 0
    if n_clips < 5:
        needed = (5 * (slot + blank_cost) + 2 * LEAD_SECONDS) / 60
        raise ValueError(
            f"minutes: got {seconds / 60:.4g}, expected at least {needed:.3g}: clips of {settings.clip_seconds:g} s "
            "need room for one train, validation and final_test clip and two oracle repeats. Raise minutes or lower "
            "SimulationSettings.clip_seconds."
        )
    rng = random_stream(stimulus_seed, "programme")
    n_validation = max(1, round(settings.validation_fraction * n_clips))
    n_final = max(1, round(settings.final_test_fraction * n_clips))
    n_oracle = max(2, round(settings.oracle_fraction * n_clips))
    n_oracle_clips = max(1, round(n_oracle / settings.oracle_repeats))
    n_train = n_clips - n_validation - n_final - n_oracle
    tiers = ["train"] * n_train + ["validation"] * n_validation + ["final_test"] * n_final
    shown = [(clip, tier) for clip, tier in enumerate(tiers)]
    shown += [(len(tiers) + k % n_oracle_clips, "oracle") for k in range(n_oracle)]
    has_blank = np.arange(n_clips) < math.floor(settings.blank_probability * n_clips)
    rng.shuffle(has_blank)
    blanks = rng.uniform(*settings.blank_seconds, size=n_clips) * has_blank
    order = rng.permutation(n_clips)
    return [
        Presentation(clip=shown[k][0], tier=shown[k][1], blank_seconds=float(blank))
        for k, blank in zip(order, blanks, strict=True)
    ]


def render_clip(settings: SimulationSettings, stimulus_seed: int, clip: int) -> np.ndarray:
    """The gray levels of one clip, uint8 [T, H, W]: scenes of one kind that follow each other with hard cuts."""
    rng = random_stream(stimulus_seed, "clip", clip)
    kinds: tuple[Callable[[SimulationSettings, np.random.Generator, int], np.ndarray], ...]
    kinds = (_texture_scene, _object_scene, _grating_scene)
    weights = np.array([settings.texture_weight, settings.object_weight, settings.grating_weight])
    scene = kinds[rng.choice(3, p=weights / weights.sum())]
    frames = [scene(settings, rng, length) for length in _scene_lengths(settings, rng)]
    # Contrast in units of the range of gray levels that a screen has on either side of gray.
    pixels = GRAY + 127.0 * np.concatenate(frames)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def condition_hash(frames: np.ndarray) -> str:
    """Identity of a stimulus, uint8 [T, H, W]: 32 hexadecimal digits, equal for repeats in any recording."""
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()[:32]


def _scene_lengths(settings: SimulationSettings, rng: np.random.Generator) -> Iterator[int]:
    """Lengths of scenes, in frames, that fill one clip."""
    left = settings.frames_per_clip
    mean = settings.scene_seconds * settings.video_rate
    while left > 0:
        length = min(left, max(1, round(mean * rng.uniform(0.5, 1.5))))
        yield length
        left -= length


def _velocity(settings: SimulationSettings, rng: np.random.Generator) -> np.ndarray:
    """A velocity (vertical, horizontal) in pixels per frame, in a random direction."""
    low, high = settings.drift_speed
    angle = rng.uniform(0, 2 * np.pi)
    speed = rng.uniform(low, high) / settings.video_rate
    return speed * np.array([np.sin(angle), np.cos(angle)])


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A periodic texture with the amplitude spectrum of natural images, zero mean, unit variance, [size, size]."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / frequency**_SPECTRAL_SLOPE
    # Structure larger than the screen would only change its mean gray.
    spectrum[frequency < 1.5 / size] = 0
    texture = np.fft.irfft2(spectrum, s=(size, size))
    return texture / texture.std()


def _drifting(
    settings: SimulationSettings, texture: np.ndarray, start: np.ndarray, velocity: np.ndarray, length: int
) -> np.ndarray:
    """A window onto a periodic texture that drifts with sub-pixel steps, [length, H, W]."""
    size, height, width = len(texture), settings.frame_height, settings.frame_width
    tiled = np.pad(texture, ((0, height + 1), (0, width + 1)), mode="wrap")
    out = np.empty((length, height, width))
    for k in range(length):
        y, x = (start + k * velocity) % size
        iy, ix = int(y), int(x)
        out[k] = between_pixels(tiled[iy : iy + height + 1, ix : ix + width + 1], y - iy, x - ix)
    return out


def between_pixels(patch: np.ndarray, fy: float, fx: float) -> np.ndarray:
    """An image [H + 1, W + 1] moved by fractions of a pixel (0 to 1), bilinear, [H, W]."""
    rows = (1 - fy) * patch[:-1] + fy * patch[1:]
    return (1 - fx) * rows[:, :-1] + fx * rows[:, 1:]


def _texture_scene(settings: SimulationSettings, rng: np.random.Generator, length: int) -> np.ndarray:
    """Two textures that drift independently, at a random contrast."""
    size = max(settings.frame_height, settings.frame_width)
    scene = np.zeros((length, settings.frame_height, settings.frame_width))
    for weight in (0.8, 0.6):
        start = rng.uniform(0, size, 2)
        velocity = _velocity(settings, rng)
        scene += weight * _drifting(settings, _texture(rng, size), start, velocity, length)
    return rng.uniform(0.2, 0.5) * scene


def _object_scene(settings: SimulationSettings, rng: np.random.Generator, length: int) -> np.ndarray:
    """Textured ellipses and bars that move in front of a drifting texture of low contrast."""
    height, width = settings.frame_height, settings.frame_width
    size = max(height, width)
    background = _texture(rng, size)
    scene = 0.12 * _drifting(settings, background, rng.uniform(0, size, 2), 0.3 * _velocity(settings, rng), length)
    y, x = np.mgrid[:height, :width]
    for _ in range(rng.integers(2, 6)):
        centre, velocity = rng.uniform((0, 0), (height, width)), 1.5 * _velocity(settings, rng)
        radius = rng.uniform(3, 9) * np.array([1.0, rng.uniform(0.4, 1.0)])
        angle, level = rng.uniform(0, np.pi), rng.uniform(0.4, 0.9) * rng.choice([-1, 1])
        pattern = 0.15 * _texture(rng, size)[:height, :width]
        for k in range(length):
            # Objects that leave on one side come back on the other.
            cy, cx = (centre + k * velocity + 10) % (height + 20, width + 20) - 10
            u = ((x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)) / radius[0]
            v = ((y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)) / radius[1]
            cover = 1 / (1 + np.exp(np.clip(8 * (np.hypot(u, v) - 1), -30, 30)))
            scene[k] += cover * (level + pattern - scene[k])
    return scene


def _grating_scene(settings: SimulationSettings, rng: np.random.Generator, length: int) -> np.ndarray:
    """A drifting grating with a wavelength that neurons prefer, over the whole screen or within a round window."""
    height, width = settings.frame_height, settings.frame_width
    y, x = np.mgrid[:height, :width]
    angle = rng.uniform(0, np.pi)
    wavelength = log_uniform(rng, settings.wavelength, 1)
    frequency = log_uniform(rng, settings.temporal_frequency, 1) * rng.choice([-1, 1])
    time = np.arange(length)[:, None, None] / settings.video_rate
    space = (x * np.cos(angle) + y * np.sin(angle)) / wavelength
    scene = rng.uniform(0.3, 0.9) * np.cos(2 * np.pi * (space - frequency * time + rng.uniform()))
    if rng.uniform() < 0.6:
        centre_y, centre_x = rng.uniform((0, 0), (height, width))
        scene *= np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * rng.uniform(8, 16) ** 2))
    return scene
