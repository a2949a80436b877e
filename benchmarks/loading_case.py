"""One case of `loading.py`, in a process of its own: prints seconds and memory as JSON.

python benchmarks/loading_case.py '{"do": "load", "name": "FOLDER OR REPO", "sessions": "all"}'
"""

from __future__ import annotations

import os
import time
import urllib.request
from pathlib import Path
from typing import Any

from meters import answer, memory


def load(case: dict[str, Any]) -> dict[str, Any]:
    """Loads a model, then touches every weight."""
    import torch
    from transformers.utils import logging

    from omnimouse import OmniMouseModel

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    before = memory()
    start = time.perf_counter()
    model = OmniMouseModel.from_pretrained(case["name"], sessions=case["sessions"])
    seconds = time.perf_counter() - start
    loaded = memory()
    with torch.no_grad():
        total = sum(float(parameter.sum()) for parameter in model.parameters())
    touched = time.perf_counter() - start
    return {
        "seconds": seconds,
        "touched_seconds": touched,
        "before": before,
        "loaded": loaded,
        "after": memory(),
        "n_sessions": len(model.session_keys),
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "checksum": total,
    }


def convert(case: dict[str, Any]) -> dict[str, Any]:
    """Converts a published checkpoint."""
    from omnimouse import convert as convert_checkpoint

    before = memory()
    start = time.perf_counter()
    convert_checkpoint(case["name"], case["out"], progress=False)
    return {"seconds": time.perf_counter() - start, "before": before, "after": memory()}


def open_place(place: str) -> Any:
    if place.startswith("http:"):
        return urllib.request.urlopen(place)
    return Path(place).open("rb", buffering=0)


def read(case: dict[str, Any]) -> dict[str, Any]:
    """Reads files or addresses from start to end into one buffer, and does nothing with what it reads."""
    buffer = bytearray(4 << 20)
    size, start = 0, time.perf_counter()
    for place in case["places"]:
        with open_place(place) as source:
            while count := source.readinto(buffer):
                size += count
    return {"seconds": time.perf_counter() - start, "bytes": size}


if __name__ == "__main__":
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    answer(load, convert, read)
