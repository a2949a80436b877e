"""The command `check` of the shell: what is in a recording, whether it is sound, and its picture."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from omnimouse.cli.options import add_json, print_json
from omnimouse.support.outputs import check_output

if TYPE_CHECKING:
    from omnimouse.recordings import Finding

EXIT_UNSOUND = 1
"""Exit status of `check` when a recording has a fatal finding."""


CHECK_EXAMPLES = """\
examples:
  omnimouse check my-recording/
  omnimouse check my-recording/ --plot my-recording.png
  omnimouse check my-recording/ --json | jq '.findings[] | select(.severity == "fatal")'

The exit status is 1 when a finding is fatal, 0 otherwise."""


def add_check(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `omnimouse check`."""
    parser.add_argument("recording", metavar="RECORDING", type=Path, help="folder of the recording; never written to")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="also draw it: responses, behavior, stimuli, frame times, windows; .png, .svg or .html",
    )
    add_json(parser)


def check(args: argparse.Namespace) -> int:
    """List what is in a recording and all findings; status 1 when one is fatal."""
    from omnimouse.cli.describe import describe_recording, to_text
    from omnimouse.recordings import open_questions, open_recording, plot_recording
    from omnimouse.recordings.checks.check import check_recording
    from omnimouse.recordings.checks.open_questions import question_lines
    from omnimouse.recordings.formats.sensorium.clips import ClipScreen

    if args.plot is not None:
        check_output(args.plot, args.recording)
    findings = check_recording(args.recording)
    counts = {s: sum(f.severity == s for f in findings) for s in ("fatal", "warning", "info")}
    # A recording with a fatal finding may not even open: then the findings are all there is to say.
    recording = None if counts["fatal"] else open_recording(args.recording)
    description = None if recording is None else describe_recording(recording)
    # In separate clips on a clock of ours, most of the answers would be our own.
    asked = recording is not None and not isinstance(recording.screen, ClipScreen)
    answers = open_questions(recording) if recording is not None and asked else None
    drawn = args.plot is not None
    if args.plot is not None:
        try:
            plot_recording(args.recording, args.plot, findings=findings)
        except ValueError as error:  # the findings say more, and come below
            warnings.warn(str(error), stacklevel=2)
            drawn = False
    if args.json:
        sound, listed = not counts["fatal"], [vars(finding) for finding in findings]
        print_json({"sound": sound, "recording": description, "open_questions": answers, "findings": listed})
    else:
        if description is not None:
            print(to_text(description) + "\n")
        if answers is not None:
            print("\n".join(question_lines(answers)) + "\n")
        if drawn:
            print(f"Drawn in {args.plot}\n")
        for finding in findings:
            print(_finding_text(finding, args.recording))
        verdict = "Not usable as it is" if counts["fatal"] else "Sound"
        print(f"{verdict}: {counts['fatal']} fatal findings, {counts['warning']} warnings, {counts['info']} remarks.")
    return EXIT_UNSOUND if counts["fatal"] else 0


def _finding_text(finding: Finding, folder: Path) -> str:
    """A finding as lines, its path relative to the recording."""
    path = Path(finding.path)
    if path.is_relative_to(folder.absolute()) and path != folder.absolute():
        path = path.relative_to(folder.absolute())
    return (
        f"{finding.severity}: {path}: {finding.field}\n    expected {finding.expected}\n    found {finding.found}\n"
        f"    {finding.what_to_do}\n"
    )
