"""One case of `loading.py`, in a process of its own: prints seconds and memory as JSON.

python benchmarks/loading_case.py '{"do": "load", "name": "FOLDER OR REPO", "sessions": "all"}'
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
import warnings
from pathlib import Path
from typing import Any


def memory() -> dict[str, int]:
    """Resident memory of this process in bytes: its peak, what it holds now, and how much of that are mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    names = {"peak": "VmHWM", "now": "VmRSS", "files": "RssFile"}
    return {key: int(fields[name].split()[0]) * 1024 for key, name in names.items()}


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


def main() -> None:
    case = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    result = {"load": load, "convert": convert, "read": read}[case["do"]](case)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
