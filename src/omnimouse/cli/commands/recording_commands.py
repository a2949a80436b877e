"""The commands about recordings: `simulate`, `check`, `import` and `export`."""

from __future__ import annotations

import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omnimouse.cli.describe import describe_recording, to_text
from omnimouse.cli.output import Said, hint
from omnimouse.cli.recording_options import Check, Export, Import, Simulate
from omnimouse.cli.starting import EXIT_UNSOUND
from omnimouse.recordings import Finding, open_questions, open_recording, plot_recording
from omnimouse.recordings.checks.check import check_recording
from omnimouse.recordings.checks.open_questions import question_lines
from omnimouse.recordings.formats.sensorium.clips import ClipScreen
from omnimouse.recordings.nwb import import_nwb, nwb_entries
from omnimouse.recordings.nwb.importing import NwbEntry
from omnimouse.recordings.simulation.simulated import simulate_recording
from omnimouse.support.outputs import check_output


def simulate_command(command: Simulate) -> Said:
    """Write a simulated recording."""
    simulate_recording(command.folder, command.seed, progress=True, **command.take("n_neurons", "minutes", "animal"))
    return Said(None, f"Wrote {command.folder}; look at it with: {hint('check', command.folder)}")


def check_command(command: Check) -> Said:
    """List what is in a recording and all findings; status 1 when one is fatal."""
    if command.plot is not None:
        check_output(command.plot, command.recording)
    findings = check_recording(command.recording)
    counts = {s: sum(f.severity == s for f in findings) for s in ("fatal", "warning", "info")}
    # A recording with a fatal finding may not even open: then the findings are all there is to say.
    recording = None if counts["fatal"] else open_recording(command.recording)
    description = None if recording is None else describe_recording(recording)
    # In separate clips on a clock of ours, most of the answers would be our own.
    asked = recording is not None and not isinstance(recording.screen, ClipScreen)
    answers = open_questions(recording) if recording is not None and asked else None
    texts = [] if description is None else [to_text(description)]
    if answers is not None:
        texts.append("\n".join(question_lines(answers)))
    if command.plot is not None:
        try:
            plot_recording(command.recording, command.plot, findings=findings)
            texts.append(f"Drawn in {command.plot}")
        except ValueError as error:  # the findings say more, and come below
            warnings.warn(str(error), stacklevel=2)
    texts += [_finding_text(finding, command.recording.absolute()) for finding in findings]
    verdict = "Not usable as it is" if counts["fatal"] else "Sound"
    texts.append(
        f"{verdict}: {counts['fatal']} fatal findings, {counts['warning']} warnings, {counts['info']} remarks."
    )
    sound, listed = not counts["fatal"], [vars(finding) for finding in findings]
    data = {"sound": sound, "recording": description, "open_questions": answers, "findings": listed}
    return Said(data, "\n\n".join(texts), 0 if sound else EXIT_UNSOUND)


def _finding_text(finding: Finding, folder: Path) -> str:
    """A finding as lines, its path relative to the recording."""
    path = Path(finding.path)
    if path.is_relative_to(folder) and path != folder:
        path = path.relative_to(folder)
    return (
        f"{finding.severity}: {path}: {finding.field}\n    expected {finding.expected}\n    found {finding.found}\n"
        f"    {finding.what_to_do}"
    )


def import_command(command: Import) -> Said:
    """List an NWB file, or make a session folder of it."""
    if command.list:
        entries = nwb_entries(command.file)
        lines = [_entry_text(entry) for entry in entries]
        nothing = "nothing that a recording can be made of: no time series with numbers, and no table of trials"
        return Said([asdict(entry) for entry in entries], "\n".join(lines) or nothing)
    if command.folder is None:
        raise ValueError("no folder to write: name one behind the file, or use --list to see what the file has")
    recording = import_nwb(
        command.file,
        command.folder,
        progress=True,
        report=lambda line: print(line, file=sys.stderr),
        **command.take("mapping", "rois"),
    )
    return Said(
        {"folder": command.folder, "session_key": recording.session_key, "n_neurons": recording.n_neurons},
        f"Wrote {command.folder}; look at it with: {hint('check', command.folder)}",
    )


def _entry_text(entry: NwbEntry) -> str:
    rate = f", {entry.rate:.4g} Hz" if entry.rate else ""
    shape = " x ".join(map(str, entry.shape))
    return f"{entry.role:10} {entry.path}  ({entry.kind}: {shape}{rate}, {entry.detail or 'no unit'})"


def export_command(command: Export) -> Said:
    """Write recordings in the `datasets` form, push them, or both."""
    if command.output is None and command.push is None:
        raise ValueError("nothing to do: name a folder with --output, a repo with --push, or both")
    done: list[dict[str, Any]] = []
    for path in command.recordings:
        recording = open_recording(path)
        key, folder, commit = recording.session_key, None, None
        if command.output is not None:
            recording.to_dataset(command.output)
            recording = open_recording(command.output / key)
            folder = str(recording.path)
        if command.push is not None:
            commit = recording.push_to_hub(command.push, private=command.private).commit_url
        done.append({"session": key, "rows": recording.responses.shape[0], "folder": folder, "commit": commit})
        if not command.json:  # at once: the next one may fail
            print(f"Session {key}: {', '.join(filter(None, (folder, commit)))}")
    return Said({"recordings": done}, None)
