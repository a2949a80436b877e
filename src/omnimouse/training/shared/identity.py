"""What makes a run the run that it is, in parts: architecture, recording and windows; and where two runs differ."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def warn_of_unknown(path: Path, names: Sequence[str]) -> None:
    """Says that a checkpoint of an earlier version cannot be compared in some respects; the run goes on."""
    warnings.warn(
        f"The checkpoint {path} is of an earlier version of omnimouse, which did not note {', '.join(names)}. The run "
        "goes on from it: make sure that recording and model are those that it was begun with. The next checkpoint "
        "will say.",
        stacklevel=2,
    )
