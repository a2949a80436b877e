"""What the trial files of a SENSORIUM 2022 folder say: shapes, behaviour and its moments, which image was shown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omnimouse.model.configuration_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.data.findings import Findings, merged
from omnimouse.recordings.data.missing import no_value, usable
from omnimouse.recordings.data.reading import open_array
from omnimouse.recordings.formats.sensorium import meta as meta
from omnimouse.recordings.formats.sensorium import stills as stills
from omnimouse.recordings.formats.sensorium.clip_scan import most_common
from omnimouse.recordings.formats.sensorium.stills import STILL_KINDS

IMAGE_IDS = ("frame_image_id", "image_id", "colorframeprojector_image_id")
"""Arrays of `meta/trials/` that say which image was shown, in order of preference."""

LOOKED_AT = 64
"""Neurons of each trial that opening reads; they lie in one page of the file."""


@dataclass(frozen=True)
class StillScan:
    """What the files of all trials say about themselves."""

    neurons: int  # length of the responses
    image_size: tuple[int, int]  # stored (height, width)
    no_responses: np.ndarray  # per trial, whether its first neurons are zero or there are no responses at all
    behavior: np.ndarray  # channels of every trial in the order of `BEHAVIOR_CHANNELS`, float64 `[n_trials, 5]`
    dtypes: dict[str, str]  # numpy name per device, wide enough for every trial


def scan_stills(path: Path, n_trials: int, n_units: int | None, findings: Findings) -> StillScan | None:
    """Look into every trial: shapes, behaviour, and whether there are responses."""
    tally = Findings()
    shapes: dict[str, list[tuple[int, tuple[int, ...]]]] = {kind: [] for kind in STILL_KINDS}
    dtypes: set[str] = set()
    no_responses = np.ones(n_trials, dtype=bool)
    stored: dict[str, list[np.ndarray]] = {"behavior": [], "pupil_center": []}
    for trial in range(n_trials):
        for kind in STILL_KINDS:
            file = path / "data" / kind / f"{trial}.npy"
            if kind == "responses" and not os.path.lexists(file):
                continue  # of a tier that has none
            array = open_array(file, tally)
            if array is None:
                continue
            shapes[kind].append((trial, array.shape))
            if kind in stored:
                stored[kind].append(np.array(array, dtype=np.float64))
            elif kind == "responses" and array.ndim == 1:
                dtypes.add(str(array.dtype))
                no_responses[trial] = not np.nan_to_num(array[:LOOKED_AT]).any()
    neurons, image_size = _check_shapes(path, shapes, n_units, tally)
    if not tally.has_fatal:
        behavior = np.stack(stored["behavior"])
        # Stored as size, its derivative, speed; and gaze beside it.
        behavior = np.concatenate([behavior[:, :2], np.stack(stored["pupil_center"]), behavior[:, 2:]], axis=1)
        for channel in behavior.T:
            channel[no_value(channel)] = np.nan
        _check_gaps(path, behavior, tally)
        behavior[~usable(behavior)] = np.nan  # of which windows keep clear
    findings.extend(merged(tally))
    if tally.has_fatal:
        return None
    wide = {"responses": str(np.result_type(np.float32, *dtypes)), "eye_tracker": "float64", "treadmill": "float64"}
    return StillScan(neurons, image_size, no_responses, behavior, wide)


def _check_shapes(
    path: Path, shapes: dict[str, list[tuple[int, tuple[int, ...]]]], n_units: int | None, tally: Findings
) -> tuple[int, tuple[int, int]]:
    """Compare the shapes of all trials with what they should be; returns the number of neurons and the image size."""
    lengths = [shape[0] for _, shape in shapes["responses"] if len(shape) == 1]
    # Where no trial has as many responses as there are ids, the ids are wrong, which the caller reports.
    neurons = n_units if n_units in lengths else most_common(lengths)
    sizes = [shape[1:] for _, shape in shapes["images"] if len(shape) == 3 and shape[0] == 1 and 0 not in shape]
    image_size = most_common(sizes) or (144, 256)
    expected = {"images": (1, *image_size), "responses": (neurons,), "behavior": (3,), "pupil_center": (2,)}
    hints = {
        "images": "Store one grey image per trial, all of one size: (1, height, width).",
        "responses": "Store one number per neuron, of the same neurons in every trial.",
        "behavior": "Store pupil size, its derivative and running speed.",
        "pupil_center": "Store gaze x and gaze y.",
    }
    for kind, found in shapes.items():
        for trial, shape in found:
            if shape != expected[kind]:
                file, wanted = path / "data" / kind / f"{trial}.npy", str(expected[kind])
                tally.fatal(file, f"shape of {kind}", expected=wanted, found=str(shape), do=hints[kind])
    return neurons, image_size


def _check_gaps(path: Path, behavior: np.ndarray, tally: Findings) -> None:
    """Trials in which a behaviour channel is missing."""
    for trial in np.flatnonzero(~usable(behavior).all(axis=1)):
        sound = usable(behavior[trial])
        lost = [name for name, is_sound in zip(BEHAVIOR_CHANNELS, sound, strict=True) if not is_sound]
        kind = "pupil_center" if lost[0] in BEHAVIOR_CHANNELS[2:4] else "behavior"
        tally.warning(
            path / "data" / kind / f"{trial}.npy",
            f"NaN in {kind}",
            expected="finite numbers",
            found=f"NaN, infinity or a number that stands for no value (-9999, 1e20): {', '.join(lost)}",
            do="The trial has no window, so it is neither trained nor scored on.",
        )


def image_ids(path: Path, n_trials: int, findings: Findings) -> list[str | None] | None:
    """Which image each trial showed, as text; repeats share it. None where that is not known."""
    folder = path / "meta/trials"
    file = next(
        (file for name in IMAGE_IDS if (file := folder / f"{name}.npy").is_file()), folder / "frame_image_id.npy"
    )
    problems = Findings()
    ids = meta.per_trial(file, problems)
    if ids is not None and len(ids) == n_trials:
        # Numbers that a missing value turned into floats: 7017.0 is image 7017.
        numbers = ids[np.isfinite(ids)] if ids.dtype.kind == "f" else ids[:0]
        whole = ids.dtype.kind == "f" and (np.abs(numbers) < 2**53).all() and (numbers == np.floor(numbers)).all()
        return meta.identities(
            file,
            [int(value) if whole and np.isfinite(value) else value for value in ids.tolist()],
            "Each of these trials counts as an image of its own, which is not repeated; restore the ids.",
            findings,
        )
    expected = f"{n_trials} numbers or names of images, one per trial"
    found = str(len(ids)) if ids is not None else problems[0].found
    do = "Repeats of an image cannot be told, so that correlations to averages and FEVE are not defined; restore it."
    findings.warning(file, file.stem, expected=expected, found=found, do=do)
    return None


def behavior_moments(path: Path, tiers: list[str], behavior: np.ndarray, findings: Findings) -> dict[str, meta.Moments]:
    """Means and stds of eye tracker and treadmill: stored ones, or of the train tier, never zero."""
    chosen = np.array([tier == "train" for tier in tiers])
    values = behavior[chosen if chosen.any() else slice(None)]
    finite = np.isfinite(values)
    count = np.maximum(finite.sum(axis=0), 1)
    means = np.where(finite, values, 0).sum(axis=0) / count
    stds = np.sqrt((np.where(finite, values - means, 0) ** 2).sum(axis=0) / count)
    for kind, columns in (("behavior", [0, 1, 4]), ("pupil_center", [2, 3])):
        stored = meta.statistics(path, kind, len(columns), findings)
        for ours, theirs in zip((means, stds), stored, strict=True):
            if theirs is not None:
                ours[columns] = theirs
    _check_constant(path, behavior, means, stds, findings)
    _check_stds(path, means, stds, findings)
    return {"eye_tracker": (means[:4], stds[:4]), "treadmill": (means[4:], stds[4:])}


def _check_constant(path: Path, behavior: np.ndarray, means: np.ndarray, stds: np.ndarray, findings: Findings) -> None:
    """Gives channels of one value its mean and std 1, so that they become 0."""
    constant = []
    for channel, name in enumerate(BEHAVIOR_CHANNELS):
        present = behavior[np.isfinite(behavior[:, channel]), channel]
        if len(present) and (present == present[0]).all():
            means[channel], stds[channel] = present[0] + 0.0, 1.0  # never -0
            constant.append(f"{name} ({means[channel]:g})")
    if constant:
        everything = len(constant) == behavior.shape[1]
        found, do = (
            f"one value in all {len(behavior)} trials: {', '.join(constant)}",
            "The model sees them as average (0)",
        )
        if everything:
            found += ": withheld, or not recorded"
            do += "; stimulus+behavior tells it nothing that stimulus does not"
        field = "behavior and pupil_center" if everything else "constant behavior channels"
        findings.warning(path / "data", field, expected="channels that vary", found=found, do=f"{do}.")


def _check_stds(path: Path, means: np.ndarray, stds: np.ndarray, findings: Findings) -> None:
    """Replace moments that nothing can be standardised with; channels that do vary have them from a wrong file."""
    bad = ~np.isfinite(means) | ~np.isfinite(stds) | (stds <= 0)
    if bad.any():
        found = ", ".join(f"{BEHAVIOR_CHANNELS[c]} {means[c]:g} and {stds[c]:g}" for c in np.flatnonzero(bad))
        do = "These channels are left unscaled (mean 0, std 1); delete the statistics to have them computed."
        expected = "finite means, stds above 0"
        findings.warning(path / "meta/statistics", "means and stds of behavior", expected=expected, found=found, do=do)
        means[bad], stds[bad] = 0.0, 1.0
