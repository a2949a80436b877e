"""`python tests/loopback_hub --root FOLDER [--repo ID=FOLDER ...]`: a hub of its own, until it is killed."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

# Run as a folder this is no package, so its parent has to be found.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loopback_hub import LFS_THRESHOLD, MODES, LoopbackHub


def pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE")
    return name, value


def main() -> None:
    parser = argparse.ArgumentParser(prog="loopback_hub", description="A Hugging Face Hub on 127.0.0.1 for tests.")
    parser.add_argument("--root", type=Path, required=True, help="folder for everything it stores")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--mode", choices=MODES, default="lfs", help="how large files are sent")
    parser.add_argument("--threshold", type=int, default=LFS_THRESHOLD, help="bytes from which a file is large")
    parser.add_argument("--token", type=pair, action="append", metavar="TOKEN=USER", help="may write")
    parser.add_argument("--read-token", type=pair, action="append", metavar="TOKEN=USER", help="may only read")
    parser.add_argument("--member", type=pair, action="append", default=[], metavar="ORGANIZATION=USER")
    parser.add_argument("--repo", type=pair, action="append", default=[], metavar="ID=FOLDER", help="serve a model")
    parser.add_argument(
        "--dataset", type=pair, action="append", default=[], metavar="ID=FOLDER", help="serve a dataset"
    )
    given = parser.parse_args()
    organizations: dict[str, list[str]] = {}
    for organization, user in given.member:
        organizations.setdefault(organization, []).append(user)
    hub = LoopbackHub(
        given.root,
        mode=given.mode,
        threshold=given.threshold,
        port=given.port,
        tokens=dict(given.token) if given.token else None,
        read_tokens=dict(given.read_token) if given.read_token else None,
        organizations=organizations,
    )
    for repo_type, listed in (("model", given.repo), ("dataset", given.dataset)):
        for repo_id, folder in listed:
            hub.add_repo(repo_id, Path(folder), repo_type=repo_type)
    ended = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *received: ended.set())
    with hub:
        print(hub.url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
