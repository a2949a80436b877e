"""What a folder holds, in words and as plain data: a recording, a model, a session adapter, or a pre-training.

Of recordings, only metadata is read and the behavior, whose gaps decide how many windows there are; of models and
session adapters, no weight is loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from omnimouse import recordings
from omnimouse.hub.names import PACKAGED_CORES, PACKAGED_FOLDER
from omnimouse.hub.sources import RANK_FILE, HubOptions, find, list_files
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.processing_omnimouse import processor_words
from omnimouse.pretrained.published.checkpoint_files import rank_files
from omnimouse.pretrained.published.conversion import cached_copy
from omnimouse.pretrained.published.models import empty_core
from omnimouse.pretrained.session_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_index
from omnimouse.pretrained.source_kinds import looks_like_recording, source_kind
from omnimouse.recordings.formats.dataset_form.dataset_tables import looks_like_dataset, sessions_in
from omnimouse.support.files import read_mapping
from omnimouse.support.text_tables import text_table
from omnimouse.training.runs.run_status import describe_run, is_run, run_lines

SCORING_STRIDE = 30
"""Stride of the windows that are counted: the one `evaluate` takes by default, a window a second."""

_SIZES = (
    "hidden_size", "identity_size", "num_attention_heads", "num_fusion_layers", "num_latents", "num_registers",
    "video_depths", "video_attention_layout", "num_frames", "frame_height", "frame_width",
)  # fmt: skip


def shipped_models() -> dict[str, Path]:
    """Name -> folder of the models that come with the package."""
    return {name: PACKAGED_FOLDER / name for name in PACKAGED_CORES}


def describe_path(path: str | os.PathLike[str], *, revision: str | None = None) -> dict[str, Any]:
    """Say what a folder, or a model that comes with the package, is.

    Args:
        path: Folder of a recording, a model or a session adapter, the name of a model, or a Hub repo.
        revision: Branch, tag or commit of a repo.

    Returns:
        JSON-ready dict; "kind" is "recording", "model", "session adapter", "published checkpoint" or
        "training run".

    Raises:
        ValueError: Nothing has that name, or the folder is none of these.
        OSError: The Hub does not give the repo.
    """
    if Path(path).suffix.lower() == ".zip" and Path(path).expanduser().is_file():
        return describe_recording(recordings.open_recording(path))
    source = find(os.fspath(path), HubOptions(revision=revision))
    folder, of_hub, kind = source.folder, source.options is not None, source_kind(source)
    if of_hub and kind == "checkpoint":
        return _describe_published(source.name, list_files(source), cached_copy(source))
    if kind in ("session adapter", "LoRA"):
        if of_hub and kind == "session adapter":
            source.fetch([ADAPTER_WEIGHTS])
        return {**describe_adapter(folder), **({"path": source.name} if of_hub else {})}
    if is_run(folder):
        return describe_run(folder)
    # A recording has a config.json too, so its devices are looked for first.
    if looks_like_recording(folder) or looks_like_dataset(folder) or sessions_in(folder):
        return describe_recording(recordings.open_recording(folder))
    if kind == "model":
        description = {**describe_model(folder), "path": source.name}
        if of_hub:  # a repo's weights are not fetched for this
            core = empty_core(OmniMouseConfig.from_dict(dict(description["config"])))
            description["n_core_parameters"] = _count({name: tuple(tensor.shape) for name, tensor in core.items()})
        return description
    if ranks := rank_files(folder):
        return _describe_published(str(path), {file.name: file.stat().st_size for file in ranks.values()}, None)
    found = sorted(entry.name for entry in folder.iterdir())[:8]
    raise ValueError(
        f"{folder}: expected a recording (responses/, screen/, ...), a model (config.json, model.safetensors) or a "
        f"session adapter ({ADAPTER_CONFIG}), found {', '.join(found) or 'an empty folder'}; pass one of these folders"
    )


def describe_recording(recording: recordings.Recording) -> dict[str, Any]:
    """What `omnimouse.recordings.describe` says, with the windows counted that are scored by default."""
    return {"kind": "recording", **recordings.describe(recording, stride=SCORING_STRIDE)}


def describe_model(folder: Path) -> dict[str, Any]:
    """Architecture, number of core parameters and sessions of a stored model, without loading a weight."""
    weights, processor = folder / "model.safetensors", folder / "preprocessor_config.json"
    return {
        "kind": "model",
        "path": str(folder),
        "config": read_mapping(folder / "config.json", "the architecture of a model"),
        "n_core_parameters": _count(_shapes(weights)) if weights.is_file() else None,
        "processor": read_mapping(processor, "a processor") if processor.is_file() else None,
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
        "config": read_mapping(folder / ADAPTER_CONFIG, "a session adapter's configuration"),
        "tensors": {name: list(shape) for name, shape in _shapes(weights).items()},
    }


def _describe_published(name: str, sizes: dict[str, int], copy: Path | None) -> dict[str, Any]:
    """Files of a published checkpoint, and whether it was converted already."""
    ranks = {file: size for file, size in sizes.items() if RANK_FILE.fullmatch(file)}
    if not ranks:
        raise ValueError(
            f"{name}: expected a model (config.json), a session adapter ({ADAPTER_CONFIG}) or a published checkpoint "
            f"(rank_<r>.ckpt), found {', '.join(list(sizes)[:8]) or 'nothing'}"
        )
    return {
        "kind": "published checkpoint",
        "path": name,
        "files": ranks,
        "bytes": sum(ranks.values()),
        "converted": None if copy is None else describe_model(copy),
    }


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Parameters of a core; what new neurons begin at is kept with it, but is no parameter."""
    return sum(math.prod(shape) for name, shape in shapes.items() if name != "identity.initial")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, from its header."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from error


def to_text(description: dict[str, Any]) -> str:
    """The description as lines for a terminal."""
    lines = {
        "recording": _recording_lines,
        "model": _model_lines,
        "session adapter": _adapter_lines,
        "published checkpoint": _published_lines,
        "training run": run_lines,
    }
    return "\n".join(lines[description["kind"]](description))


def _recording_lines(d: dict[str, Any]) -> list[str]:
    trials = ", ".join(f"{count} {modality}" for modality, count in d["modalities"].items())
    devices = [
        [name, f"{device['sampling_rate_hz']:.2f} Hz", f"{device['signals']:,}", f"{device['rows']:,}"]
        for name, device in d["devices"].items()
    ]
    tiers = []
    for name, tier in d["tiers"].items():
        windows = "-" if tier["windows"] is None else str(tier["windows"])
        tiers.append([name, str(tier["trials"]), str(tier["conditions"]), f"{tier['seconds'] / 60:.1f}", windows])
    return [
        f"Recording {d['path']}",
        f"  session {d['session_key']} of animal {d['animal_id']}",
        f"  {d['n_neurons']:,} neurons, {d['duration_s'] / 60:.1f} minutes",
        f"  {d['screen']['frames']:,} frames on screen; trials: {trials}",
        *_table(["device", "rate", "signals", "samples"], devices),
        *_table(["tier", "trials", "stimuli", "minutes", "windows"], tiers),
        f"  (windows: 2 s long, every {d['stride']}th possible one, as scored by default; profile {d['profile']})",
    ]


def _model_lines(d: dict[str, Any]) -> list[str]:
    config, sessions = d["config"], d["sessions"]
    core = "no weights (model.safetensors is missing)"
    if d["n_core_parameters"] is not None:
        core = f"{d['n_core_parameters']:,} parameters in the core"
    rows = [
        [key, entry["animal"], f"{entry['neurons']:,}", processor_words(entry.get("processor"))]
        for key, entry in sessions.items()
    ]
    return [
        f"Model {d['path']}",
        f"  {core}; {len(sessions)} session{'s' * (len(sessions) != 1)}",
        *(f"  {name}: {config[name]}" for name in _SIZES if name in config),
        *([f"  processor: {processor_words(d['processor'])}"] if d.get("processor") else []),
        *(_table(["session", "animal", "neurons", "processor"], rows) if rows else []),
    ]


def _published_lines(d: dict[str, Any]) -> list[str]:
    text = f"Published checkpoint {d['path']}: {len(d['files'])} rank files, {d['bytes'] / 1e6:,.0f} MB"
    if d["converted"] is None:
        return [text, "  not converted yet: that happens when it is first loaded, or with `omnimouse convert`"]
    return [text, "  converted to:", *_model_lines(d["converted"])]


def _adapter_lines(d: dict[str, Any]) -> list[str]:
    words = dict(d["config"], processor=processor_words(d["config"].get("processor")))
    for name in ("training", "core_config"):
        words[name] = ", ".join(f"{field} {value}" for field, value in (words.get(name) or {}).items()) or "not known"
    return [
        f"Session adapter {d['path']}",
        *(f"  {name}: {value}" for name, value in words.items()),
        *(f"  tensor {name}: {' x '.join(map(str, shape))}" for name, shape in d["tensors"].items()),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """An empty line and a table."""
    return ["", *(f"  {line}" for line in text_table(header, rows))]
