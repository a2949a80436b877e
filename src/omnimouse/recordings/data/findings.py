"""What is wrong or noteworthy in a recording: one finding, the list of them, and faults that many files share."""

from __future__ import annotations

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


class Tally(Findings):
    """Faults of many files, reported once per severity and field with a count and an example."""

    def add(self, severity: Severity, field: str, path: Path, *, expected: str, found: str, do: str) -> None:
        """Append one fault."""
        self.append(Finding(severity, str(path), field, expected, found, do))

    def report(self, findings: Findings) -> None:
        """One finding per kind of fault: the first, with the last advice."""
        kinds: dict[tuple[str, str], list[Finding]] = {}
        for fault in self:
            kinds.setdefault((fault.severity, fault.field), []).append(fault)
        for faults in kinds.values():
            more = f" (and {len(faults) - 1} more files like it)" if len(faults) > 1 else ""
            first, do = faults[0], faults[-1].what_to_do
            findings.append(replace(first, found=first.found + more, what_to_do=do))
