"""Names of cores, and what they stand for."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

PACKAGED_CORES = ("omnimouse-tiny",)
PACKAGED_FOLDER = Path(str(files("omnimouse"))) / "assets"
PUBLISHED_CORES = ("omnimouse-1m", "omnimouse-5m", "omnimouse-20m", "omnimouse-80m", "omnimouse-300m")


def resolve_name(name: str, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Turns the alias of a packaged core into its folder; its weights, stored as bfloat16, load as float32."""
    alias = name.lower().replace("_", "-")
    if Path(name).exists():
        return name, kwargs
    if alias in PACKAGED_CORES:
        if "dtype" not in kwargs and "torch_dtype" not in kwargs:
            kwargs = {**kwargs, "dtype": torch.float32}
        return str(PACKAGED_FOLDER / alias), kwargs
    if alias in PUBLISHED_CORES:
        raise ValueError(
            f"{name} cannot be fetched by this version. Download the authors' checkpoint and open its folder with "
            f"omnimouse.published.load_checkpoint. Cores that ship with the package: {', '.join(PACKAGED_CORES)}."
        )
    if alias.startswith("omnimouse-") or name.startswith((".", "/", "~")) or "/" not in name:
        raise ValueError(
            f"There is no model folder {name!r}, and no model of that name. Known names: "
            f"{', '.join(PACKAGED_CORES + PUBLISHED_CORES)}."
        )
    return name, kwargs
