"""Print the tables of `docs/recordings.md`."""

from faults import EXPERANTO, SENSORIUM, as_markdown

print(f"{as_markdown(EXPERANTO)}\n\n{as_markdown(SENSORIUM)}")
