"""NWB files opened with h5py: versions, attributes, links, and groups by what they hold.

Files go by `neurodata_type` and by the data sets a group has, not by a schema, so those with extensions open as well.
Nothing is written.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.plausible import identity
from omnimouse.recordings.data.reading import is_lfs_pointer

CHUNK_CACHE = 64 * 2**20
"""Bytes of decompressed chunks that are kept, so that chunks longer than what is read at once are read once."""


@contextmanager
def open_nwb(path: Path) -> Iterator[Any]:
    """Opens an NWB file for reading.

    Raises:
        ImportError: h5py is not installed.
        ValueError: no NWB 2 file in HDF5, or a damaged one, also where that shows only while it is read.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('NWB files need h5py; install it with: pip install "omnimouse[nwb]"') from error
    if not path.exists():
        raise ValueError(f"{path}: no such file; check the path.")
    if path.is_dir():
        raise ValueError(f"{path}: a folder, expected an NWB file in HDF5. Export Zarr stores to HDF5 with hdmf-zarr.")
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"{path}: a special file, expected an NWB file in HDF5.")
    if is_lfs_pointer(path):
        raise ValueError(f"{path}: a Git LFS pointer; run `git lfs pull` in its repository.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path}: no HDF5 file, or the beginning of one is missing; copy or download it again.")
    try:
        with h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE) as file:
            _expect_nwb_2(path, file)
            yield file
    except (OSError, LookupError, RuntimeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the file system, such as a full disk
        message = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read whole ({message}); copy or download it again.") from error


def _expect_nwb_2(path: Path, file: Any) -> None:
    """Raises ValueError for what is no NWB 2; NWB 1 has its version in a data set."""
    stored = child(file, "nwb_version")
    version = text_of(file.attrs.get("nwb_version", stored[()] if is_dataset(stored) else "")).strip()
    version = re.sub(r"^NWB-", "", version, flags=re.IGNORECASE)
    major = re.split(r"\D", version)[0]
    if major == "2":
        return
    if major in ("0", "1"):
        raise ValueError(
            f"{path}: NWB {version}, expected NWB 2. Files of NWB 1 have other names, and responses often as [neurons, "
            "samples]: look for the arrays with h5py.File(path).visit(print), pass them, time first, to "
            "recording_from_arrays, and make a folder of that with save_recording."
        )
    found = f"NWB {version}" if version else "HDF5 without nwb_version"
    raise ValueError(
        f"{path}: {found}, expected NWB 2. Arrays of other files become a recording with "
        "recording_from_arrays(h5py.File(...)[...], ...) and a folder with save_recording."
    )


def text_of(value: Any) -> str:
    """Text as HDF5 gives it: bytes, a string, or an array with one of them."""
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size == 1 else ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def name_in(file: Any, path: str) -> str:
    """A name that a file states, "" where there is none or a placeholder such as "n/a"."""
    item = child(file, path)
    if not is_dataset(item) or item.shape is None or int(np.prod(item.shape)) != 1:
        return ""
    return identity(text_of(item[()]).strip()) or ""


def attribute(item: Any, name: str, default: float) -> float:
    """A number among the attributes of something; one that is none, or not finite, is refused."""
    if name not in item.attrs:
        return default
    value = np.asarray(item.attrs[name]).reshape(-1)
    if len(value) == 1 and value.dtype.kind in "fiu" and np.isfinite(value[0]):
        return float(value[0])
    raise ValueError(f"{path_of(item)}: {name} is {text_of(value)!r}, expected a finite number. Correct the file.")


def neurodata_type(group: Any) -> str:
    """The `neurodata_type` of a group or data set, "" without one."""
    return text_of(group.attrs.get("neurodata_type", ""))


def is_dataset(item: Any) -> bool:
    """Whether something in a file is an array and not a group."""
    return hasattr(item, "dtype") and hasattr(item, "shape")


def path_of(item: Any) -> str:
    """Where something lies, as messages and mappings write it."""
    return (item.name or "").strip("/")


def child(group: Any, name: str) -> Any:
    """What a group has under a name, None where there is nothing; a link that leads nowhere raises ValueError."""
    link = group.get(name, getlink=True)
    if link is None:
        return None
    try:
        return group[name]
    except (KeyError, OSError):
        if not hasattr(link, "path"):
            raise
        raise ValueError(f"{f'{path_of(group)}/{name}'.strip('/')} {_dangling(link)}") from None


def _dangling(link: Any) -> str:
    file = getattr(link, "filename", None)
    if file is None:
        return f"is a link to {link.path}, which the file does not have. Export the file again, with what it links to."
    return f"is a link to {link.path} in another file, {file}, which cannot be read. Put that file where it belongs."


def referred(item: Any, reference: Any, what: str) -> Any:
    """What an object reference of an item points to; refused where it points to nothing."""
    try:
        return item.file[reference]
    except (ValueError, KeyError, TypeError, OSError, RuntimeError):
        raise ValueError(f"{path_of(item)}: its {what} points to nothing in the file. Export it again.") from None


def walk(file: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """All groups of a file, links to other files followed, each once; and the links that lead nowhere.

    Returns:
        Path -> group: the path without links where there is one. Path -> what is wrong with the link there.
    """
    groups: dict[str, Any] = {}
    broken: dict[str, str] = {}
    met = {file["/"]}
    plain: deque[tuple[str, Any]] = deque([("", file)])
    linked: deque[tuple[str, Any]] = deque()
    while plain or linked:
        path, group = plain.popleft() if plain else linked.popleft()
        if path and group in met:
            continue
        met.add(group)
        groups[path] = group
        for name in group:
            link, where = group.get(name, getlink=True), f"{path}/{name}".strip("/")
            item: Any = None
            try:
                item = child(group, name)
            except ValueError:
                broken[where] = _dangling(link)
            if item is not None and not is_dataset(item) and hasattr(item, "attrs") and hasattr(item, "keys"):
                (linked if hasattr(link, "path") else plain).append((where, item))
    groups.pop("")
    return dict(sorted(groups.items())), dict(sorted(broken.items()))
