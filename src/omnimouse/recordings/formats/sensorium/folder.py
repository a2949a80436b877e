"""Opening a SENSORIUM 2023 folder: its trials as clips on one clock."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.recording_data import SessionParts
from omnimouse.recordings.formats.sensorium import clips as stored
from omnimouse.recordings.formats.sensorium import meta as meta
from omnimouse.recordings.formats.sensorium.clips import KINDS, ClipDevice, Clips, ClipScreen
from omnimouse.recordings.formats.sensorium.scan import Scan, files_are_complete, scan_trials


def looks_like_sensorium(path: Path) -> bool:
    """Whether a folder has any of the parts of a SENSORIUM folder, of 2023 or 2022."""
    return any((path / "data" / kind).is_dir() for kind in (*KINDS, "images"))


def load_sensorium(path: Path, findings: Findings) -> SessionParts:
    """Open the parts of a SENSORIUM 2023 folder; faults go to `findings`, none raises."""
    session_key, animal_id = meta.identity(path, findings)
    nothing = SessionParts(path, session_key, animal_id, dict.fromkeys(("responses", "eye_tracker", "treadmill")), None)
    meta.check_links(path, findings)
    tiers = meta.per_trial(path / "meta/trials/tiers.npy", findings)
    if tiers is None:
        return nothing
    if not files_are_complete(path, tiers, findings):
        return nothing
    unit_ids = meta.unit_ids(path / "meta/neurons/unit_ids.npy", findings)
    scan = scan_trials(path, len(tiers), None if unit_ids is None else len(unit_ids), findings)
    if scan is None:
        return nothing
    if not meta.units_fit(path / "meta/neurons/unit_ids.npy", unit_ids, scan.neurons, findings):
        return nothing
    return _assemble(nothing, [str(tier) for tier in tiers], unit_ids, scan, findings)


def _assemble(
    parts: SessionParts, tiers: list[str], unit_ids: np.ndarray | None, scan: Scan, findings: Findings
) -> SessionParts:
    path = parts.path
    withheld = meta.withheld_tiers(path, tiers, scan.no_responses, findings)
    clips = Clips(path, scan.lengths, int(scan.stored_lengths.max()) + 1)
    trial_ids = meta.trial_ids(path / "meta/trials/trial_idx.npy", len(tiers), findings)
    hidden = frozenset(trial for trial, tier in enumerate(tiers) if tier in withheld)
    response_statistics = meta.statistics(path, "responses", scan.neurons, findings)
    eye, speed = _behavior_statistics(path, tiers, scan, findings)
    findings.info(
        path / "data/behavior",
        "pupil_size_derivative",
        expected="a stored channel",
        found="pupil size and running speed only",
        do="It is derived: central differences of the pupil size within each trial, per second.",
    )

    device = functools.partial(ClipDevice.over, clips)
    neurons = device(
        "responses", "responses", stored.responses, scan.neurons, scan.dtypes["responses"], response_statistics,
        unit_ids=unit_ids, withheld=hidden,
    )  # fmt: skip
    eye_dtype = str(np.result_type(scan.dtypes["behavior"], scan.dtypes["pupil_center"]))
    devices: dict[str, SequenceDevice | None] = {
        "responses": neurons,
        "eye_tracker": device("eye_tracker", "pupil_center", stored.eye_tracker, 4, eye_dtype, eye),
        "treadmill": device("treadmill", "behavior", stored.treadmill, 1, scan.dtypes["behavior"], speed),
    }
    screen: ClipScreen = stored.lay_out(clips, tiers, trial_ids, scan.frame_size)
    return SessionParts(path, parts.session_key, parts.animal_id, devices, screen, withheld)


def _behavior_statistics(path: Path, tiers: list[str], scan: Scan, findings: Findings) -> tuple[Any, Any]:
    """Means and stds of the eye tracker's four channels and of the running speed."""
    behavior = meta.statistics(path, "behavior", 2, findings)
    gaze = meta.statistics(path, "pupil_center", 2, findings)
    speed = (None, None) if behavior[0] is None or behavior[1] is None else (behavior[0][1:], behavior[1][1:])
    if behavior[0] is None or behavior[1] is None or gaze[0] is None or gaze[1] is None:
        return (None, None), speed
    chosen = [trial for trial, tier in enumerate(tiers) if tier == "train"] or list(range(len(tiers)))
    values = np.concatenate([scan.derivatives[trial] for trial in chosen])
    values = values[usable(values)]
    derived = (values.mean(), values.std()) if len(values) else (np.nan, np.nan)
    means = np.array([behavior[0][0], derived[0], *gaze[0]])
    return (means, np.array([behavior[1][0], derived[1], *gaze[1]])), speed
