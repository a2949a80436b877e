"""What checks look for: a check is a function that yields findings, each of a kind from the table of its module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from omnimouse.recordings.data.findings import Finding, Findings, Severity, Tally


@dataclass(frozen=True)
class Kind:
    """A finding without its place and without what was found there; called with these, it is one.

    Attributes:
        severity: as of `Finding`.
        field: key, array or property concerned.
        expected: what a sound recording has there.
        do: the next step for the user. In these texts, `{names}` stand for words that differ from case to case.
    """

    severity: Severity
    field: str
    expected: str
    do: str

    def __call__(self, path: Path, found: object, /, **words: object) -> Finding:
        field, expected, do = (text.format(**words) if words else text for text in (self.field, self.expected, self.do))
        return Finding(self.severity, str(path), field, expected, str(found), do)


def listed(items: Iterable[object], limit: int) -> str:
    """The first of some items, and dots where there are more."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")


def merged(tally: Tally) -> Findings:
    """Faults of many files, one finding of each kind."""
    findings = Findings()
    tally.report(findings)
    return findings
