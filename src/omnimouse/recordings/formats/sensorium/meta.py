"""What SENSORIUM folders of both years tell beside their trials: session, tiers, ids, statistics, what is withheld."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from omnimouse.model.session_tables.session_names import animal_of
from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.plausible import identity
from omnimouse.recordings.data.reading import RECOPY, map_array, open_array, read_fields, shown
from omnimouse.support.spreading import listed

FOLDER_NAME = re.compile(r"(?:dynamic|static)(?P<key>(?P<animal>[^-]+)-[^-]+-[^-]+)-")

ANOTHER = "The file belongs to another session; restore the right one"

Moments = tuple[np.ndarray | None, np.ndarray | None]
"""Means and stds `[S]`, None where they are not stored."""

LOOKED_AT = 4
"""Trials of a tier of which all neurons are read before its responses count as withheld."""


def session_and_animal(path: Path, findings: Findings) -> tuple[str, str]:
    """Session key and animal, which only the folder's name tells."""
    match = FOLDER_NAME.match(path.name)
    if match is not None:
        return match["key"], match["animal"]
    expected = "dynamic<animal>-<session>-<scan>-... or static<animal>-<session>-<scan>-..."
    do = "The folder's name is taken as session key and animal; rename it to name animal, session and scan."
    findings.warning(path, "folder name", expected=expected, found=repr(path.name), do=do)
    return path.name, animal_of(path.name)


def check_links(path: Path, findings: Findings) -> None:
    """Says which data config.json declares to lie elsewhere: such links are not followed."""
    file = path / "config.json"
    links = (read_fields(file, Findings()) or {}).get("links") if file.is_file() else None
    if links:
        do = "They are not followed: copy what they lead to, or put links of the file system in its place."
        findings.warning(file, "links", expected="no links to data elsewhere", found=shown(links), do=do)


def per_trial(path: Path, findings: Findings) -> np.ndarray | None:
    """Names or numbers, one per trial."""
    stored = open_array(path, findings, kinds="USiuf")
    if stored is None:
        return None
    array = np.array(stored)
    if array.ndim != 1 or not len(array):
        found = f"shape {array.shape}, dtype {array.dtype}"
        findings.fatal(path, "shape", expected="one name or number per trial", found=found, do=RECOPY)
        return None
    return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array


def identities(path: Path, values: list, do: str, findings: Findings) -> list[str | None]:
    """Identities as text, one per trial: None, and a warning that says `do`, where a placeholder stands for one."""
    found = [identity(value) for value in values]
    missing = [trial for trial, name in enumerate(found) if name is None]
    if missing:
        what = f"{str(values[missing[0]])!r} or the like for {len(missing)} of {len(values)} trials"
        what += f" ({listed(missing, 5)})"
        findings.warning(path, path.stem, expected="an identity for every trial", found=what, do=do)
    return found


def trial_ids(path: Path, n_trials: int, findings: Findings) -> list[int | str | None] | None:
    """What the distributor calls each trial; None and a warning where that is not known."""
    problems = Findings()
    ids = per_trial(path, problems)
    if ids is not None and len(ids) == n_trials:
        do = "These trials can be used, but not be named in a submission; restore the file."
        names = identities(path, ids.tolist(), do, findings)
        return [None if name is None else value for name, value in zip(names, ids.tolist(), strict=True)]
    expected = f"{n_trials} numbers or hashes, one per trial"
    found = str(len(ids)) if ids is not None else problems[0].found
    do = "Trials can be used, but not be named in a submission; restore the file."
    findings.warning(path, "trial_idx", expected=expected, found=found, do=do)
    return None


def unit_ids(path: Path, findings: Findings) -> np.ndarray | None:
    """Identities of the neurons `[N]`, None without their file."""
    if not path.is_file():
        findings.info(path, "file", expected="one id per neuron", found="no such file", do="Neurons go by position.")
        return None
    array = open_array(path, findings)
    return None if array is None else np.asarray(array).reshape(-1)


def units_fit(path: Path, ids: np.ndarray | None, neurons: int, findings: Findings) -> bool:
    """Whether there are as many ids, if any, as neurons in the responses."""
    if ids is None or len(ids) == neurons:
        return True
    expected, do = f"{neurons}, the neurons in data/responses", f"{ANOTHER}."
    findings.fatal(path, "length", expected=expected, found=str(len(ids)), do=do)
    return False


def withheld_tiers(path: Path, tiers: list[str], no_responses: np.ndarray, findings: Findings) -> tuple[str, ...]:
    """Tiers whose responses are zero, NaN or absent in every trial: those of competitions are not published.

    `no_responses` says of each trial whether there is no response as far as opening looked.
    """
    withheld: list[str] = []
    folder = path / "data/responses"
    for tier in dict.fromkeys(tiers):
        trials = [trial for trial, name in enumerate(tiers) if name == tier]
        if not no_responses[trials].all():
            continue
        # The first neurons may be silent by chance, so all of some trials are looked at.
        chosen = dict.fromkeys(trials[i] for i in np.linspace(0, len(trials) - 1, LOOKED_AT).round().astype(int))
        files = [file for trial in chosen if (file := folder / f"{trial}.npy").is_file()]
        if not all(is_silent(map_array(file)) for file in files):
            continue
        withheld.append(tier)
        found = f"{'zeros' if files else 'no files'} in all {len(trials)} trials: withheld"
        do = "The tier cannot be used for training or scoring; use another one."
        findings.warning(folder, f"responses of tier {tier!r}", expected="recorded activity", found=found, do=do)
    if len(withheld) == len(set(tiers)):
        findings.fatal(folder, "responses", expected="recorded activity", found="none in any tier", do=RECOPY)
    return tuple(withheld)


def is_silent(array: np.ndarray) -> bool:
    """Whether responses `[neurons, frames]` are zero or NaN throughout; reads no more than it has to."""
    return not any(np.nan_to_num(array[low : low + 512]).any() for low in range(0, len(array), 512))


def statistics(path: Path, kind: str, n: int, findings: Findings) -> Moments:
    """Stored means and stds `[n]`; a time axis after the signals is pooled into the moments over all times."""
    folder = path / "meta/statistics" / kind / "all"
    arrays = []
    for file in (folder / "mean.npy", folder / "std.npy"):
        if not file.is_file():
            do = "They are computed from the train tier each time the recording is used."
            findings.warning(file, "file", expected=f"{n} numbers", found="no such file", do=do)
            return None, None
        array = open_array(file, findings)
        if array is None:
            return None, None
        if array.ndim < 1 or (array.shape[0] != n and array.size != n):
            expected, do = f"{n}, one per signal", f"{ANOTHER}, or delete both to have them computed."
            findings.fatal(file, "length", expected=expected, found=str(array.shape), do=do)
            return None, None
        arrays.append(np.asarray(array, dtype=np.float64).reshape(n, -1))
    means, stds = arrays
    if means.shape != stds.shape and 1 not in (means.shape[1], stds.shape[1]):
        found = f"{means.shape} and {stds.shape}"
        findings.fatal(folder, "shape", expected="means and stds of one shape", found=found, do=RECOPY)
        return None, None
    return _pooled(*np.broadcast_arrays(means, stds))


def _pooled(means: np.ndarray, stds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments `[n]` over all times of moments `[n, times]`; times that hold NaN, of the padding, are left out."""
    present = usable(means) & usable(stds)
    count = np.maximum(present.sum(axis=1), 1)
    means, stds = np.where(present, means, 0), np.where(present, stds, 0)
    mean = means.sum(axis=1) / count
    spread = np.where(present, stds**2 + (means - mean[:, None]) ** 2, 0).sum(axis=1) / count
    lost = ~present.any(axis=1)
    return np.where(lost, np.nan, mean), np.where(lost, np.nan, np.sqrt(spread))
