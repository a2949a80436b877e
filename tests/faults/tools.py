"""What the tables of faults are made with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

Fault = tuple[Callable[[Path], object], str, str, str, tuple[str, ...]]
"""What causes it; severity, end of the path and field of the finding; texts that it must contain.

What causes a fault may return the path of an archive that it made of the folder; that is then checked."""

Group = dict[str, Fault]

STATISTICS = ("meta/means.npy", "meta/stds.npy")
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n"
LAUGHS = "l0: &l0 [ha, ha]\n" + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 31))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a YAML file; None removes one."""
    content = yaml.safe_load(path.read_text())
    content.update(changes)
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))


def change(path: Path, function: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Load an array, let `function` change it in place or return another one, store it."""
    array = np.load(path)
    returned = function(array)
    np.save(path, array if returned is None else returned)


def setting(key: Any, value: float) -> Callable[[np.ndarray], None]:
    """A function that sets some values of an array."""

    def function(array: np.ndarray) -> None:
        array[key] = value

    return function


def truncate(path: Path, to: int) -> None:
    """Cut a file off."""
    path.write_bytes(path.read_bytes()[:to])


def claim(path: Path, shape: tuple[int, ...]) -> None:
    """Write a `.npy` header of another shape over the bytes that are there."""
    array = np.load(path)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": array.dtype.str, "fortran_order": False, "shape": shape})
        file.write(array.tobytes())


def as_mem(folder: Path, **changes: Any) -> None:
    """Store the responses as data.mem, and change keys of their metadata."""
    file = folder / "responses/data.npy"
    np.load(file).tofile(folder / "responses/data.mem")
    file.unlink()
    edit(folder / "responses/meta.yml", is_mem_mapped=True, **changes)


def nest(folder: Path, inner: str) -> None:
    """Move everything into a folder inside."""
    entries = list(folder.iterdir())
    (folder / inner).mkdir(parents=True)
    for entry in entries:
        shutil.move(entry, folder / inner / entry.name)


def cache(folder: Path, function: Callable[[dict[str, Any]], object]) -> None:
    """Write the cache that experanto makes of the trials' files, changed by a function."""
    files = sorted((folder / "screen/meta").iterdir())
    trials = {file.stem: yaml.safe_load(file.read_text()) for file in files}
    function(trials)
    (folder / "screen/combined_meta.json").write_text(json.dumps(trials))
