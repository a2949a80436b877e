"""Print the tables of `docs/recordings.md`."""

from faults import EXPERANTO, SENSORIUM, STATIC, as_markdown

print("\n\n".join(as_markdown(groups) for groups in (EXPERANTO, SENSORIUM, STATIC)))
