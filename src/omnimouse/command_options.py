"""What commands of several modules have in common."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else on standard output")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`, and `--cpu`, which is older and the same as `--device cpu`."""
    parser.add_argument(
        "--device", metavar="NAME", help="where to compute: cpu, cuda, cuda:1, mps; a GPU if there is one by default"
    )
    parser.add_argument("--cpu", action="store_true", help="the same as --device cpu")


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    print(json.dumps(value, indent=2, allow_nan=False))
