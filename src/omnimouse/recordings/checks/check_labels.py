"""What somebody wrote about the neurons beside them: ids, which were rejected, how good each is, where they lie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omnimouse.recordings.data.findings import Finding, Findings, Kind
from omnimouse.recordings.data.plausible import doubt_about_ids
from omnimouse.recordings.data.reading import open_array

QUALITY = re.compile(
    r".*(accept|reject|is_?cell|quality|good|bad|valid|keep|curat|snr|reliab|oracle|cc_(abs|max)|classif).*",
    re.IGNORECASE,
)
"""Names of arrays that say how good a neuron is."""

REJECTING = re.compile(r".*(reject|bad).*", re.IGNORECASE)

SAME_IDS = Kind(
    "warning", "unit_ids", "one identity per neuron",
    "Neurons cannot be told apart by these ids; restore them.",
)  # fmt: skip
REJECTED = Kind(
    "warning", "rejected neurons", "neurons that were accepted",
    "All are trained and scored; export the recording without them if they are no neurons.",
)  # fmt: skip
GRADED = Kind(
    "info", "quality of neurons", "no array about it, or one that was used",
    "It is not used: all neurons are trained and scored.",
)  # fmt: skip
OTHER_LENGTH = Kind("warning", "length", "{n}, one per neuron", "It is not used; restore it.")


def check_neurons_files(folder: Path, ids: np.ndarray | None, n_neurons: int, *others: str) -> Iterator[Finding]:
    """Arrays about the neurons: whether ids tell them apart, whether some are rejected, and their lengths.

    They lie in a folder, each `[n_neurons, ...]`; of `others`, which nothing uses, only the length is looked at.
    """
    doubt = None if ids is None else doubt_about_ids(ids, n_neurons)
    if doubt is not None and ids is not None:
        found = doubt.found if "missing" in doubt.found else f"{len(ids) - len(np.unique(ids))} duplicates"
        yield SAME_IDS(folder / "unit_ids.npy", found)
    for file in sorted(folder.glob("*.npy")):
        array = open_array(file, Findings()) if QUALITY.fullmatch(file.stem) else None
        if array is not None and array.ndim and len(array) == n_neurons:
            yield from _check_quality(file, np.asarray(array).reshape(n_neurons, -1)[:, 0])
    for file in (folder / f"{name}.npy" for name in others):
        array = open_array(file, Findings()) if file.is_file() else None
        if file.is_file() and (array is None or array.ndim == 0 or len(array) != n_neurons):
            yield OTHER_LENGTH(file, "a file that does not load" if array is None else array.shape, n=n_neurons)


def _check_quality(file: Path, flags: np.ndarray) -> Iterator[Finding]:
    """One number a neuron; of Suite2p, the first of two: accepted, and how probably."""
    rejected = flags == bool(REJECTING.fullmatch(file.stem))
    lost = np.isnan(flags) if flags.dtype.kind == "f" else np.zeros(len(flags), dtype=bool)
    if np.isin(flags[~lost], (0, 1)).all() and (rejected | lost).any():
        yield REJECTED(file, f"{np.count_nonzero(rejected | lost)} of {len(flags)} that were not")
    elif not np.isin(flags, (0, 1)).all():
        yield GRADED(file, f"{np.nanmin(flags):.4g} to {np.nanmax(flags):.4g}")
