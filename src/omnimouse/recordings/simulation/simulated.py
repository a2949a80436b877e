"""Simulated recordings: session folders in the experanto layout, with the truth about every neuron beside them.

Shape letters: T stored samples, N neurons, R chosen rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.recording import Recording, open_recording
from omnimouse.recordings.simulation.neurons import draw_population
from omnimouse.recordings.simulation.session import TRUTH_ARRAYS, simulate_session
from omnimouse.recordings.simulation.settings import SimulationSettings
from omnimouse.support.files import staged_folders, write_json

__all__ = [
    "Ceiling",
    "SimulationSettings",
    "Truth",
    "correlation_ceiling",
    "load_truth",
    "simulate_recording",
    "truth_folder",
]


@dataclass(frozen=True)
class Truth:
    """What responses were expected to be, in stored units and on the rows of the stored responses.

    Attributes:
        path: Folder it was read from.
        given_stimulus_and_behavior: Averaged over spikes and shared state: the best prediction from movie and behavior,
            float32 [T, N], memory map.
        given_everything: Averaged over spikes only: the best prediction for whoever knows the shared state too, float32
            [T, N], memory map.
        parameters: Seeds and settings of the recording.
        neurons: Parameters of the neurons by name, each with N rows.
    """

    path: Path
    given_stimulus_and_behavior: np.ndarray
    given_everything: np.ndarray
    parameters: Mapping[str, Any]
    neurons: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Ceiling:
    """Correlation of expected with recorded responses, which no model can be expected to exceed."""

    # Pearson correlation per neuron, float64 [N]; NaN where either side is constant
    given_stimulus_and_behavior: np.ndarray
    given_everything: np.ndarray  # The same for a model that knows the shared state


def simulate_recording(
    folder: str | os.PathLike[str],
    seed: int,
    *,
    n_neurons: int = 256,
    minutes: float = 20.0,
    animal: str | None = None,
    session: int = 1,
    scan: int = 1,
    stimulus_seed: int | None = None,
    settings: SimulationSettings | None = None,
    progress: bool = False,
) -> Recording:
    """Simulate a mouse that watches movies, and write its recording as a session folder.

    The same arguments give the same bytes (with the same numpy on the same machine). The truth about the responses is
    written to ``<folder>.truth``.

    Args:
        folder: Where to write; must not exist, or be empty. It appears only when complete.
        seed: Seed of neurons, behavior and noise, zero or more.
        n_neurons: Number of neurons.
        minutes: Length of the responses.
        animal: Name of the animal; None: one of its own for every seed, such as "sim007".
        session: Number of the session.
        scan: Number of the scan.
        stimulus_seed: Seed of the movies and their order; recordings that share it (and ``minutes`` and ``settings``)
            show the same. None: ``seed``.
        settings: Recipe; None for the defaults.
        progress: Whether to show a progress bar.

    Returns:
        The opened recording.

    Raises:
        ValueError: The folder or its truth is there already, or an argument makes no sense.
    """
    settings = SimulationSettings() if settings is None else settings
    stimulus_seed = seed if stimulus_seed is None else stimulus_seed
    animal = f"sim{seed:03}" if animal is None and isinstance(seed, (int, np.integer)) else animal
    _check_arguments(seed, stimulus_seed, n_neurons, minutes, animal, session, scan)
    shape = {"n_neurons": int(n_neurons), "seed": int(seed), "stimulus_seed": int(stimulus_seed)}
    target = Path(os.path.abspath(folder))
    with staged_folders(target, truth_folder(target)) as (recording, truth, scratch):
        simulate_session(recording, truth, scratch, **shape, seconds=60 * minutes, settings=settings, progress=progress)
        parameters = {"simulated": True, **shape, "minutes": float(minutes), "settings": asdict(settings)}
        scan_key = {"animal_id": animal, "session": int(session), "scan_idx": int(scan)}
        write_json(recording / "config.json", parameters)
        write_json(recording / "meta.json", {"scan_key": scan_key})
        write_json(truth / "meta.json", {**parameters, "scan_key": scan_key})
        np.savez(truth / "neurons.npz", **vars(draw_population(settings, int(seed), int(n_neurons))))
    return open_recording(folder)


def truth_folder(folder: str | os.PathLike[str]) -> Path:
    """Where the truth about a simulated recording lies, if there is one: beside its folder, named `<folder>.truth`."""
    path = Path(os.path.abspath(folder))
    return path.parent / f"{path.name}.truth"


def load_truth(recording_or_path: Recording | str | os.PathLike[str]) -> Truth | None:
    """Open the truth about a simulated recording; arrays are mapped, not read.

    Args:
        recording_or_path: A recording or the path of a session folder.

    Returns:
        The truth, or None if there is none beside the folder.

    Raises:
        ValueError: A truth folder is there, but not complete, or that of a recording of another shape.
    """
    path = truth_folder(recording_or_path.path if isinstance(recording_or_path, Recording) else recording_or_path)
    if not path.is_dir():
        return None
    needed = ("meta.json", "neurons.npz", *(f"{name}.npy" for name in TRUTH_ARRAYS))
    missing = [name for name in needed if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"{path}: the truth of a simulated recording lacks {', '.join(missing)}; simulate the recording again, or "
            "remove this folder to use the recording without a ceiling."
        )
    arrays = {}
    for name in TRUTH_ARRAYS:
        file = path / f"{name}.npy"
        try:
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{file}: not a whole .npy array ({error}); simulate the recording again, or remove this folder to use "
                "the recording without a ceiling."
            ) from error
        if isinstance(recording_or_path, Recording) and arrays[name].shape != recording_or_path.responses.shape:
            raise ValueError(
                f"{file}: shape {arrays[name].shape}, expected {recording_or_path.responses.shape} as the responses of "
                f"{recording_or_path.path}; the truth is that of another recording: move it away to use this one "
                "without a ceiling."
            )
    with np.load(path / "neurons.npz", allow_pickle=False) as stored:
        neurons = {name: stored[name] for name in stored.files}
    parameters = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    return Truth(path=path, parameters=parameters, neurons=neurons, **arrays)


def correlation_ceiling(truth: Truth, responses: np.ndarray, rows: np.ndarray | None = None) -> Ceiling:
    """Correlation of expected with recorded responses, per neuron, over chosen samples.

    Args:
        truth: Expected responses.
        responses: Recorded responses, [T, N] (may be a memory map), in stored units or with each neuron scaled.
        rows: Which samples, int64 [R], in any order, repeats counted as often as they occur; None for all.

    Returns:
        The ceiling.

    Raises:
        ValueError: Responses and truth differ in shape, or rows are out of range or fewer than two.
    """
    expected = truth.given_everything.shape
    if responses.shape != expected:
        raise ValueError(
            f"responses: got shape {responses.shape}, expected {expected} as in {truth.path}; pass all of them."
        )
    chosen = np.arange(expected[0]) if rows is None else np.asarray(rows).reshape(-1)
    if len(chosen) < 2 or chosen.min() < 0 or chosen.max() >= expected[0]:
        raise ValueError(f"rows: got {len(chosen)} rows, expected at least 2, each from 0 to {expected[0] - 1}.")
    return Ceiling(**{name: _correlation(getattr(truth, name), responses, chosen) for name in TRUTH_ARRAYS})


def _correlation(first: np.ndarray, second: np.ndarray, rows: np.ndarray, chunk: int = 4096) -> np.ndarray:
    """Pearson correlation per column over rows, in two passes of bounded memory, float64 [N]."""
    parts = [rows[low : low + chunk] for low in range(0, len(rows), chunk)]
    means = np.zeros((2, first.shape[1]))
    for part in parts:
        means += np.stack([first[part].sum(axis=0, dtype=np.float64), second[part].sum(axis=0, dtype=np.float64)])
    means /= len(rows)
    products = np.zeros((3, first.shape[1]))
    for part in parts:
        x, y = first[part] - means[0], second[part] - means[1]
        products += np.stack([(x * y).sum(axis=0), (x * x).sum(axis=0), (y * y).sum(axis=0)])
    constant = (products[1] <= 0) | (products[2] <= 0)
    scale = np.sqrt(np.where(constant, 1.0, products[1] * products[2]))
    return np.where(constant, np.nan, products[0] / scale)


def _check_arguments(
    seed: int, stimulus_seed: int, n_neurons: int, minutes: float, animal: str | None, session: int, scan: int
) -> None:
    """Refuse arguments that make no recording."""
    numbers = {"seed": seed, "stimulus_seed": stimulus_seed, "n_neurons": n_neurons, "session": session, "scan": scan}
    for name, value in numbers.items():
        low = 1 if name == "n_neurons" else 0
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
            raise ValueError(f"{name}: got {value!r}, expected an integer of at least {low}.")
    if not isinstance(minutes, (int, float)) or not np.isfinite(minutes) or minutes <= 0:
        raise ValueError(f"minutes: got {minutes!r}, expected a positive number.")
    if not isinstance(animal, str) or not animal or any(part in animal for part in "/\\-"):
        raise ValueError(
            f"animal: got {animal!r}, expected a name without '-', '/' or '\\': it begins the session key."
        )
