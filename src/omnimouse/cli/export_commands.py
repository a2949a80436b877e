"""The command `export` of the shell: recordings in the `datasets` form, in a folder or on the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omnimouse.cli.options import add_json, print_json

EXPORT_EXAMPLES = """\
examples:
  omnimouse export my-recording/ --output my-recordings/
  omnimouse export sessions/*/ --output my-recordings/     several, each a folder and a configuration of its own
  omnimouse export my-recording/ --push me/recordings --private

Windows cut from what is written are those of the recording, bit for bit. `datasets.load_dataset` reads it too; what was
pushed is opened by open_recording("me/recordings", session=KEY)."""


def add_export(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `omnimouse export`."""
    parser.add_argument("recordings", nargs="+", metavar="RECORDING", type=Path,
                        help="folder of a recording; never written to")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder that collects recordings in this form")
    parser.add_argument("--push", metavar="REPO", help="dataset repo to push to, user/name; it is created if needed")
    parser.add_argument("--private", action="store_true", default=None, help="make a repo that is created private")
    add_json(parser)


def export(args: argparse.Namespace) -> int:
    """Write recordings in the `datasets` form, push them, or both."""
    from omnimouse.recordings import open_recording

    if args.output is None and args.push is None:
        raise ValueError("nothing to do: name a folder with --output, a repo with --push, or both")
    done: list[dict[str, Any]] = []
    for path in args.recordings:
        recording = open_recording(path)
        key, folder, commit = recording.session_key, None, None
        if args.output is not None:
            recording.to_dataset(args.output)
            recording = open_recording(args.output / key)
            folder = str(recording.path)
        if args.push is not None:
            commit = recording.push_to_hub(args.push, private=args.private).commit_url
        done.append({"session": key, "rows": recording.responses.shape[0], "folder": folder, "commit": commit})
        if not args.json:
            print(f"Session {key}: {', '.join(filter(None, (folder, commit)))}")
    if args.json:
        print_json({"recordings": done})
    return 0
