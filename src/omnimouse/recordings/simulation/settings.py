"""Every number of a simulated recording, in one place, and the random streams that all parts draw from."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from omnimouse.support.validation import check_types, require

_RULES: dict[str, Callable[[Any], bool]] = {
    "a positive number": lambda value: value > 0,
    "zero or more": lambda value: value >= 0,
    "a share from 0 to 1": lambda value: 0 <= value <= 1,
    "a pair (low, high) with low <= high": lambda pair: isinstance(pair, tuple) and pair[0] <= pair[1],
    "a range of zero or more": lambda pair: isinstance(pair, tuple) and 0 <= pair[0] <= pair[1],
    "a range above zero": lambda pair: isinstance(pair, tuple) and 0 < pair[0] <= pair[1],
}


def _expected(what: str) -> Callable[..., Any]:
    """A field with a default (a number, or a pair of them) and a rule for its values."""
    return lambda *default: field(default=default if len(default) > 1 else default[0], metadata={"expected": what})


_positive = _expected("a positive number")
_not_negative = _expected("zero or more")
_share = _expected("a share from 0 to 1")
_pair = _expected("a pair (low, high) with low <= high")
_range = _expected("a range of zero or more")
_range_above_zero = _expected("a range above zero")


@dataclass(frozen=True)
class SimulationSettings:
    """The recipe of a simulated recording.

    Lengths are screen pixels, times seconds and rates Hz unless said otherwise. Pairs are ranges (low, high) of the
    distribution over neurons or events. The defaults are tuned for teaching: high signal, so that a small model learns
    something within minutes (``docs/simulated_recordings.md`` compares with real recordings).

    Attributes:
        frame_height: Pixels per column of a frame.
        frame_width: Pixels per row of a frame.
        video_rate: Frames per second; also the clock on which firing rates are computed.
        response_rate: Rate of the stored responses, to which the scan is resampled by linear interpolation.
        scan_rate: Rate at which the microscope visits every neuron.
        eye_rate: Rate of the stored eye trace.
        treadmill_rate: Rate of the stored running speed.
        screen_jitter: Standard deviation of the screen's time stamps around their regular clock.
        clip_seconds: Length of one clip.
        scene_seconds: Mean length of a scene; a clip is a sequence of scenes of one kind.
        texture_weight: Share of clips showing drifting textures with 1/f spectra; the three weights are normalised.
        object_weight: Share of clips showing objects that move in front of a texture.
        grating_weight: Share of clips showing drifting gratings.
        drift_speed: Range of drift and object speeds, pixels per second.
        blank_probability: Share of clips that a gray blank follows.
        blank_seconds: Range of the length of a blank.
        validation_fraction: Share of clip presentations in tier ``validation``.
        oracle_fraction: Share of clip presentations in tier ``oracle``; those clips are repeated.
        oracle_repeats: Presentations of each oracle clip, as far as the recording is long enough.
        final_test_fraction: Share of clip presentations in tier ``final_test``.
        simple_fraction: Share of simple (phase-sensitive) neurons; the others respond to energy in both phases.
        wavelength: Range of preferred wavelengths (drawn uniformly in the logarithm).
        envelope_ratio: Receptive field sigma per wavelength; the sigma is kept within 3 to 7 pixels.
        temporal_frequency: Range of preferred temporal frequencies (uniform in the logarithm).
        latency: Range of the centre of the temporal filter.
        threshold: Range of the output threshold in standard deviations of the drive: higher is sparser.
        normalization_strength: Weight of local contrast in the divisive normalisation; 0 switches it off.
        saturation: Drive, in standard deviations, at which the response is half of what it would be without saturation.
        mean_rate: Median over neurons of the mean firing rate.
        mean_rate_spread: Standard deviation of the logarithm of the mean firing rate.
        gaze_pixels: Standard deviation of the shift of receptive fields by gaze, horizontally; vertically 0.6 of it.
        running_gain: Mean change of the logarithm of the firing rate between rest and running.
        pupil_gain: Mean change of the logarithm of the firing rate per standard deviation of pupil size.
        rest_seconds: Range of the length of a bout of rest.
        run_seconds: Range of the length of a bout of running.
        blink_rate: Blinks per second; the eye trace is NaN during each.
        blink_seconds: Range of the length of a blink.
        shared_dimensions: Dimensions of the state that all neurons share.
        shared_strength: Mean length of a neuron's weights for that state; 1 makes its gain vary by about its mean.
        shared_seconds: Range of the time constants of the shared state.
        residual_fraction: Share of the activity that deconvolution leaves as a tail after its spike.
        residual_seconds: Time constant of that tail.
        response_scale: Median over neurons of the stored units per spike.
        response_scale_spread: Standard deviation of the logarithm of the units per spike.
    """

    frame_height: int = _positive(36)
    frame_width: int = _positive(64)
    video_rate: float = _positive(30.0)
    response_rate: float = _positive(30.0)
    scan_rate: float = _positive(7.97)
    eye_rate: float = _positive(20.0)
    treadmill_rate: float = _positive(100.0)
    screen_jitter: float = _not_negative(0.0002)
    clip_seconds: float = _positive(10.0)
    scene_seconds: float = _positive(1.6)
    texture_weight: float = _not_negative(0.45)
    object_weight: float = _not_negative(0.3)
    grating_weight: float = _not_negative(0.25)
    drift_speed: tuple[float, float] = _range(4.0, 30.0)
    blank_probability: float = _share(0.3)
    blank_seconds: tuple[float, float] = _range(0.3, 0.8)
    validation_fraction: float = _share(0.1)
    oracle_fraction: float = _share(0.1)
    oracle_repeats: int = _positive(6)
    final_test_fraction: float = _share(0.12)
    simple_fraction: float = _share(0.25)
    wavelength: tuple[float, float] = _range_above_zero(7.0, 20.0)
    envelope_ratio: float = _positive(0.4)
    temporal_frequency: tuple[float, float] = _range_above_zero(0.5, 6.0)
    latency: tuple[float, float] = _range(0.06, 0.14)
    threshold: tuple[float, float] = _pair(-0.5, 0.5)
    normalization_strength: float = _not_negative(1.0)
    saturation: float = _positive(3.0)
    mean_rate: float = _positive(3.2)
    mean_rate_spread: float = _not_negative(0.4)
    gaze_pixels: float = _not_negative(1.2)
    running_gain: float = 0.4
    pupil_gain: float = 0.1
    rest_seconds: tuple[float, float] = _range(4.0, 25.0)
    run_seconds: tuple[float, float] = _range(2.0, 10.0)
    blink_rate: float = _not_negative(1.0 / 60.0)
    blink_seconds: tuple[float, float] = _range(0.1, 0.3)
    shared_dimensions: int = _not_negative(4)
    shared_strength: float = _not_negative(0.75)
    shared_seconds: tuple[float, float] = _range(1.0, 8.0)
    residual_fraction: float = _share(0.3)
    residual_seconds: float = _positive(0.1)
    response_scale: float = _positive(8.0)
    response_scale_spread: float = _not_negative(0.5)

    def __post_init__(self) -> None:
        """Refuse values that no recording can have.

        Raises:
            ValueError: A value is not finite, has the wrong sign, is a range whose low end exceeds its high end, or is
                a share above 1.
        """
        check_types(self)
        for setting in fields(self):
            if expected := setting.metadata.get("expected"):
                value = getattr(self, setting.name)
                require(_RULES[expected](value), self, setting.name, value, expected)
        weights = (self.texture_weight, self.object_weight, self.grating_weight)
        names = "texture_weight, object_weight, grating_weight"
        require(sum(weights) > 0, self, names, weights, "shares of zero or more that are not all zero")
        held_out = self.validation_fraction + self.oracle_fraction + self.final_test_fraction
        if held_out >= 1:
            raise ValueError(
                f"SimulationSettings: validation_fraction + oracle_fraction + final_test_fraction is {held_out:.3g}, "
                "expected less than 1 so that clips remain for tier 'train'; lower one of them."
            )

    @property
    def frames_per_clip(self) -> int:
        """Frames of one clip."""
        return round(self.clip_seconds * self.video_rate)


def random_stream(seed: int, *name: str | int) -> np.random.Generator:
    """A random generator for one named part, which depends on the seed (zero or more) and the name only.

    Parts have their own streams so that changing one (for example the gaze) leaves the draws of the others as they
    were: two recordings of one seed and different settings of gaze or gain show the same movies to the same neurons.
    """
    key = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in name]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *key])))


def log_uniform(rng: np.random.Generator, ends: tuple[float, float], n: int) -> np.ndarray:
    """`n` numbers within `ends` (above zero) whose logarithm is uniform, float64."""
    return np.exp(rng.uniform(math.log(ends[0]), math.log(ends[1]), n))
