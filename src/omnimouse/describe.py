"""What a folder holds, in words and as plain data: a recording, a model, or a session adapter.

Of recordings, only metadata is read and the behavior, whose gaps decide how many windows there are; of models and
session adapters, no weight is loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from omnimouse.hub import PACKAGED_CORES
from omnimouse.session_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_index, read_json

if TYPE_CHECKING:
    from omnimouse.recordings import Recording

SCORING_STRIDE = 30
"""Stride of the windows that are counted: the one `evaluate` takes by default, a window a second."""

_SIZES = (
    "hidden_size",
    "identity_size",
    "num_attention_heads",
    "num_fusion_layers",
    "num_latents",
    "num_registers",
    "video_depths",
    "video_attention_layout",
    "num_frames",
    "frame_height",
    "frame_width",
)


def shipped_models() -> dict[str, Path]:
    """Name -> folder of the models that come with the package."""
    return {name: Path(str(files("omnimouse") / "assets" / name)) for name in PACKAGED_CORES}


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Say what a folder, or a model that comes with the package, is.

    Args:
        path: Folder of a recording, a model or a session adapter, or the name of a model in `shipped_models()`.

    Returns:
        JSON-ready dict; "kind" is "recording", "model" or "session adapter".

    Raises:
        ValueError: The folder is missing or none of these.
    """
    folder = shipped_models().get(str(path), Path(path))
    if not folder.is_dir():
        raise ValueError(
            f"{path}: no such folder, and not a model that comes with the package ({', '.join(shipped_models())}); "
            "pass the folder of a recording, a model or a session adapter"
        )
    if (folder / ADAPTER_CONFIG).is_file():
        return describe_adapter(folder)
    # A recording has a config.json too, so its devices are looked for first.
    if any((folder / device).is_dir() for device in ("responses", "screen")):
        from omnimouse.recordings import open_recording

        return describe_recording(open_recording(folder))
    if (folder / "config.json").is_file():
        return describe_model(folder)
    found = sorted(entry.name for entry in folder.iterdir())[:8]
    raise ValueError(
        f"{folder}: expected a recording (responses/, screen/, ...), a model (config.json, model.safetensors) or a "
        f"session adapter ({ADAPTER_CONFIG}), found {', '.join(found) or 'an empty folder'}; pass one of these folders"
    )


def describe_recording(recording: Recording) -> dict[str, Any]:
    """What `omnimouse.recordings.describe` says, with the windows counted that are scored by default."""
    from omnimouse import recordings

    return {"kind": "recording", **recordings.describe(recording, stride=SCORING_STRIDE)}


def describe_model(folder: Path) -> dict[str, Any]:
    """Architecture, number of core parameters and sessions of a stored model, without loading a weight."""
    weights = folder / "model.safetensors"
    shapes = _shapes(weights) if weights.is_file() else {}
    shapes.pop("identity.initial", None)  # kept with the core, but no parameter
    n_core_parameters = sum(map(math.prod, shapes.values())) if shapes else None
    return {
        "kind": "model",
        "path": str(folder),
        "config": _mapping(folder / "config.json", "the architecture of a model"),
        "n_core_parameters": n_core_parameters,
        "sessions": read_index(folder),
    }


def describe_adapter(folder: Path) -> dict[str, Any]:
    """Session, base model and stored tensors of a session adapter."""
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ValueError(f"{folder}: {ADAPTER_CONFIG} without {ADAPTER_WEIGHTS}; copy the whole folder again")
    return {
        "kind": "session adapter",
        "path": str(folder),
        "config": _mapping(folder / ADAPTER_CONFIG, "a session adapter's configuration"),
        "tensors": {name: list(shape) for name, shape in _shapes(weights).items()},
    }


def to_text(description: dict[str, Any]) -> str:
    """The description as lines for a terminal."""
    lines = {"recording": _recording_lines, "model": _model_lines, "session adapter": _adapter_lines}
    return "\n".join(lines[description["kind"]](description))


def _recording_lines(d: dict[str, Any]) -> list[str]:
    trials = ", ".join(f"{count} {modality}" for modality, count in d["modalities"].items())
    devices = [
        [name, f"{device['sampling_rate_hz']:.2f} Hz", f"{device['signals']:,}", f"{device['rows']:,}"]
        for name, device in d["devices"].items()
    ]
    tiers = [
        [name, str(tier["trials"]), str(tier["conditions"]), f"{tier['seconds'] / 60:.1f}", str(tier["windows"])]
        for name, tier in d["tiers"].items()
    ]
    return [
        f"Recording {d['path']}",
        f"  session {d['session_key']} of animal {d['animal_id']}",
        f"  {d['n_neurons']:,} neurons, {d['duration_s'] / 60:.1f} minutes",
        f"  {d['screen']['frames']:,} frames on screen; trials: {trials}",
        "",
        *_table(["device", "rate", "signals", "samples"], devices),
        "",
        *_table(["tier", "trials", "stimuli", "minutes", "windows"], tiers),
        f"  (windows: 2 s long, every {d['stride']}th possible one, as scored by default; profile {d['profile']})",
    ]


def _model_lines(d: dict[str, Any]) -> list[str]:
    config, sessions = d["config"], d["sessions"]
    core = "no weights (model.safetensors is missing)"
    if d["n_core_parameters"] is not None:
        core = f"{d['n_core_parameters']:,} parameters in the core"
    rows = [[key, entry["animal"], f"{entry['neurons']:,}"] for key, entry in sessions.items()]
    return [
        f"Model {d['path']}",
        f"  {core}; {len(sessions)} session{'s' * (len(sessions) != 1)}",
        *(f"  {name}: {config[name]}" for name in _SIZES if name in config),
        *(["", *_table(["session", "animal", "neurons"], rows)] if rows else []),
    ]


def _adapter_lines(d: dict[str, Any]) -> list[str]:
    return [
        f"Session adapter {d['path']}",
        *(f"  {name}: {value}" for name, value in d["config"].items()),
        *(f"  tensor {name}: {' x '.join(map(str, shape))}" for name, shape in d["tensors"].items()),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Indented columns, the first one to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = widths
        return "  " + "  ".join([row[0].ljust(first), *(cell.rjust(w) for cell, w in zip(row[1:], rest, strict=True))])

    return [line(row) for row in (header, *rows)]


def _mapping(path: Path, what: str) -> dict[str, Any]:
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold {what}, a JSON object, but holds a {type(content).__name__}.")
    return content


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, from its header."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from error
