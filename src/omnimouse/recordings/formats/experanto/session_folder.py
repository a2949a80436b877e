"""Opening an experanto session folder without reading its arrays: identity, trials and the screen's clock."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.model.session_tables.session_names import animal_of
from omnimouse.recordings.data.device_clocks import clock_is_sound
from omnimouse.recordings.data.devices import MissingDevice
from omnimouse.recordings.data.findings import Finding, Findings, merged
from omnimouse.recordings.data.plausible import identity
from omnimouse.recordings.data.reading import (
    RECOPY,
    is_finite_number,
    open_array,
    read_fields,
    read_name,
    read_number,
    shown,
)
from omnimouse.recordings.data.recording_data import SEQUENCE_DEVICES, SessionParts
from omnimouse.recordings.data.screen import NoVideo, Screen, Trial
from omnimouse.recordings.formats.experanto.session_devices import load_device
from omnimouse.support.spreading import listed

MODALITIES = ("video", "image", "blank", "invalid")
TRIAL_FILE = re.compile(r"\d{5}\.yml")


def looks_like_experanto(path: Path) -> bool:
    """Whether a folder has any of the parts of an experanto session folder."""
    return path.is_dir() and any((path / name).exists() for name in ("meta.json", "screen", *SEQUENCE_DEVICES))


def load_experanto(path: Path, findings: Findings) -> SessionParts:
    """Open the parts of a session folder from their metadata; faults go to `findings`, none raises."""
    session_key, animal_id, missing, withheld = _identity(path, findings)
    devices = {
        name: MissingDevice.named(name, path / name)
        if name in missing and not (path / name).exists()
        else load_device(path, name, findings)
        for name in SEQUENCE_DEVICES
    }
    return SessionParts(path, session_key, animal_id, devices, _screen(path / "screen", findings), withheld)


def _identity(path: Path, findings: Findings) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    """Session key and animal, from meta.json or the folder's name; devices declared missing, and withheld tiers."""
    from_name = re.match(r"dynamic([^-]+)-", path.name)
    animal = from_name.group(1) if from_name else animal_of(path.name)
    file = path / "meta.json"
    its_name = f"The folder's name {path.name!r} is the session key"
    if not file.is_file():
        do = f"{its_name}; add meta.json to name animal, session and scan."
        findings.warning(file, "file", expected="meta.json with the scan_key", found="no such file", do=do)
    meta = read_fields(file, findings) if file.is_file() else None
    if meta is None:
        return path.name, animal, (), ()
    _notes(file, meta, findings)
    stored = meta.get("scan_key")
    scan: dict[str, Any] = stored if isinstance(stored, dict) else {}
    key = identity(read_name(meta, "data_key", file, findings))
    numbers = [identity(read_name(scan, name, file, findings)) for name in ("animal_id", "session", "scan_idx")]
    if key is None and all(number is not None for number in numbers):
        key = "-".join(map(str, numbers))
    if key is None:
        expected, do = "animal_id, session and scan_idx", f"{its_name}; complete the scan_key."
        findings.warning(file, "scan_key", expected=expected, found=shown(stored), do=do)
    return (
        path.name if key is None else key,
        numbers[0] or (animal if from_name or key is None else animal_of(key)),
        _names(file, meta, "missing", SEQUENCE_DEVICES[1:], findings),
        _names(file, meta, "withheld_tiers", None, findings),
    )


def _notes(file: Path, meta: dict[str, Any], findings: Findings) -> None:
    """Findings that were stored with the folder, about what it was made of; an addition of this package."""
    keys = {field.name for field in fields(Finding)}
    notes = meta.get("notes", [])
    for note in notes if isinstance(notes, list) else [notes]:
        if isinstance(note, dict) and note.keys() == keys and all(isinstance(text, str) for text in note.values()):
            # What made the folder unreadable would have kept it from being written.
            findings.append(Finding(**{**note, "severity": "info" if note["severity"] == "info" else "warning"}))
        else:
            expected = f"findings with {', '.join(sorted(keys))}"
            findings.warning(file, "notes", expected=expected, found=shown(note), do="Correct the list, or remove it.")


def _names(
    file: Path, meta: dict[str, Any], key: str, known: tuple[str, ...] | None, findings: Findings
) -> tuple[str, ...]:
    """A list of names in meta.json, an addition of this package to the format; `known` are the possible ones."""
    names = meta.get(key, [])
    if isinstance(names, list) and all(isinstance(name, str) and (known is None or name in known) for name in names):
        return tuple(names)
    expected = "a list of names" if known is None else f"a list of {' and '.join(known)}"
    findings.fatal(file, key, expected=expected, found=shown(names), do="Correct the list, or remove the key.")
    return ()


def _screen(folder: Path, findings: Findings) -> Screen | None:
    if not folder.is_dir():
        findings.fatal(folder, "folder", expected="the device folder 'screen'", found="no such folder", do=RECOPY)
        return None
    stored = open_array(folder / "timestamps.npy", findings)
    timestamps = None if stored is None else np.asarray(stored, dtype=np.float64)
    if timestamps is not None and not clock_is_sound(folder / "timestamps.npy", timestamps, findings):
        timestamps = None
    meta = folder / "meta"
    names = sorted(entry.name for entry in meta.iterdir() if TRIAL_FILE.fullmatch(entry.name)) if meta.is_dir() else []
    if not names:
        findings.fatal(meta, "trials", expected="files 00000.yml, 00001.yml, ...", found="none", do=RECOPY)
        return None
    tally = Findings()
    parsed = [_parse_trial(meta / name, tally) for name in names]
    findings.extend(merged(tally))
    if timestamps is None or tally.has_fatal:
        return None
    known = [trial for trial in parsed if trial is not None]
    trials = _chain(known, folder, timestamps, findings)
    if not _has_frames(folder):
        return None if trials is None else NoVideo(folder, timestamps, trials)
    complete = _stimuli_are_there(folder / "data", known, findings)
    return Screen(folder, timestamps, trials) if trials is not None and complete else None


def _has_frames(folder: Path) -> bool:
    """Whether the screen's frames are stored; `frames: false` in its meta.yml, an addition of this package, denies."""
    meta = read_fields(folder / "meta.yml", Findings())  # what is wrong with it otherwise, checks say
    return meta is None or meta.get("frames") is not False


def _parse_trial(path: Path, findings: Findings) -> dict[str, Any] | None:
    """What the file of a trial says; None with a fatal finding."""
    meta = read_fields(path, findings)
    if meta is None:
        return None
    stated = meta.get("modality", "no such key")
    modality = stated.lower() if isinstance(stated, str) else ""
    if modality not in MODALITIES:
        expected = " or ".join(MODALITIES)
        findings.fatal(path, "modality", expected=expected, found=shown(stated), do="Correct the trial.")
        return None
    first = read_number(meta, "first_frame_idx", path, findings, integer=True)
    # The reader of the format shows one frame for everything but videos, whatever num_frames says.
    n_frames = read_number(meta, "num_frames", path, findings, integer=True) if modality == "video" else 1
    if first is None or n_frames is None:
        return None
    if n_frames < 1:
        findings.fatal(path, "num_frames", expected="at least 1", found=str(n_frames), do="Correct the trial.")
        return None
    gray, size = meta.get("interleave_value"), meta.get("image_size")
    if modality == "blank" and not is_finite_number(gray):
        expected, do = "the grey level (0-255) of a blank", "Write the grey level that was on screen, usually 128.0."
        findings.fatal(path, "interleave_value", expected=expected, found=shown(gray), do=do)
    if meta.get("encoded"):
        expected, found = "frames stored as numbers in screen/data/*.npy", f"encoded: {shown(meta['encoded'])}"
        do = "Videos are not decoded here: convert them to arrays and remove the key."
        findings.warning(path, "encoded", expected=expected, found=found, do=do)
    sound_size = isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(edge, int) for edge in size)
    return {
        "name": path.stem,
        "modality": modality,
        "first_frame": int(first),
        "n_frames": int(n_frames),
        "tier": read_name(meta, "tier", path, findings, longest=60),
        "condition_hash": _condition(path, meta, findings),
        "image_size": (size[0], size[1]) if sound_size and size is not None else None,
        "interleave_value": float(gray) if gray is not None and is_finite_number(gray) else None,
    }


def _condition(path: Path, meta: dict[str, Any], findings: Findings) -> str | None:
    named = read_name(meta, "condition_hash", path, findings)
    condition = identity(named)
    if named is not None and condition is None:
        expected, found = "the identity of the stimulus, or no such key", shown(meta["condition_hash"])
        do = "It is unknown which other trials showed the same; restore the hashes."
        findings.warning(path, "condition_hash", expected=expected, found=found, do=do)
    return condition


def _chain(
    parsed: list[dict[str, Any]], folder: Path, timestamps: np.ndarray, findings: Findings
) -> list[Trial] | None:
    """Trials with their times, after checking that together they account for every displayed frame."""
    first = np.array([trial["first_frame"] for trial in parsed])
    running = np.concatenate([[0], np.cumsum([trial["n_frames"] for trial in parsed])])
    off = np.flatnonzero(first != running[:-1])
    if len(off):
        file = folder / "meta" / f"{parsed[off[0]]['name']}.yml"
        expected = f"{running[off[0]]}, the frames of all trials before it"
        do = f"{len(off)} trials disagree: a trial is missing, or num_frames is wrong."
        findings.fatal(file, "first_frame_idx", expected=expected, found=str(first[off[0]]), do=do)
    if running[-1] != len(timestamps):
        expected, found = f"{running[-1]}, the sum of num_frames over all trials", str(len(timestamps))
        do = "Trials or frame times are missing; restore both from one export."
        findings.fatal(folder / "timestamps.npy", "length", expected=expected, found=found, do=do)
    if len(off) or running[-1] != len(timestamps):
        return None
    starts = timestamps[first]
    times = enumerate(zip(parsed, starts.tolist(), [*starts[1:].tolist(), np.inf], strict=True))
    return [Trial(index=index, start=start, end=end, **trial) for index, (trial, start, end) in times]


def _stimuli_are_there(folder: Path, parsed: list[dict[str, Any]], findings: Findings) -> bool:
    stored = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    shown = [trial["name"] for trial in parsed if trial["modality"] in ("video", "image")]
    missing = [name for name in shown if f"{name}.npy" not in stored]
    if missing:
        encoded = " (.mp4 is not read: convert it)" if any(name.endswith((".mp4", ".avi")) for name in stored) else ""
        expected, found = f"a .npy file for each of {len(shown)} image and video trials", f"{len(missing)} missing"
        findings.fatal(
            folder, "stimuli", expected=expected, found=f"{found} ({listed(missing, 5)}){encoded}", do=RECOPY
        )
    return not missing
