"""Opening a SENSORIUM folder: its trials as clips, or stills, on one clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.recording_data import SessionParts
from omnimouse.recordings.formats.sensorium import meta
from omnimouse.recordings.formats.sensorium.clips import KINDS, ClipDevice, Clips, lay_out
from omnimouse.recordings.formats.sensorium.scan import Scan, files_are_complete, scan_clips
from omnimouse.recordings.formats.sensorium.still_scan import StillScan, behavior_moments, image_ids, scan_stills
from omnimouse.recordings.formats.sensorium.stills import (
    HELD,
    SLOT,
    STILL_KINDS,
    StillDevice,
    Stills,
    lay_out_stills,
)

Moments = tuple[np.ndarray | None, np.ndarray | None]


def looks_like_sensorium(path: Path) -> bool:
    """Whether a folder has any of the parts of a SENSORIUM folder, of 2023 or 2022."""
    return any((path / "data" / kind).is_dir() for kind in (*KINDS, "images"))


def load_sensorium(path: Path, findings: Findings) -> SessionParts:
    """Open the parts of a SENSORIUM folder; faults go to `findings`, none raises. Images without videos are of 2022."""
    parts = SessionParts(path, *meta.identity(path, findings))
    meta.check_links(path, findings)
    tiers = meta.per_trial(path / "meta/trials/tiers.npy", findings)
    of_2022 = (path / "data/images").is_dir() and not (path / "data/videos").is_dir()
    if tiers is None or not files_are_complete(path, tiers, STILL_KINDS if of_2022 else KINDS, findings):
        return parts
    ids_file = path / "meta/neurons/unit_ids.npy"
    unit_ids = meta.unit_ids(ids_file, findings)
    scan_trials = scan_stills if of_2022 else scan_clips
    scan = scan_trials(path, len(tiers), None if unit_ids is None else len(unit_ids), findings)
    if scan is None or not meta.units_fit(ids_file, unit_ids, scan.neurons, findings):
        return parts
    names = [str(tier) for tier in tiers]
    parts = replace(parts, withheld_tiers=meta.withheld_tiers(path, names, scan.no_responses, findings))
    if isinstance(scan, StillScan):
        return _with_stills(parts, names, unit_ids, scan, findings)
    return _with_clips(parts, names, unit_ids, scan, findings)


def _withheld_trials(parts: SessionParts, tiers: list[str]) -> frozenset[int]:
    return frozenset(trial for trial, tier in enumerate(tiers) if tier in parts.withheld_tiers)


def _with_clips(
    parts: SessionParts, tiers: list[str], unit_ids: np.ndarray | None, scan: Scan, findings: Findings
) -> SessionParts:
    """The parts with devices and screen of 2023."""
    path = parts.path
    clips = Clips(path, scan.lengths, int(scan.stored_lengths.max()) + 1)
    trial_ids = meta.trial_ids(path / "meta/trials/trial_idx.npy", len(tiers), findings)
    moments = meta.statistics(path, "responses", scan.neurons, findings)
    eye, speed = _behavior_statistics(path, tiers, scan, findings)
    findings.info(
        path / "data/behavior",
        "pupil_size_derivative",
        expected="a stored channel",
        found="pupil size and running speed only",
        do="It is derived: central differences of the pupil size within each trial, per second.",
    )
    dtypes, withheld = scan.dtypes, _withheld_trials(parts, tiers)
    responses = ClipDevice.over(
        clips, "responses", scan.neurons, dtypes["responses"], moments, unit_ids=unit_ids, withheld=withheld
    )
    eye_dtype = str(np.result_type(dtypes["behavior"], dtypes["pupil_center"]))
    eye_tracker = ClipDevice.over(clips, "eye_tracker", 4, eye_dtype, eye)
    treadmill = ClipDevice.over(clips, "treadmill", 1, dtypes["behavior"], speed)
    screen = lay_out(clips, tiers, trial_ids, scan.frame_size)
    return replace(parts, devices=_by_name(responses, eye_tracker, treadmill), screen=screen)


def _with_stills(
    parts: SessionParts, tiers: list[str], unit_ids: np.ndarray | None, scan: StillScan, findings: Findings
) -> SessionParts:
    """The parts with devices and screen of 2022."""
    path, n_trials = parts.path, len(tiers)
    trial_ids = meta.trial_ids(path / "meta/trials/trial_idx.npy", n_trials, findings)
    images = image_ids(path, n_trials, findings)
    moments = meta.statistics(path, "responses", scan.neurons, findings)
    means, stds = behavior_moments(path, tiers, scan.behavior, findings)
    stills = Stills(path, np.full(n_trials, HELD), SLOT, behavior=scan.behavior)
    findings.info(
        path / "data/images",
        "time",
        expected="videos and traces",
        found="single images, one response each",
        do="Each is held for one window of 2 s. Train on tasks that hide responses (stimulus, stimulus+behavior); "
        "others can copy what is held constant. Score with evaluate_static.",
    )
    withheld = _withheld_trials(parts, tiers)
    responses = StillDevice.over(
        stills, "responses", scan.neurons, scan.response_dtype, moments, unit_ids=unit_ids, withheld=withheld
    )
    eye_tracker = StillDevice.over(stills, "eye_tracker", 4, "float64", (means[:4], stds[:4]))
    treadmill = StillDevice.over(stills, "treadmill", 1, "float64", (means[4:], stds[4:]))
    screen = lay_out_stills(stills, tiers, trial_ids, images, scan.image_size)
    return replace(parts, devices=_by_name(responses, eye_tracker, treadmill), screen=screen)


def _by_name(*devices: ClipDevice) -> dict[str, ClipDevice]:
    return {device.name: device for device in devices}


def _behavior_statistics(path: Path, tiers: list[str], scan: Scan, findings: Findings) -> tuple[Moments, Moments]:
    """Means and stds of the eye tracker's four channels and of the running speed."""
    means, stds = meta.statistics(path, "behavior", 2, findings)
    gaze_means, gaze_stds = meta.statistics(path, "pupil_center", 2, findings)
    if means is None or stds is None:
        return (None, None), (None, None)
    speed = means[1:], stds[1:]
    if gaze_means is None or gaze_stds is None:
        return (None, None), speed
    chosen = [trial for trial, tier in enumerate(tiers) if tier == "train"] or list(range(len(tiers)))
    values = np.concatenate([scan.derivatives[trial] for trial in chosen])
    values = values[usable(values)]
    derived = (values.mean(), values.std()) if len(values) else (np.nan, np.nan)
    eye = np.array([means[0], derived[0], *gaze_means]), np.array([stds[0], derived[1], *gaze_stds])
    return eye, speed
