"""What is wrong or noteworthy in a recording: findings, lists of them, and the kinds that tables of checks hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Severity = Literal["fatal", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or noteworthy in a recording.

    Attributes:
        severity: "fatal" (cannot be read correctly), "warning" (readable, results may suffer), "info".
        path: file or folder concerned.
        field: key, array or property concerned.
        expected: what a sound recording has there.
        found: what is there.
        what_to_do: the next step for the user.
    """

    severity: Severity
    path: str
    field: str
    expected: str
    found: str
    what_to_do: str

    def __str__(self) -> str:
        compared = f"expected {self.expected}, found {self.found}"
        return f"{self.severity}: {self.path}: {self.field}: {compared}. {self.what_to_do}"


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


@dataclass(frozen=True)
class Kind:
    """A finding without its place and without what was found there; called with these, it is one."""

    severity: Severity  # as of `Finding`
    field: str  # key, array or property concerned
    expected: str  # what a sound recording has there
    do: str  # the next step for the user. In these texts, `{names}` stand for words that differ from case to case

    def __call__(self, path: Path, found: object, /, **words: object) -> Finding:
        field, expected, do = (text.format(**words) if words else text for text in (self.field, self.expected, self.do))
        return Finding(self.severity, str(path), field, expected, str(found), do)


def merged(faults: Iterable[Finding]) -> Findings:
    """Faults of many files, one finding of each kind: the first, with their number and the last advice."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for fault in faults:
        kinds.setdefault((fault.severity, fault.field), []).append(fault)
    findings = Findings()
    for first, *others in kinds.values():
        more = f" (and {len(others)} more files like it)" if others else ""
        findings.append(replace(first, found=first.found + more, what_to_do=[first, *others][-1].what_to_do))
    return findings
