"""What SENSORIUM folders of both years tell beside their trials: session, tiers, ids, statistics, what is withheld."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from omnimouse.recordings.data.animal_names import animal_of
from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.missing import usable
from omnimouse.recordings.data.plausible import identity as identity_of
from omnimouse.recordings.data.reading import RECOPY, map_array, open_array, read_mapping, shown
from omnimouse.recordings.formats.sensorium.scan import is_silent

FOLDER_NAME = re.compile(r"(?:dynamic|static)(?P<key>(?P<animal>[^-]+)-[^-]+-[^-]+)-")

LOOKED_AT = 4
"""Trials of a tier of which all neurons are read before its responses count as withheld."""


def identity(path: Path, findings: Findings) -> tuple[str, str]:
    """Session key and animal, which only the folder's name tells."""
    match = FOLDER_NAME.match(path.name)
    if match is not None:
        return match["key"], match["animal"]
    findings.warning(
        path,
        "folder name",
        expected="dynamic<animal>-<session>-<scan>-... or static<animal>-<session>-<scan>-...",
        found=repr(path.name),
        do="The folder's name is taken as session key and animal; rename it to name animal, session and scan.",
    )
    return path.name, animal_of(path.name)


def check_links(path: Path, findings: Findings) -> None:
    """Says which data config.json declares to lie elsewhere: such links are not followed."""
    if not (path / "config.json").is_file():
        return
    config = read_mapping(path / "config.json", Findings()) or {}
    links = config.get("links")
    if links:
        findings.warning(
            path / "config.json",
            "links",
            expected="no links to data elsewhere",
            found=shown(links),
            do="They are not followed: copy what they lead to, or put links of the file system in its place.",
        )


def per_trial(path: Path, findings: Findings) -> np.ndarray | None:
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


def identities(path: Path, values: list, do: str, findings: Findings) -> list[str | None]:
    """Identities as text, one per trial: None, and a warning that says `do`, where a placeholder stands for one."""
    found = [identity_of(value) for value in values]
    missing = [trial for trial, name in enumerate(found) if name is None]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        findings.warning(
            path,
            path.stem,
            expected="an identity for every trial",
            found=f"{str(values[missing[0]])!r} or the like for {len(missing)} of {len(values)} trials ({shown})",
            do=do,
        )
    return found


def trial_ids(path: Path, n_trials: int, findings: Findings) -> list[int | str | None] | None:
    """What the distributor calls each trial; None and a warning where that is not known."""
    problems = Findings()
    ids = per_trial(path, problems)
    if ids is not None and len(ids) == n_trials:
        do = "These trials can be used, but not be named in a submission; restore the file."
        names = identities(path, ids.tolist(), do, findings)
        return [None if name is None else value for name, value in zip(names, ids.tolist(), strict=True)]
    findings.warning(
        path,
        "trial_idx",
        expected=f"{n_trials} numbers or hashes, one per trial",
        found=str(len(ids)) if ids is not None else problems[0].found,
        do="Trials can be used, but not be named in a submission; restore the file.",
    )
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
    findings.fatal(
        path,
        "length",
        expected=f"{neurons}, the neurons in data/responses",
        found=str(len(ids)),
        do="The file belongs to another session; restore the right one.",
    )
    return False


def withheld_tiers(path: Path, tiers: list[str], no_responses: np.ndarray, findings: Findings) -> tuple[str, ...]:
    """Tiers whose responses are zero, NaN or absent in every trial: those of competitions are not published.

    Args:
        path: session folder.
        tiers: tier of each trial.
        no_responses: bool per trial, whether there is no response as far as opening looked.
        findings: what is found goes here.
    """
    withheld: list[str] = []
    for tier in dict.fromkeys(tiers):
        trials = [trial for trial, name in enumerate(tiers) if name == tier]
        if not no_responses[trials].all():
            continue
        # The first neurons may be silent by chance, so all of some trials are looked at.
        chosen = dict.fromkeys(trials[i] for i in np.linspace(0, len(trials) - 1, LOOKED_AT).round().astype(int))
        files = [file for trial in chosen if (file := path / "data/responses" / f"{trial}.npy").is_file()]
        if not all(is_silent(map_array(file)) for file in files):
            continue
        withheld.append(tier)
        findings.warning(
            path / "data/responses",
            f"responses of tier {tier!r}",
            expected="recorded activity",
            found=f"{'zeros' if files else 'no files'} in all {len(trials)} trials: withheld",
            do="The tier cannot be used for training or scoring; use another one.",
        )
    if len(withheld) == len(set(tiers)):
        findings.fatal(
            path / "data/responses", "responses", expected="recorded activity", found="none in any tier", do=RECOPY
        )
    return tuple(withheld)


def statistics(path: Path, kind: str, n: int, findings: Findings) -> tuple[np.ndarray | None, np.ndarray | None]:
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
