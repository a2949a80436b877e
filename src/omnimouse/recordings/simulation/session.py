"""Running one simulated session: what neurons fire, what the scan stores of it, and what it stores on average.

Shape letters: K video bins, F scan frames, T stored samples, N neurons, D shared dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.formats.experanto.session_writer import write_sequence_meta
from omnimouse.recordings.simulation.behavior import Behavior, ornstein_uhlenbeck, simulate_behavior
from omnimouse.recordings.simulation.neurons import Encoder, Population, draw_population, shift_frames
from omnimouse.recordings.simulation.scan import resample, scan_weights
from omnimouse.recordings.simulation.settings import SimulationSettings, random_stream
from omnimouse.recordings.simulation.stimuli import plan_presentations
from omnimouse.recordings.simulation.writer import END_OVERSHOOT, ShownScreen, write_behavior, write_screen
from omnimouse.support.progress import progress_bar

WARM_UP_SECONDS = 1.5
"""Activity before the first scan frame, whose calcium tail reaches into it."""

TRUTH_ARRAYS = ("given_stimulus_and_behavior", "given_everything")
"""Arrays beside the recording: expected responses, averaged over the spikes alone or over the shared state as well."""


@dataclass(frozen=True)
class RecordingClock:
    """When a recording starts, and what is sampled when."""

    start: float  # time of the first stored response and of the first scan frame, seconds since 1970
    seconds: float  # length of the responses
    response_times: np.ndarray  # [T] s
    scan_times: np.ndarray  # [F] s
    bin_starts: np.ndarray  # starts of the video bins on which rates are computed, [K] s


def make_clock(settings: SimulationSettings, seed: int, seconds: float) -> RecordingClock:
    """The clock of a recording of so many seconds, which starts somewhere in the years after 2020."""
    start = 1.6e9 + float(random_stream(seed, "clock").uniform(0, 1e8))
    n_samples = round(seconds * settings.response_rate)
    response_times = start + np.arange(n_samples) / settings.response_rate
    n_scans = math.ceil((response_times[-1] - start) * settings.scan_rate) + 2
    scan_times = start + np.arange(n_scans) / settings.scan_rate
    n_bins = math.ceil((WARM_UP_SECONDS + scan_times[-1] - start) * settings.video_rate)
    bin_starts = start - WARM_UP_SECONDS + np.arange(n_bins) / settings.video_rate
    return RecordingClock(start, seconds, response_times, scan_times, bin_starts)


def simulate_session(
    folder: Path,
    truth: Path,
    scratch: Path,
    *,
    seed: int,
    stimulus_seed: int,
    n_neurons: int,
    seconds: float,
    settings: SimulationSettings,
    progress: bool,
) -> None:
    """Writes the four devices of a session into `folder` and the truth about its responses into `truth`.

    `seed` is that of animal and session, `stimulus_seed` that of the movies and their order; intermediate arrays go to
    `scratch`.
    """
    clock = make_clock(settings, seed, seconds)
    presentations = plan_presentations(settings, stimulus_seed, seconds)
    with progress_bar(total=len(clock.bin_starts), desc="simulating", unit=" frames", shown=progress) as bar:
        screen = write_screen(folder, presentations, settings, stimulus_seed=stimulus_seed, start=clock.start)
        behavior = simulate_behavior(settings, seed, start=clock.start - 2, seconds=seconds + 4)
        write_behavior(folder, behavior, settings, seed, start=clock.start, seconds=seconds)
        microscope = _Microscope(settings, seed, clock, draw_population(settings, seed, n_neurons))
        scans = microscope.scan(scratch, screen, behavior, bar)
    microscope.write_responses(folder / "responses", truth, scans)


@dataclass(frozen=True)
class _Microscope:
    """What looks at the neurons of a session."""

    settings: SimulationSettings
    seed: int
    clock: RecordingClock
    population: Population

    def scan(self, scratch: Path, screen: ShownScreen, behavior: Behavior, bar: tqdm) -> dict[str, np.ndarray]:
        """Spikes and expected spikes per scan frame, float32 [F, N] memory maps in `scratch`."""
        settings, population, n_bins = self.settings, self.population, len(self.clock.bin_starts)
        shape = (len(self.clock.scan_times), len(population))
        scans: dict[str, np.ndarray] = {
            name: np.lib.format.open_memmap(scratch / f"{name}.npy", "w+", np.float32, shape)
            for name in ("spikes", *TRUTH_ARRAYS)
        }
        encoder = Encoder(population, settings)
        low, high = np.log(np.maximum(settings.shared_seconds, 1e-3))
        seconds = np.exp(np.linspace(low, high, settings.shared_dimensions))
        shared = ornstein_uhlenbeck(random_stream(self.seed, "shared"), n_bins, 1 / settings.video_rate, seconds)
        spike_rng = random_stream(self.seed, "spikes")
        step = int(np.clip(4_000_000 // len(population), 64, 1024))
        for first_bin in range(0, n_bins, step):
            starts = self.clock.bin_starts[first_bin : first_bin + step]
            centres = starts[0] + (np.arange(-encoder.history, len(starts)) + 0.5) / settings.video_rate
            gaze = np.stack([behavior.at(behavior.gaze[:, axis], centres) for axis in (0, 1)], axis=1)
            rates = encoder.rates(shift_frames(screen.frames_at(centres, settings), gaze))
            now = centres[encoder.history :]
            running = behavior.at(behavior.running_drive, now)[:, None] * population.running_gain
            pupil = behavior.at(behavior.pupil, now)[:, None] * population.pupil_gain
            expected = (rates * np.exp(running + pupil) / settings.video_rate).astype(np.float32)
            everything = expected * shared_gain(shared[first_bin : first_bin + step], population.shared_weight)
            counts = spike_rng.poisson(everything).astype(np.float32)
            first, weights = scan_weights(settings, self.clock.scan_times, starts)
            weights = weights.astype(np.float32)
            for array, values in zip(scans.values(), (counts, expected, everything), strict=True):
                array[first : first + len(weights)] += weights @ values
            bar.update(len(starts))
        return scans

    def write_responses(self, device: Path, truth: Path, scans: dict[str, np.ndarray]) -> None:
        """Resamples scans to the stored rate and writes the device `responses` and the truth."""
        (device / "meta").mkdir(parents=True)
        clock, shape = self.clock, (len(self.clock.response_times), len(self.population))
        files = {"spikes": device / "data.npy", **{name: truth / f"{name}.npy" for name in TRUTH_ARRAYS}}
        total, squares = np.zeros((2, 1, shape[1]))
        scale = self.population.response_scale.astype(np.float32)
        for name, file in files.items():
            out = np.lib.format.open_memmap(file, "w+", np.float32, shape)
            for low in range(0, shape[0], 2048):
                rows = resample(scans[name], clock.scan_times, clock.response_times[low : low + 2048]) * scale
                out[low : low + 2048] = rows
                if name == "spikes":
                    total += rows.sum(axis=0, dtype=np.float64)
                    squares += np.square(rows, dtype=np.float64).sum(axis=0)
            out.flush()
        means, rate = total / shape[0], self.settings.response_rate
        stds = np.sqrt(np.maximum(squares / shape[0] - means**2, 0))
        end = clock.start + shape[0] / rate + END_OVERSHOOT
        # Those of another animal are others: ids tell whether vectors belong to these neurons.
        unit_ids = self.seed % 2**40 * 1_000_000 + np.arange(1, shape[1] + 1, dtype=np.int64)
        responses = SequenceDevice(
            "responses", files["spikes"], rate, clock.start, end, shape, "float32", means, stds, unit_ids=unit_ids
        )
        write_sequence_meta(responses, cell_motor_coordinates=self._coordinates())

    def _coordinates(self) -> np.ndarray:
        """Positions in the tissue, micrometres, int64 [N, 3]: retinotopic with scatter, and a depth."""
        rng, n = random_stream(self.seed, "coordinates"), len(self.population)
        middle = np.array([self.settings.frame_width - 1, self.settings.frame_height - 1]) / 2
        place = (self.population.centre[:, ::-1] - middle) * 12 + 40 * rng.standard_normal((n, 2))
        return np.rint(np.concatenate([place, rng.uniform(150, 400, (n, 1))], axis=1)).astype(np.int64)


def shared_gain(state: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Gain from the shared state, whose mean over the state is one for every neuron, float32 [K, N].

    `state` [K, D] is Gaussian with zero mean and unit variance, `weight` is [N, D]. A softplus rather than an
    exponential: the latter gives bursts in which a few seconds outweigh the whole recording.
    """
    # The weighted state of a neuron is Gaussian too, so its mean gain is a one-dimensional integral.
    nodes, mass = np.polynomial.hermite_e.hermegauss(40)
    mean = np.logaddexp(0, 1 + 2 * np.linalg.norm(weight, axis=1)[:, None] * nodes) @ (mass / mass.sum())
    return (np.logaddexp(0, 1 + 2 * (state @ weight.T)) / mean).astype(np.float32)
