"""Reading small files and array headers of untrusted recordings: no fault raises, each becomes a `Finding`."""

from __future__ import annotations

import json
import math
import os
import reprlib
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from omnimouse.recordings.data.findings import Findings

# The C parser is about ten times faster, which matters for thousands of trial files; not every build of PyYAML has it.
YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

LFS_HEADER = b"version https://git-lfs"

RECOPY = "Copy the whole recording again; it may be incomplete."


NO_PLAIN_FILE = "a folder or a special file"

LARGEST_TEXT = 2**20
"""Bytes of a metadata file; those of a session have some hundreds."""

HARMLESS_TEXT = 4096
"""Bytes of YAML that cannot nest deeply enough to exhaust the stack of the C parser, which ends the process."""

DEEPEST = 64
"""Levels of YAML in a longer text."""

NUMBERS = "fiub"
"""Kinds of numpy types that are numbers."""


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file holds the text that Git LFS leaves in place of content it has not downloaded."""
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_HEADER)) == LFS_HEADER
    except OSError:
        return False


def absent(path: Path) -> tuple[str, str]:
    """What is found where a file is not there, and what to do about it: a link may lead nowhere."""
    if not path.is_symlink():
        return "no such file", RECOPY
    target = os.readlink(path)
    do = "Fetch what it leads to (`git annex get`, `datalad get`), or copy the files themselves."
    return f"a link to {shown(target)}, where nothing is", do


class _Unreadable(Exception):
    """What was expected of a file, what it is, and what to do."""


def read_fields(path: Path, findings: Findings) -> dict[str, Any] | None:
    """Content of a YAML or JSON file that must be a mapping with string keys; None (and a fatal finding) otherwise."""
    try:
        return _parsed(path)
    except _Unreadable as fault:
        expected, found, do = fault.args
        findings.fatal(path, "file", expected=expected, found=found, do=do)
        return None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        status = path.stat()
        plain = stat.S_ISREG(status.st_mode)  # reading a pipe would wait for ever
        if not plain or status.st_size > LARGEST_TEXT:
            found = f"{status.st_size} bytes" if plain else NO_PLAIN_FILE
            raise _Unreadable(f"a small {path.suffix} file", found, "Restore the file.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _Unreadable(f"a {path.suffix} file", *absent(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _Unreadable("readable UTF-8 text", str(error), "Restore the file.") from None
    if text.startswith(LFS_HEADER.decode()):
        raise _Unreadable("the file itself", "a Git LFS pointer", "Run `git lfs pull` in its repository.")
    try:
        content = json.loads(text) if path.suffix == ".json" else _load_yaml(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        found = " ".join(str(error).split())[:200]
        raise _Unreadable(f"valid {path.suffix[1:]}", found, "Restore or correct the file.") from None
    if not isinstance(content, dict):
        found = "an empty file" if content is None else f"a {type(content).__name__}"
        raise _Unreadable("a mapping of keys to values", found, "Restore or correct the file.")
    return content


def _load_yaml(text: str) -> Any:
    if len(text) > HARMLESS_TEXT:
        depth = 0
        for event in yaml.parse(text, Loader=YAML_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"more than {DEEPEST} levels")
    return yaml.load(text, Loader=YAML_LOADER)


def read_number(
    mapping: dict[str, Any], key: str, path: Path, findings: Findings, *, integer: bool = False
) -> float | None:
    """A finite number of a mapping (int when `integer`); None and a fatal finding when missing or of another type."""
    kind = "an integer" if integer else "a finite number"
    if key not in mapping:
        findings.fatal(path, key, expected=kind, found="no such key", do=f"Add `{key}` to the file.")
        return None
    value = mapping[key]
    if not is_finite_number(value) or (integer and value != int(value)):
        found = f"{shown(value)} ({type(value).__name__})"
        findings.fatal(path, key, expected=kind, found=found, do=f"Write `{key}` as {kind}.")
        return None
    return int(value) if integer else float(value)


def read_name(mapping: dict[str, Any], key: str, path: Path, findings: Findings, *, longest: int = 200) -> str | None:
    """A name of a mapping, None where it is missing or empty; also None, with a fatal finding, when it is no name."""
    value = mapping.get(key)
    if value is None or value == "":
        return None
    name = str(value) if isinstance(value, (str, float)) or is_finite_number(value) else ""
    if not name or len(name) > longest or not name.isprintable():
        expected, do = f"a name of at most {longest} characters", f"Write `{key}` as plain text."
        findings.fatal(path, key, expected=expected, found=shown(value), do=do)
        return None
    return name


class _Shown(reprlib.Repr):
    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > 1024:  # Python refuses to write the largest
            return f"an integer of {value.bit_length()} bits"
        return super().repr_int(value, level)


_SHORT = _Shown()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def shown(value: object) -> str:
    """A value read from YAML or JSON for a message: short, whatever it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def is_finite_number(value: object) -> bool:
    """Whether a value read from YAML or JSON is a number that float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def map_array(path: Path) -> np.ndarray:
    """A `.npy` file as a read-only memory map; nothing in it is executed.

    Raises:
        ValueError: it is missing, no regular file, or not one whole array without Python objects.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        fault = "a folder or a special file, not a .npy file" if path.exists() else "no such file"
        raise ValueError(f"{path}: {fault}; copy the whole recording again")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers raise many types: SyntaxError, EOFError, OverflowError, ...
        raise ValueError(f"{path}: not a whole .npy array ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: a {type(array).__name__}, not one .npy array")
    return array


class MappedArrays(OrderedDict[Path, np.ndarray]):
    """Arrays of files, mapped when they are asked for; the last `most` stay open, and none is pickled or copied."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def take(self, path: Path) -> np.ndarray:
        """The array of a file, see `map_array`."""
        array = self.pop(path, None)
        self[path] = array = map_array(path) if array is None else array
        if len(self) > self.most:
            self.popitem(last=False)
        return array

    def __reduce__(self) -> tuple[type[MappedArrays], tuple[int]]:
        return MappedArrays, (self.most,)


def open_array(path: Path, findings: Findings, *, kinds: str = NUMBERS) -> np.ndarray | None:
    """A `.npy` file as a read-only memory map; None and a fatal finding when it is not a readable array of a kind.

    `kinds` are letters of the numpy kinds that may be stored, numbers by default.
    """
    if is_lfs_pointer(path):
        do = "Run `git lfs pull` in its repository."
        findings.fatal(path, "file", expected="an array", found="a Git LFS pointer", do=do)
        return None
    if not path.exists():
        found, do = absent(path)
        findings.fatal(path, "file", expected="a .npy array", found=found, do=do)
        return None
    try:
        array = map_array(path)
    except ValueError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        found = f"{path.stat().st_size} bytes that do not load ({reason})" if path.is_file() else NO_PLAIN_FILE
        do = "The file is truncated or of another kind; copy it again."
        if "pickle" in reason or "Python objects" in reason:
            do = "Python objects could run code and are never loaded: save numbers or text, such as array.astype(str)."
        expected = "a complete .npy array without Python objects"
        findings.fatal(path, "file", expected=expected, found=found, do=do)
        return None
    if array.dtype.kind in kinds:
        return array
    expected = f"{'numbers' if kinds == NUMBERS else 'names or numbers'} in one .npy array"
    findings.fatal(path, "dtype", expected=expected, found=f"dtype {array.dtype}", do="Store it as float32.")
    return None
