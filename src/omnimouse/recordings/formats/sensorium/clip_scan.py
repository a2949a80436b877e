"""What the trial files of a SENSORIUM 2023 folder say: whether all are there, their shapes, their padding."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.findings import Findings, merged
from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.reading import RECOPY, open_array
from omnimouse.recordings.formats.sensorium import meta
from omnimouse.recordings.formats.sensorium.clips import KINDS, pupil_derivative
from omnimouse.recordings.formats.sensorium.meta import Moments
from omnimouse.support.spreading import listed

TRIAL_FILE = re.compile(r"(0|[1-9]\d*)\.npy")
WINDOW_FRAMES = 60
"""Frames below which a trial has no window at the usual length."""


@dataclass(frozen=True)
class ClipScan:
    """What the files of all trials say about themselves."""

    stored_lengths: np.ndarray  # frames with padding, int `[n_trials]`
    lengths: np.ndarray  # frames without it
    neurons: int  # rows of the responses
    frame_size: tuple[int, int]  # (height, width) of the videos
    no_responses: np.ndarray  # per trial, whether its first neuron is zero throughout or there are no responses at all
    dtypes: dict[str, str]  # numpy name per device, wide enough for every trial
    derivatives: list[np.ndarray]  # change of the pupil size per second, per trial


def files_are_complete(path: Path, tiers: np.ndarray, kinds: tuple[str, ...], findings: Findings) -> bool:
    """Whether each kind has the files 0.npy to n-1.npy; responses may lack for whole tiers."""
    n_trials, before = len(tiers), len(findings)
    for kind in kinds:
        folder = path / "data" / kind
        if not folder.is_dir():
            findings.fatal(folder, "folder", expected=f"{n_trials} trials", found="no such folder", do=RECOPY)
            continue
        names = (TRIAL_FILE.fullmatch(entry.name) for entry in folder.iterdir())
        there = {int(name[1]) for name in names if name is not None}
        missing = np.array([trial not in there for trial in range(n_trials)])
        if kind == "responses" and 0 < missing.sum() < n_trials:
            for tier in np.unique(tiers):
                missing[tiers == tier] &= not missing[tiers == tier].all()
        faults = {"missing": np.flatnonzero(missing).tolist(), "too many": sorted(there - set(range(n_trials)))}
        found = [f"{len(trials)} {what} ({listed(trials, 5)})" for what, trials in faults.items() if trials]
        if found:
            expected = f"0.npy to {n_trials - 1}.npy, one for each entry of meta/trials/tiers.npy"
            findings.fatal(folder, "files", expected=expected, found=" and ".join(found), do=RECOPY)
    return len(findings) == before


def scan_clips(path: Path, n_trials: int, n_units: int | None, findings: Findings) -> ClipScan | None:
    """Look into every trial: shapes, padding, and whether there are responses."""
    tally = Findings()
    shapes: list[dict[str, tuple[int, ...]]] = []
    lengths = np.zeros(n_trials, dtype=np.int64)
    no_responses = np.zeros(n_trials, dtype=bool)
    dtypes: dict[str, set[str]] = {kind: set() for kind in KINDS}
    derivatives = [np.zeros(0)] * n_trials
    for trial in range(n_trials):
        arrays = _open_trial(path, trial, tally)
        shapes.append({kind: array.shape for kind, array in arrays.items()})
        for kind, array in arrays.items():
            dtypes[kind].add(str(array.dtype))
        if not {"videos", "behavior", "pupil_center"} <= set(arrays):
            continue
        first = np.asarray(arrays["responses"][0], dtype=np.float64) if "responses" in arrays else np.zeros(0)
        no_responses[trial] = not (first[np.isfinite(first)] != 0).any()
        valid = [arrays["videos"][0, 0][None], arrays["behavior"], arrays["pupil_center"]]
        lengths[trial] = min(map(padding_start, valid if no_responses[trial] else [*valid, first[None]]))
        derivatives[trial] = pupil_derivative(arrays["behavior"][0, : lengths[trial]])
    if tally.has_fatal:
        findings.extend(merged(tally))
        return None
    neurons, frame_size = _check_shapes(path, shapes, n_units, tally)
    expected = f"at least {WINDOW_FRAMES}, a window of 2 s, before the padding of any kind"
    for trial in np.flatnonzero(lengths < WINDOW_FRAMES).tolist():
        file, found = path / "data/videos" / f"{trial}.npy", str(lengths[trial])
        tally.warning(file, "valid frames", expected=expected, found=found, do="The trial has no window.")
    findings.extend(merged(tally))
    if tally.has_fatal:
        return None
    stored_lengths = np.array([shape["videos"][-1] for shape in shapes])
    kinds = {"responses": ("responses",), "eye_tracker": ("behavior", "pupil_center"), "treadmill": ("behavior",)}
    wide = {
        device: str(np.result_type(np.float32, *(name for kind in of for name in dtypes[kind])))
        for device, of in kinds.items()
    }
    return ClipScan(stored_lengths, lengths, neurons, frame_size, no_responses, wide, derivatives)


def _open_trial(path: Path, trial: int, tally: Findings) -> dict[str, np.ndarray]:
    """Those arrays of a trial that can be opened and have the right number of axes."""
    arrays: dict[str, np.ndarray] = {}
    for kind in KINDS:
        file = path / "data" / kind / f"{trial}.npy"
        if kind == "responses" and not os.path.lexists(file):
            continue  # of a tier that has none
        array = open_array(file, tally)
        if array is None:
            continue
        if array.ndim != (3 if kind == "videos" else 2) or 0 in array.shape:
            wanted = "(height, width, frames)" if kind == "videos" else "(signals, frames)"
            tally.fatal(file, "shape", expected=wanted, found=str(array.shape), do=RECOPY)
        else:
            arrays[kind] = array
    return arrays


def behavior_moments(path: Path, tiers: list[str], scan: ClipScan, findings: Findings) -> dict[str, Moments]:
    """Means and stds of the eye tracker's four channels and of the running speed, None where they are not stored."""
    means, stds = meta.statistics(path, "behavior", 2, findings)
    gaze_means, gaze_stds = meta.statistics(path, "pupil_center", 2, findings)
    moments: dict[str, Moments] = {"eye_tracker": (None, None), "treadmill": (None, None)}
    if means is None or stds is None:
        return moments
    moments["treadmill"] = means[1:], stds[1:]
    if gaze_means is not None and gaze_stds is not None:
        chosen = [trial for trial, tier in enumerate(tiers) if tier == "train"] or list(range(len(tiers)))
        values = np.concatenate([scan.derivatives[trial] for trial in chosen])
        values = values[usable(values)]
        mean, std = (values.mean(), values.std()) if len(values) else (np.nan, np.nan)
        moments["eye_tracker"] = np.array([means[0], mean, *gaze_means]), np.array([stds[0], std, *gaze_stds])
    return moments


def padding_start(array: np.ndarray) -> int:
    """Frames of an array `[signals, frames]` before the NaNs at its end."""
    sound = np.flatnonzero(~np.isnan(np.asarray(array)).any(axis=0))
    return int(sound[-1]) + 1 if len(sound) else 0


def _check_shapes(
    path: Path, shapes: list[dict[str, tuple[int, ...]]], n_units: int | None, tally: Findings
) -> tuple[int, tuple[int, int]]:
    """Compare the shapes of all kinds and trials; returns the number of neurons and the frame size."""
    everything = [found["responses"] for found in shapes if "responses" in found]
    frames = most_common([found["behavior"][1] for found in shapes])
    # Where all have time first, the columns are the neurons.
    turned = bool(everything) and all(shape[0] == frames != shape[1] for shape in everything)
    neurons = n_units
    # Where no trial has as many as there are ids, the ids are wrong, which the caller reports.
    if neurons is None or (everything and not any(neurons in shape for shape in everything)):
        neurons = most_common([shape[turned] for shape in everything])
    frame_size = most_common([found["videos"][:2] for found in shapes])
    for trial, found in enumerate(shapes):
        length = most_common([found["behavior"][1], found["pupil_center"][1], found["videos"][2]])
        lengths = {"videos": frame_size, "responses": (neurons,), "behavior": (2,), "pupil_center": (2,)}
        for kind, shape in found.items():
            wanted, hint = (
                (*lengths[kind], length),
                "The trial is damaged or belongs to another session; copy it again.",
            )
            if shape == wanted:
                continue
            if kind == "videos" and shape[0] == length and shape[2] != length:
                wanted, hint = (*shape[1:], length), "Time comes first here: store (height, width, frames)."
            elif sorted(shape) == sorted(wanted):
                hint = "The axes are swapped: store time last."
            file = path / "data" / kind / f"{trial}.npy"
            tally.fatal(file, f"shape of {kind}", expected=str(wanted), found=str(shape), do=hint)
    if not tally.has_fatal and frame_size[0] > frame_size[1]:
        tally.warning(
            path / "data/videos/0.npy",
            "frame size",
            expected="(height, width, frames), as wide as or wider than high",
            found=str(shapes[0]["videos"]),
            do="Height and width may be swapped; store (36, 64, frames).",
        )
    return neurons, frame_size


def most_common(values: list[Any]) -> Any:
    """The value that occurs most often, 0 without any."""
    return Counter(values).most_common(1)[0][0] if values else 0
