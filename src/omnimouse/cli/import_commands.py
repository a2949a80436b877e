"""The command `import`: session folders of files in other formats, with its options."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from omnimouse.cli.options import add_json, hint, print_json

IMPORT_EXAMPLES = """\
examples:
  omnimouse import session.nwb --list                                 what is in it, under which paths
  omnimouse import session.nwb my-recording/                          responses, behaviour and video found by name
  omnimouse import session.nwb my-recording/ --mapping mapping.yaml   or as a mapping says

A mapping says what is what where names do not, for instance:

  responses: processing/ophys/Deconvolved/RoiResponseSeries
  behavior:
    running_speed: processing/behavior/wheel
    gaze_x: processing/behavior/eye[0]
    pupil_size: none
  video: stimulus/presentation/movie
  tiers: {column: movie_set, values: {train: [1, 2], final_test: [3]}}

The file is only read, in pieces. `docs/recordings.md` lists all fields."""


def add_import(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `omnimouse import`."""
    parser.add_argument("file", metavar="FILE", type=Path, help="NWB file; never written to")
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help="folder to write; must not exist yet")
    parser.add_argument("--mapping", type=Path, metavar="FILE", help="YAML that says what is what in the file")
    parser.add_argument("--list", action="store_true", help="only show what the file has, and under which paths")
    parser.add_argument(
        "--rois",
        metavar="WHICH",
        help="accepted (default): the regions that the lab has accepted, where the file says which; all; or a column "
        "of their table that is true for those to import",
    )
    add_json(parser)


def import_recording(args: argparse.Namespace) -> int:
    """List an NWB file, or make a session folder of it."""
    from omnimouse.recordings.nwb import import_nwb, nwb_entries

    if args.list:
        entries = nwb_entries(args.file)
        if args.json:
            print_json([asdict(entry) for entry in entries])
        else:
            for entry in entries:
                rate = f", {entry.rate:.4g} Hz" if entry.rate else ""
                shape = " x ".join(map(str, entry.shape))
                print(f"{entry.role:10} {entry.path}  ({entry.kind}: {shape}{rate}, {entry.detail or 'no unit'})")
            if not entries:
                print("nothing that a recording can be made of: no time series with numbers, and no table of trials")
        return 0
    if args.folder is None:
        raise ValueError("no folder to write: name one behind the file, or use --list to see what the file has")
    recording = import_nwb(
        args.file,
        args.folder,
        mapping=args.mapping,
        rois=args.rois,
        progress=True,
        report=lambda line: print(line, file=sys.stderr),
    )
    if args.json:
        content = {"folder": str(args.folder), "session_key": recording.session_key, "n_neurons": recording.n_neurons}
        print_json(content)
    else:
        print(f"Wrote {args.folder}; look at it with: {hint('check', args.folder)}")
    return 0
