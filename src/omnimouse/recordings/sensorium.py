"""SENSORIUM 2023 folders (dynamic stimuli), opened as they are distributed.

::

    dynamic<animal>-<session>-<scan>-Video-<hash>/
      data/videos/<i>.npy          [H, W, T] grey levels from 0 to 255
      data/responses/<i>.npy       [N, T]
      data/behavior/<i>.npy        [2, T] pupil size, running speed
      data/pupil_center/<i>.npy    [2, T] gaze x, gaze y
      meta/neurons/unit_ids.npy    [N]
      meta/trials/tiers.npy        one name per trial; trial_idx.npy: one number or hash per trial
      meta/statistics/<kind>/all/mean.npy std.npy

One file per kind and trial, all at 30 Hz; about 300 frames are valid, NaN pads the rest. `sensorium_clips` says how
such trials become a recording. Opening reads headers, both behaviour files of each trial (a few kB) and, to find the
padding, one neuron and one pixel of it.

Source: Turishcheva et al., "The Dynamic Sensorium competition" (2023), and the competition's starter kit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings import sensorium_clips as stored
from omnimouse.recordings.arrays import map_array, usable
from omnimouse.recordings.base import SequenceDevice
from omnimouse.recordings.experanto import SessionParts
from omnimouse.recordings.files import RECOPY, Findings, open_array
from omnimouse.recordings.sensorium_clips import KINDS, RATE, ClipDevice, Clips, ClipScreen
from omnimouse.recordings.sensorium_scan import Scan, files_are_complete, is_silent, scan_trials

FOLDER_NAME = re.compile(r"(?:dynamic|static)(?P<key>(?P<animal>[^-]+)-[^-]+-[^-]+)-")


def looks_like_sensorium(path: Path) -> bool:
    """Whether a folder has any of the parts of a SENSORIUM folder, of 2023 or 2022."""
    return any((path / "data" / kind).is_dir() for kind in (*KINDS, "images"))


def load_sensorium(path: Path, findings: Findings) -> SessionParts:
    """Open the parts of a SENSORIUM 2023 folder; faults go to `findings`, none raises."""
    session_key, animal_id = _identity(path, findings)
    nothing = SessionParts(path, session_key, animal_id, dict.fromkeys(("responses", "eye_tracker", "treadmill")), None)
    if (path / "data/images").is_dir() and not (path / "data/videos").is_dir():
        findings.fatal(
            path / "data/images",
            "format",
            expected="videos (SENSORIUM 2023)",
            found="single images (SENSORIUM 2022)",
            do="This model needs time: use the session's export in experanto's layout.",
        )
        return nothing
    tiers = _per_trial(path / "meta/trials/tiers.npy", findings)
    if tiers is None:
        return nothing
    if not files_are_complete(path, tiers, findings):
        return nothing
    unit_ids = _unit_ids(path / "meta/neurons/unit_ids.npy", findings)
    scan = scan_trials(path, len(tiers), None if unit_ids is None else len(unit_ids), findings)
    if scan is None:
        return nothing
    if unit_ids is not None and len(unit_ids) != scan.neurons:
        findings.fatal(
            path / "meta/neurons/unit_ids.npy",
            "length",
            expected=f"{scan.neurons}, the neurons in data/responses",
            found=str(len(unit_ids)),
            do="The file belongs to another session; restore the right one.",
        )
        return nothing
    return _assemble(nothing, [str(tier) for tier in tiers], unit_ids, scan, findings)


def _assemble(
    parts: SessionParts, tiers: list[str], unit_ids: np.ndarray | None, scan: Scan, findings: Findings
) -> SessionParts:
    path = parts.path
    withheld = _withheld_tiers(path, tiers, scan, findings)
    clips = Clips(path, scan.lengths, int(scan.stored_lengths.max()) + 1)
    trial_ids = _trial_ids(path / "meta/trials/trial_idx.npy", len(tiers), findings)
    hidden = frozenset(trial for trial, tier in enumerate(tiers) if tier in withheld)
    response_statistics = _statistics(path, "responses", scan.neurons, findings)
    eye, speed = _behavior_statistics(path, tiers, scan, findings)
    findings.info(
        path / "data/behavior",
        "pupil_size_derivative",
        expected="a stored channel",
        found="pupil size and running speed only",
        do="It is derived: central differences of the pupil size within each trial, per second.",
    )

    def device(name: str, kind: str, reader: Any, n: int, dtype: str, statistics: Any, **options: Any) -> ClipDevice:
        means, stds = statistics
        return ClipDevice(
            name=name,
            file=path / "data" / kind,
            sampling_rate=RATE,
            start_time=0.0,
            end_time=clips.n_rows / RATE,
            shape=(clips.n_rows, n),
            dtype=dtype,
            means=means,
            stds=stds,
            clips=clips,
            reader=reader,
            **options,
        )

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


def _identity(path: Path, findings: Findings) -> tuple[str, str]:
    """Session key and animal, which only the folder's name tells."""
    match = FOLDER_NAME.match(path.name)
    if match is not None:
        return match["key"], match["animal"]
    findings.warning(
        path,
        "folder name",
        expected="dynamic<animal>-<session>-<scan>-...",
        found=repr(path.name),
        do="The folder's name is taken as session key and animal; rename it to name animal, session and scan.",
    )
    return path.name, path.name


def _per_trial(path: Path, findings: Findings) -> np.ndarray | None:
    """Names or numbers, one per trial."""
    array = open_array(path, findings, kinds="USiuf")
    if array is None:
        return None
    array = np.array(array)
    if array.ndim != 1 or not len(array):
        found = f"shape {array.shape}, dtype {array.dtype}"
        findings.fatal(path, "shape", expected="one name or number per trial", found=found, do=RECOPY)
        return None
    return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array


def _trial_ids(path: Path, n_trials: int, findings: Findings) -> list[int | str] | None:
    problems = Findings()
    ids = _per_trial(path, problems)
    if ids is not None and len(ids) == n_trials:
        return ids.tolist()
    findings.warning(
        path,
        "trial_idx",
        expected=f"{n_trials} numbers or hashes, one per trial",
        found=str(len(ids)) if ids is not None else problems[0].found,
        do="Trials can be used, but not be named in a submission; restore the file.",
    )
    return None


def _unit_ids(path: Path, findings: Findings) -> np.ndarray | None:
    if not path.is_file():
        findings.info(path, "file", expected="one id per neuron", found="no such file", do="Neurons go by position.")
        return None
    array = open_array(path, findings)
    return None if array is None else np.asarray(array).reshape(-1)


def _withheld_tiers(path: Path, tiers: list[str], scan: Scan, findings: Findings) -> tuple[str, ...]:
    """Tiers whose responses are zero, NaN or absent in every trial: those of competitions are not published."""
    withheld: list[str] = []
    for tier in dict.fromkeys(tiers):
        trials = [trial for trial, name in enumerate(tiers) if name == tier]
        if not scan.no_responses[trials].all():
            continue
        # The first neuron may be silent by chance, so all of one trial are looked at.
        file = path / "data/responses" / f"{trials[0]}.npy"
        if file.is_file() and not is_silent(map_array(file)):
            continue
        withheld.append(tier)
        findings.warning(
            path / "data/responses",
            f"responses of tier {tier!r}",
            expected="recorded activity",
            found=f"{'zeros' if file.is_file() else 'no files'} in all {len(trials)} trials: withheld",
            do="The tier cannot be used for training or scoring; use another one.",
        )
    if len(withheld) == len(set(tiers)):
        findings.fatal(
            path / "data/responses", "responses", expected="recorded activity", found="none in any tier", do=RECOPY
        )
    return tuple(withheld)


def _statistics(path: Path, kind: str, n: int, findings: Findings) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Stored means and stds `[n]`; a time axis after the signals is pooled into the moments over all times."""
    folder = path / "meta/statistics" / kind / "all"
    arrays = []
    for name in ("mean", "std"):
        file = folder / f"{name}.npy"
        if not file.is_file():
            findings.warning(
                file,
                "file",
                expected=f"{n} numbers",
                found="no such file",
                do="They are computed from the train tier each time the recording is used.",
            )
            return None, None
        array = open_array(file, findings)
        if array is None:
            return None, None
        if array.ndim < 1 or (array.shape[0] != n and array.size != n):
            findings.fatal(
                file,
                "length",
                expected=f"{n}, one per signal",
                found=str(array.shape),
                do="The file belongs to another session; restore the right one, or delete both to have them computed.",
            )
            return None, None
        arrays.append(np.asarray(array, dtype=np.float64).reshape(n, -1))
    means, stds = arrays
    if means.shape != stds.shape and 1 not in (means.shape[1], stds.shape[1]):
        found = f"{means.shape} and {stds.shape}"
        findings.fatal(folder, "shape", expected="means and stds of one shape", found=found, do=RECOPY)
        return None, None
    means, stds = np.broadcast_arrays(means, stds)
    return _pooled(means, stds)


def _pooled(means: np.ndarray, stds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments `[n]` over all times of moments `[n, times]`; times that hold NaN, of the padding, are left out."""
    present = usable(means) & usable(stds)
    count = np.maximum(present.sum(axis=1), 1)
    means, stds = np.where(present, means, 0), np.where(present, stds, 0)
    mean = means.sum(axis=1) / count
    spread = np.where(present, stds**2 + (means - mean[:, None]) ** 2, 0).sum(axis=1) / count
    lost = ~present.any(axis=1)
    return np.where(lost, np.nan, mean), np.where(lost, np.nan, np.sqrt(spread))


def _behavior_statistics(path: Path, tiers: list[str], scan: Scan, findings: Findings) -> tuple[Any, Any]:
    """Means and stds of the eye tracker's four channels and of the running speed."""
    behavior = _statistics(path, "behavior", 2, findings)
    gaze = _statistics(path, "pupil_center", 2, findings)
    speed = (None, None) if behavior[0] is None or behavior[1] is None else (behavior[0][1:], behavior[1][1:])
    if behavior[0] is None or behavior[1] is None or gaze[0] is None or gaze[1] is None:
        return (None, None), speed
    chosen = [trial for trial, tier in enumerate(tiers) if tier == "train"] or list(range(len(tiers)))
    values = np.concatenate([scan.derivatives[trial] for trial in chosen])
    values = values[usable(values)]
    derived = (values.mean(), values.std()) if len(values) else (np.nan, np.nan)
    means = np.array([behavior[0][0], derived[0], *gaze[0]])
    return (means, np.array([behavior[1][0], derived[1], *gaze[1]])), speed
