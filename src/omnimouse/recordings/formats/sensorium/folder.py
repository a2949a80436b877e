"""Opening a SENSORIUM folder: its trials as clips, or stills, on one clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from omnimouse.recordings.data.findings import Findings, Kind
from omnimouse.recordings.data.recording_data import SessionParts
from omnimouse.recordings.formats.sensorium import clip_scan, meta, still_scan
from omnimouse.recordings.formats.sensorium.clips import KINDS, ClipDevice, Clips, ClipScreen, lay_out
from omnimouse.recordings.formats.sensorium.stills import HELD, SLOT, STILL_KINDS, StillDevice, Stills, lay_out_stills

DERIVED = Kind(
    "info", "pupil_size_derivative", "a stored channel",
    "It is derived: central differences of the pupil size within each trial, per second.",
)  # fmt: skip
STILL = Kind(
    "info", "time", "videos and traces",
    "Each is held for one window of 2 s. Train on tasks that hide responses (stimulus, stimulus+behavior); others can "
    "copy what is held constant. Score with evaluate_static.",
)  # fmt: skip


def looks_like_sensorium(path: Path) -> bool:
    """Whether a folder has any of the parts of a SENSORIUM folder, of 2023 or 2022."""
    return any((path / "data" / kind).is_dir() for kind in (*KINDS, "images"))


def load_sensorium(path: Path, findings: Findings) -> SessionParts:
    """Open the parts of a SENSORIUM folder; faults go to `findings`, none raises. Images without videos are of 2022."""
    parts = SessionParts(path, *meta.session_and_animal(path, findings))
    meta.check_links(path, findings)
    tiers = meta.per_trial(path / "meta/trials/tiers.npy", findings)
    of_2022 = (path / "data/images").is_dir() and not (path / "data/videos").is_dir()
    if tiers is None or not clip_scan.files_are_complete(path, tiers, STILL_KINDS if of_2022 else KINDS, findings):
        return parts
    ids_file = path / "meta/neurons/unit_ids.npy"
    unit_ids = meta.unit_ids(ids_file, findings)
    scan_trials = still_scan.scan_stills if of_2022 else clip_scan.scan_clips
    scan = scan_trials(path, len(tiers), None if unit_ids is None else len(unit_ids), findings)
    if scan is None or not meta.units_fit(ids_file, unit_ids, scan.neurons, findings):
        return parts
    return _assemble(parts, [str(tier) for tier in tiers], unit_ids, scan, findings)


def _assemble(
    parts: SessionParts,
    tiers: list[str],
    unit_ids: np.ndarray | None,
    scan: clip_scan.ClipScan | still_scan.StillScan,
    findings: Findings,
) -> SessionParts:
    """The parts with devices and a screen over what was scanned."""
    path, n_trials, kind = parts.path, len(tiers), ClipDevice
    withheld = meta.withheld_tiers(path, tiers, scan.no_responses, findings)
    trial_ids = meta.trial_ids(path / "meta/trials/trial_idx.npy", n_trials, findings)
    clips: Clips
    screen: ClipScreen
    if isinstance(scan, still_scan.StillScan):
        images = still_scan.image_ids(path, n_trials, findings)
        moments = {"responses": meta.statistics(path, "responses", scan.neurons, findings)}
        moments |= still_scan.behavior_moments(path, tiers, scan.behavior, findings)
        findings.append(STILL(path / "data/images", "single images, one response each"))
        stills = Stills(path, np.full(n_trials, HELD), SLOT, behavior=scan.behavior)
        clips, kind = stills, StillDevice
        screen = lay_out_stills(stills, tiers, trial_ids, images, scan.image_size)
    else:
        moments = {"responses": meta.statistics(path, "responses", scan.neurons, findings)}
        moments |= clip_scan.behavior_moments(path, tiers, scan, findings)
        findings.append(DERIVED(path / "data/behavior", "pupil size and running speed only"))
        clips = Clips(path, scan.lengths, int(scan.stored_lengths.max()) + 1)
        screen = lay_out(clips, tiers, trial_ids, scan.frame_size)
    hidden = frozenset(trial for trial, tier in enumerate(tiers) if tier in withheld)
    own = {"responses": {"unit_ids": unit_ids, "withheld": hidden}}
    devices = {
        name: kind.over(clips, name, n_signals, scan.dtypes[name], moments[name], **own.get(name, {}))
        for name, n_signals in (("responses", scan.neurons), ("eye_tracker", 4), ("treadmill", 1))
    }
    return replace(parts, devices=devices, screen=screen, withheld_tiers=withheld)
