"""Reading small files and array headers of untrusted recordings: no fault raises, each becomes a `Finding`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from omnimouse.recordings.base import Finding

# The C parser is about ten times faster, which matters for thousands of trial files; not every build of PyYAML has it.
YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

LFS_HEADER = b"version https://git-lfs"

RECOPY = "Copy the whole recording again; it may be incomplete."


class Findings(list[Finding]):
    """Findings collected while reading; `fatal`, `warning` and `info` append one."""

    def fatal(self, path: Path, field: str, *, expected: str, found: str, do: str) -> None:
        """Append a finding that makes the recording unreadable."""
        self.append(Finding("fatal", str(path), field, expected, found, do))

    def warning(self, path: Path, field: str, *, expected: str, found: str, do: str) -> None:
        """Append a finding that lets the recording be read but may spoil results."""
        self.append(Finding("warning", str(path), field, expected, found, do))

    def info(self, path: Path, field: str, *, expected: str, found: str, do: str) -> None:
        """Append something worth knowing."""
        self.append(Finding("info", str(path), field, expected, found, do))

    @property
    def has_fatal(self) -> bool:
        """Whether anything found makes the recording unreadable."""
        return any(finding.severity == "fatal" for finding in self)


class Tally:
    """Faults of many files, reported once per severity and field with a count and an example."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], list[tuple[Path, str, str]]] = {}
        self.actions: dict[tuple[str, str], str] = {}

    def add(self, severity: str, field: str, path: Path, *, expected: str, found: str, do: str) -> None:
        """Count one fault."""
        self.kinds.setdefault((severity, field), []).append((path, expected, found))
        self.actions[(severity, field)] = do

    def take(self, finding: Finding) -> None:
        """Count a fault that was found elsewhere."""
        path, field = Path(finding.path), finding.field
        self.add(finding.severity, field, path, expected=finding.expected, found=finding.found, do=finding.what_to_do)

    @property
    def has_fatal(self) -> bool:
        """Whether any fault makes the recording unreadable."""
        return any(severity == "fatal" for severity, _ in self.kinds)

    def report(self, findings: Findings) -> None:
        """One finding per kind of fault."""
        for (severity, field), cases in self.kinds.items():
            path, expected, found = cases[0]
            more = f" (and {len(cases) - 1} more files like it)" if len(cases) > 1 else ""
            log: Callable[..., None] = getattr(findings, severity)
            log(path, field, expected=expected, found=found + more, do=self.actions[(severity, field)])


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file holds the text that Git LFS leaves in place of content it has not downloaded."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_HEADER)) == LFS_HEADER
    except OSError:
        return False


def read_mapping(path: Path, findings: Findings) -> dict[str, Any] | None:
    """Content of a YAML or JSON file that must be a mapping with string keys; None (and a fatal finding) otherwise."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        findings.fatal(
            path,
            "file",
            expected=f"a {path.suffix} file",
            found="no such file",
            do=RECOPY,
        )
        return None
    except (OSError, UnicodeDecodeError) as error:
        findings.fatal(path, "file", expected="readable UTF-8 text", found=str(error), do="Restore the file.")
        return None
    if text.startswith(LFS_HEADER.decode()):
        findings.fatal(
            path,
            "file",
            expected="the file itself",
            found="a Git LFS pointer",
            do="Run `git lfs pull` in its repository.",
        )
        return None
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=YAML_LOADER)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        message = " ".join(str(error).split())[:200]
        findings.fatal(
            path, "file", expected=f"valid {path.suffix[1:]}", found=message, do="Restore or correct the file."
        )
        return None
    if not isinstance(content, dict):
        found = "an empty file" if content is None else f"a {type(content).__name__}"
        findings.fatal(
            path, "file", expected="a mapping of keys to values", found=found, do="Restore or correct the file."
        )
        return None
    return content


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
        found = f"{repr(value)[:60]} ({type(value).__name__})"
        findings.fatal(path, key, expected=kind, found=found, do=f"Write `{key}` as {kind}.")
        return None
    return int(value) if integer else float(value)


def is_finite_number(value: object) -> bool:
    """Whether a value read from YAML or JSON is a number that float64 can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def open_array(path: Path, findings: Findings) -> np.ndarray | None:
    """A `.npy` file as a read-only memory map; None and a fatal finding when it is not a readable numeric array."""
    if is_lfs_pointer(path):
        findings.fatal(
            path, "file", expected="an array", found="a Git LFS pointer", do="Run `git lfs pull` in its repository."
        )
        return None
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        findings.fatal(
            path,
            "file",
            expected="a .npy array",
            found="no such file",
            do=RECOPY,
        )
        return None
    except Exception as error:  # Damaged headers raise many types: ValueError, SyntaxError, EOFError, ...
        size = path.stat().st_size if path.is_file() else 0
        findings.fatal(
            path,
            "file",
            expected="a complete .npy array without Python objects",
            found=f"{size} bytes that do not load ({' '.join(str(error).split())[:200]})",
            do="The file is truncated or of another kind; copy it again.",
        )
        return None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        found = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        findings.fatal(path, "dtype", expected="numbers in one .npy array", found=found, do="Store it as float32.")
        return None
    return array
