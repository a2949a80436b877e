"""Everything that `omnimouse check` reports, fault by fault: how to cause it, and what the finding has to say.

The tests cause each fault; `docs/recordings.md` lists them. `python -m faults` in this folder's parent prints the list.
"""

from __future__ import annotations

from faults import devices, files, screen, sensorium, static
from faults.tools import Fault, Group

EXPERANTO: dict[str, Group] = {**files.GROUPS, **devices.GROUPS, **screen.GROUPS}
SENSORIUM: dict[str, Group] = sensorium.GROUPS
STATIC: dict[str, Group] = static.GROUPS
SEVERITIES = ("fatal", "warning", "info")


def listed(groups: dict[str, Group]) -> dict[str, Fault]:
    """The faults of all groups under one name each, for parametrised tests."""
    return {f"{group}: {name}": fault for group, faults in groups.items() for name, fault in faults.items()}


def as_markdown(groups: dict[str, Group]) -> str:
    """A table with a row per group and a column per severity."""
    lines = ["| | fatal: cannot be read correctly | warning: results may suffer | remark |", "|---|---|---|---|"]
    for group, faults in groups.items():
        cells = [
            "; ".join(f"{name} (`{fault[3]}`)" for name, fault in faults.items() if fault[1] == severity)
            for severity in SEVERITIES
        ]
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)
