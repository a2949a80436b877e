"""What somebody wrote about the neurons beside them: which were rejected, how good each is. Nothing here uses it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from omnimouse.recordings.files import Findings, open_array

QUALITY = re.compile(
    r".*(accept|reject|is_?cell|quality|good|bad|valid|keep|curat|snr|reliab|oracle|cc_(abs|max)|classif).*",
    re.IGNORECASE,
)
"""Names of arrays that say how good a neuron is."""

REJECTING = re.compile(r".*(reject|bad).*", re.IGNORECASE)


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
        if np.isin(flags, (0, 1)).all() and rejected.any():
            findings.warning(
                file,
                "rejected neurons",
                expected="neurons that were accepted",
                found=f"{np.count_nonzero(rejected)} of {n_neurons} that were not",
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
