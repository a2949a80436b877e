"""Opening an experanto session folder without reading its arrays: identity, trials and the screen's clock."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.animal_names import animal_of
from omnimouse.recordings.data.devices import MissingDevice
from omnimouse.recordings.data.findings import Finding, Findings, Tally
from omnimouse.recordings.data.plausible import identity
from omnimouse.recordings.data.reading import (
    RECOPY,
    is_finite_number,
    open_array,
    read_mapping,
    read_name,
    read_number,
    shown,
)
from omnimouse.recordings.data.recording_data import SEQUENCE_DEVICES, SessionParts
from omnimouse.recordings.data.screen import NoVideo, Screen, Trial
from omnimouse.recordings.formats.experanto.session_devices import load_device

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
    fallback: tuple[str, str, tuple[str, ...], tuple[str, ...]] = (path.name, animal, (), ())
    file = path / "meta.json"
    if not file.is_file():
        findings.warning(
            file,
            "file",
            expected="meta.json with the scan_key",
            found="no such file",
            do=f"The folder's name {path.name!r} is the session key; add meta.json to name animal, session and scan.",
        )
        return fallback
    meta = read_mapping(file, findings)
    if meta is None:
        return fallback
    _notes(file, meta, findings)
    stored = meta.get("scan_key")
    scan: dict[str, Any] = stored if isinstance(stored, dict) else {}
    key = identity(read_name(meta, "data_key", file, findings))
    numbers = [identity(read_name(scan, name, file, findings)) for name in ("animal_id", "session", "scan_idx")]
    if key is None and all(number is not None for number in numbers):
        key = "-".join(str(number) for number in numbers)
    if key is None:
        findings.warning(
            file,
            "scan_key",
            expected="animal_id, session and scan_idx",
            found=shown(stored),
            do=f"The folder's name {path.name!r} is the session key; complete the scan_key.",
        )
    return (
        fallback[0] if key is None else key,
        numbers[0] or (fallback[1] if from_name or key is None else animal_of(key)),
        _names(file, meta, "missing", SEQUENCE_DEVICES[1:], findings),
        _names(file, meta, "withheld_tiers", None, findings),
    )


def _notes(file: Path, meta: dict[str, Any], findings: Findings) -> None:
    """Findings that were stored with the folder, about what it was made of; an addition of this package."""
    keys = {field.name for field in fields(Finding)}
    notes = meta.get("notes", [])
    for note in notes if isinstance(notes, list) else [notes]:
        if (
            not isinstance(note, dict)
            or note.keys() != keys
            or not all(isinstance(text, str) for text in note.values())
        ):
            expected = f"findings with {', '.join(sorted(keys))}"
            findings.warning(file, "notes", expected=expected, found=shown(note), do="Correct the list, or remove it.")
        else:
            # What made the folder unreadable would have kept it from being written.
            findings.append(Finding(**{**note, "severity": "info" if note["severity"] == "info" else "warning"}))


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
    timestamps = open_array(folder / "timestamps.npy", findings)
    if timestamps is not None:
        timestamps = np.asarray(timestamps, dtype=np.float64)
        if not clock_is_sound(folder / "timestamps.npy", timestamps, findings):
            timestamps = None
    meta = folder / "meta"
    names = sorted(entry.name for entry in meta.iterdir() if TRIAL_FILE.fullmatch(entry.name)) if meta.is_dir() else []
    if not names:
        findings.fatal(meta, "trials", expected="files 00000.yml, 00001.yml, ...", found="none", do=RECOPY)
        return None
    problems, tally = Findings(), Tally()
    parsed = [_parse_trial(meta / name, problems) for name in names]
    tally.extend(problems)
    tally.report(findings)
    if timestamps is None or problems.has_fatal:
        return None
    known = [trial for trial in parsed if trial is not None]
    if not _has_frames(folder):
        trials = _chain(known, folder, timestamps, None, findings)
        return None if trials is None else NoVideo(folder, timestamps, trials)
    stored = {entry.name for entry in (folder / "data").iterdir()} if (folder / "data").is_dir() else set()
    trials = _chain(known, folder, timestamps, stored, findings)
    return None if trials is None else Screen(folder, timestamps, trials)


def _has_frames(folder: Path) -> bool:
    """Whether the screen's frames are stored; `frames: false` in its meta.yml, an addition of this package, denies."""
    meta = read_mapping(folder / "meta.yml", Findings())  # what is wrong with it otherwise, checks say
    return meta is None or meta.get("frames") is not False


def clock_is_sound(path: Path, timestamps: np.ndarray, findings: Findings) -> bool:
    """Whether times of displayed frames `[F]` can be looked up in; findings otherwise."""
    if timestamps.ndim != 1 or len(timestamps) < 2:
        findings.fatal(
            path, "shape", expected="one time per displayed frame, at least 2", found=str(timestamps.shape), do=RECOPY
        )
        return False
    if not np.isfinite(timestamps).all():
        found = f"{np.count_nonzero(~np.isfinite(timestamps))} of {len(timestamps)} are NaN or infinite"
        findings.fatal(path, "timestamps", expected="finite seconds", found=found, do="Restore the frame times.")
        return False
    steps = np.diff(timestamps)
    if (steps < 0).any():
        at = int(np.argmax(steps < 0))
        findings.fatal(
            path,
            "timestamps",
            expected="increasing seconds",
            found=f"{np.count_nonzero(steps < 0)} steps back, the first from {timestamps[at]} to {timestamps[at + 1]} "
            f"at frame {at + 1}",
            do="Restore the frame times in order of presentation.",
        )
        return False
    if (steps == 0).any():
        findings.warning(
            path,
            "timestamps",
            expected="strictly increasing seconds",
            found=f"{np.count_nonzero(steps == 0)} repeated times",
            do="Frames shown for no time are never read.",
        )
    return True


def _parse_trial(path: Path, findings: Findings) -> dict[str, Any] | None:
    meta = read_mapping(path, findings)
    if meta is None:
        return None
    stated = meta.get("modality")
    modality = stated.lower() if isinstance(stated, str) else ""
    if modality not in MODALITIES:
        findings.fatal(
            path,
            "modality",
            expected=" or ".join(MODALITIES),
            found=shown(meta.get("modality", "no such key")),
            do="Correct the trial.",
        )
        return None
    first = read_number(meta, "first_frame_idx", path, findings, integer=True)
    # The reader of the format shows one frame for everything but videos, whatever num_frames says.
    n_frames = read_number(meta, "num_frames", path, findings, integer=True) if modality == "video" else 1
    if first is None or n_frames is None:
        return None
    if n_frames < 1:
        findings.fatal(path, "num_frames", expected="at least 1", found=str(n_frames), do="Correct the trial.")
        return None
    size = meta.get("image_size")
    gray = meta.get("interleave_value")
    if modality == "blank" and not is_finite_number(gray):
        findings.fatal(
            path,
            "interleave_value",
            expected="the grey level (0-255) of a blank",
            found=shown(gray),
            do="Write the grey level that was on screen, usually 128.0.",
        )
    if meta.get("encoded"):
        findings.warning(
            path,
            "encoded",
            expected="frames stored as numbers in screen/data/*.npy",
            found=f"encoded: {shown(meta['encoded'])}",
            do="Videos are not decoded here: convert them to arrays and remove the key.",
        )
    sound_size = isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(edge, int) for edge in size)
    tier = read_name(meta, "tier", path, findings, longest=60)
    named = read_name(meta, "condition_hash", path, findings)
    condition = identity(named)
    if named is not None and condition is None:
        findings.warning(
            path,
            "condition_hash",
            expected="the identity of the stimulus, or no such key",
            found=shown(meta["condition_hash"]),
            do="It is unknown which other trials showed the same; restore the hashes.",
        )
    return {
        "name": path.stem,
        "modality": modality,
        "first_frame": int(first),
        "n_frames": int(n_frames),
        "tier": tier,
        "condition_hash": condition,
        "image_size": (size[0], size[1]) if sound_size and size is not None else None,
        "interleave_value": float(gray) if gray is not None and is_finite_number(gray) else None,
    }


def _chain(
    parsed: list[dict[str, Any]], folder: Path, timestamps: np.ndarray, stored: set[str] | None, findings: Findings
) -> list[Trial] | None:
    """Trials with their times, after checking that together they account for every displayed frame.

    `stored` are the files with frames, None where none is expected.
    """
    first = np.array([trial["first_frame"] for trial in parsed])
    n_frames = np.array([trial["n_frames"] for trial in parsed])
    running = np.concatenate([[0], np.cumsum(n_frames)])
    before = len(findings)
    off = np.flatnonzero(first != running[:-1])
    if len(off):
        at = off[0]
        findings.fatal(
            folder / "meta" / f"{parsed[at]['name']}.yml",
            "first_frame_idx",
            expected=f"{running[at]}, the frames of all trials before it",
            found=str(first[at]),
            do=f"{len(off)} trials disagree: a trial is missing, or num_frames is wrong.",
        )
    if running[-1] != len(timestamps):
        findings.fatal(
            folder / "timestamps.npy",
            "length",
            expected=f"{running[-1]}, the sum of num_frames over all trials",
            found=str(len(timestamps)),
            do="Trials or frame times are missing; restore both from one export.",
        )
    expected = [] if stored is None else parsed
    stored = stored or set()
    shown = [trial["name"] for trial in expected if trial["modality"] in ("video", "image")]
    missing = [name for name in shown if f"{name}.npy" not in stored]
    if missing:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        encoded = " (.mp4 is not read: convert it)" if any(name.endswith((".mp4", ".avi")) for name in stored) else ""
        findings.fatal(
            folder / "data",
            "stimuli",
            expected=f"a .npy file for each of {len(shown)} image and video trials",
            found=f"{len(missing)} missing ({listed}){encoded}",
            do=RECOPY,
        )
    if any(finding.severity == "fatal" for finding in findings[before:]):
        return None
    starts = timestamps[first]
    ends = np.append(starts[1:], np.inf)
    return [
        Trial(index=index, start=float(start), end=float(end), **trial)
        for index, (trial, start, end) in enumerate(zip(parsed, starts, ends, strict=True))
    ]
