"""What somebody wrote about the neurons beside them: which were rejected, how good each is. Nothing here uses it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from omnimouse.recordings.data.findings import Findings
from omnimouse.recordings.data.plausible import doubt_about_ids
from omnimouse.recordings.data.reading import open_array

QUALITY = re.compile(
    r".*(accept|reject|is_?cell|quality|good|bad|valid|keep|curat|snr|reliab|oracle|cc_(abs|max)|classif).*",
    re.IGNORECASE,
)
"""Names of arrays that say how good a neuron is."""

REJECTING = re.compile(r".*(reject|bad).*", re.IGNORECASE)


def check_unit_ids(path: Path, ids: np.ndarray | None, n_neurons: int, findings: Findings) -> None:
    """Whether stored ids `[n_neurons]`, if there are any, tell the neurons apart; `path` is what findings name."""
    doubt = None if ids is None else doubt_about_ids(ids, n_neurons)
    if doubt is not None and ids is not None:
        findings.warning(
            path,
            "unit_ids",
            expected="one identity per neuron",
            found=doubt.found if "missing" in doubt.found else f"{len(ids) - len(np.unique(ids))} duplicates",
            do="Neurons cannot be told apart by these ids; restore them.",
        )


def check_labels(folder: Path, n_neurons: int, findings: Findings) -> None:
    """Arrays about the quality of neurons: a warning where some are rejected, else a remark.

    Args:
        folder: where arrays `[n_neurons, ...]` about the neurons lie.
        n_neurons: how many there are.
        findings: what is found goes here.
    """
    for file in sorted(folder.glob("*.npy")):
        if not QUALITY.fullmatch(file.stem):
            continue
        array = open_array(file, Findings())
        if array is None or array.ndim == 0 or len(array) != n_neurons:
            continue
        flags = np.asarray(array).reshape(n_neurons, -1)[:, 0]  # Suite2p: accepted, and how probably
        rejected = flags == bool(REJECTING.fullmatch(file.stem))
        lost = np.isnan(flags) if flags.dtype.kind == "f" else np.zeros(n_neurons, dtype=bool)
        if np.isin(flags[~lost], (0, 1)).all() and (rejected | lost).any():
            findings.warning(
                file,
                "rejected neurons",
                expected="neurons that were accepted",
                found=f"{np.count_nonzero(rejected | lost)} of {n_neurons} that were not",
                do="All are trained and scored; export the recording without them if they are no neurons.",
            )
        elif not np.isin(flags, (0, 1)).all():
            findings.info(
                file,
                "quality of neurons",
                expected="no array about it, or one that was used",
                found=f"{np.nanmin(flags):.4g} to {np.nanmax(flags):.4g}",
                do="It is not used: all neurons are trained and scored.",
            )
