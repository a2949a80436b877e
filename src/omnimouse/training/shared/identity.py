"""What makes a run the run that it is, in parts: architecture, recording and windows; and where two runs differ."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnimouse.recordings import Windows
from omnimouse.recordings.views.fingerprint import fingerprint

if TYPE_CHECKING:
    from omnimouse.model.modeling_omnimouse import OmniMouseNetwork


def architecture(model: OmniMouseNetwork) -> dict[str, Any]:
    """Returns all fields of a model's configuration that are its own, those of the losses included."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    return {name: config[name] for name in sorted(type(model.config).__annotations__) if name in config}


def data_fingerprint(windows: Windows) -> dict[str, str]:
    """Returns the fingerprint of the recording that windows are cut from, at their size of frames."""
    processor = windows.processor
    return fingerprint(windows.recording, height=processor.frame_height, width=processor.frame_width)


def window_fingerprint(starts: np.ndarray) -> str:
    """Returns a short description of window starts in which two different lists differ."""
    return f"{len(starts)} windows, sha256 {hashlib.sha256(starts.astype('<f8').tobytes()).hexdigest()[:16]}"


def identity_differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Returns one line for each entry that differs between a checkpoint's identity and a run's, inside mappings too."""
    # A round trip through JSON makes tuples lists, as they are in the stored one.
    return _differences(found, json.loads(json.dumps(expected)), "")


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any], within: str) -> list[str]:
    lines = []
    for name in sorted(found.keys() | expected.keys()):
        there, now = found.get(name), expected.get(name)
        if isinstance(there, dict) and isinstance(now, dict):
            lines += _differences(there, now, f"{within}{name}.")
        elif there != now:
            before, after = (text if len(text) <= 120 else f"{text[:117]}..." for text in map(json.dumps, (there, now)))
            lines.append(f"  {within}{name}: {before} in the checkpoint, {after} now")
    return lines


def warn_of_unknown(path: Path, names: Sequence[str]) -> None:
    """Says that a checkpoint of an earlier version cannot be compared in some respects; the run goes on."""
    warnings.warn(
        f"The checkpoint {path} is of an earlier version of omnimouse, which did not note {', '.join(names)}. The run "
        "goes on from it: make sure that recording and model are those that it was begun with. The next checkpoint "
        "will say.",
        stacklevel=2,
    )
