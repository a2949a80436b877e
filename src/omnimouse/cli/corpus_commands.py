"""The commands of the shell about the authors' corpus: `list` and `download`, with their options."""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnimouse.cli.options import EXIT_ERROR, add_json, print_json
from omnimouse.corpus.manifest import (
    CORPUS_REPO,
    CorpusSession,
    choose_sessions,
    collection,
    collection_names,
    corpus_sessions,
    filter_sessions,
)

if TYPE_CHECKING:
    from omnimouse.corpus.download_plan import DownloadPlan

_COLLECTIONS = textwrap.fill(f"collections: {', '.join(collection_names())}", 100, break_on_hyphens=False)

LIST_EXAMPLES = f"""\
examples:
  omnimouse list                                              all 333 sessions, and totals
  omnimouse list '17797-*' 31002-7-6                          keys and globs of keys
  omnimouse list scaling_laws_32 --min-neurons 8000           a collection, or --collection scaling_laws_32
  omnimouse list --animal 31002 --modality image --json       modalities: blank, image, video, invalid

{_COLLECTIONS}

Nothing is fetched: the manifest comes with the package."""

DOWNLOAD_EXAMPLES = """\
examples:
  omnimouse download 17797-4-7 --output data/                 one session
  omnimouse download '17797-*' --output data/ --dry-run       how large would that be?
  omnimouse download --collection scaling_laws_8 --output data/
  omnimouse download --count 3 --output data/                 the first three of all

The dataset is gated: accept its terms on its page once, then `hf auth login`. A download that was interrupted goes on
when the same command is given again; session folders that are there already are left as they are. The exit status is 2
when any session failed."""


def add_list(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `omnimouse list`."""
    _add_what(parser)
    parser.add_argument("--animal", dest="animals", action="append", default=[], metavar="ID",
                        help="sessions of this animal (may be given several times)")  # fmt: skip
    parser.add_argument("--min-neurons", type=int, metavar="N", help="sessions of at least so many neurons")
    parser.add_argument("--max-neurons", type=int, metavar="N", help="sessions of at most so many neurons")
    parser.add_argument("--modality", dest="modalities", action="append", default=[], metavar="NAME",
                        help="sessions in which this was shown (given several times: all of them)")  # fmt: skip
    add_json(parser)


def add_download(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `omnimouse download`."""
    _add_what(parser)
    parser.add_argument("--count", type=int, metavar="N", help="the first so many of them (default: all)")
    parser.add_argument("--output", dest="folder", type=Path, required=True, metavar="FOLDER",
                        help="folder for the session folders")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only say what would be downloaded, and how large it is")
    parser.add_argument("--workers", type=int, metavar="N", default=4, help="sessions at the same time")
    parser.add_argument("--keep-tars", action="store_true", help="keep the tar files, beside the session folders")
    parser.add_argument("--repo", metavar="REPO", default=CORPUS_REPO, help="dataset on the Hub")
    parser.add_argument("--revision", metavar="NAME", help="its branch, tag or commit (default: main)")
    add_json(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="*", metavar="WHAT", help="sessions: keys, globs of keys, names of collections")
    parser.add_argument("--collection", dest="collections", action="append", default=[], metavar="NAME",
                        help="sessions of this collection (may be given several times)")  # fmt: skip


def list_sessions(args: argparse.Namespace) -> int:
    """List sessions of the corpus, and what they add up to."""
    by_key = {session.key: session for session in corpus_sessions()}
    keys, missing = choose_sessions(_what(args) or "*", by_key, "The corpus")
    sessions = filter_sessions(
        (by_key[key] for key in keys), animals=args.animals, min_neurons=args.min_neurons,
        max_neurons=args.max_neurons, modalities=args.modalities,
    )  # fmt: skip
    totals = {
        "sessions": len(sessions),
        "animals": len({session.animal_id for session in sessions}),
        "neurons": sum(session.n_neurons for session in sessions),
        "hours": round(sum(session.duration_s for session in sessions) / 3600, 3),
    }
    if args.json:
        print_json({"sessions": [asdict(s) for s in sessions], "totals": totals, "not_in_manifest": missing})
        return 0
    if sessions:
        print(f"{'session':13} {'animal':>8} {'neurons':>8} {'minutes':>8} {'scan Hz':>8}  shown")
    for session in sessions:
        print(_row(session))
    print(f"{totals['sessions']} sessions of {totals['animals']} animals, {totals['neurons']:,} neurons in all, "
          f"{totals['hours']:.1f} hours")  # fmt: skip
    if missing:
        print(f"Not in the manifest, so nothing is known of them: {', '.join(missing)}")
    return 0


def download(args: argparse.Namespace) -> int:
    """Download sessions of the corpus; status 2 when any failed."""
    from omnimouse.corpus.download_plan import plan_download
    from omnimouse.corpus.downloading import carry_out

    what: str | list[str] = _what(args)
    if not what:
        if args.count is None:
            raise ValueError("no sessions are asked for: name keys, globs ('*' for all), --collection or --count")
        what = "*"
    plan = plan_download(
        what, args.folder, count=args.count, repo=args.repo, revision=args.revision, workers=args.workers,
        keep_tars=args.keep_tars,
    )  # fmt: skip
    if args.dry_run:
        print_json(_plan_json(plan)) if args.json else print(_plan_text(plan, each=True))
        return 0
    print(_plan_text(plan), file=sys.stderr)
    result = carry_out(plan)
    if args.json:
        print_json(
            {
                "repo": result.repo,
                "commit": result.commit,
                "downloaded": [str(path) for path in result.downloaded],
                "present": [str(path) for path in result.present],
                "failed": dict(result.failed),
                "missing": list(result.missing),
                "bytes": result.n_bytes,
            }
        )
    else:
        for path in result.downloaded:
            print(f"Wrote {path}")
        print(f"{len(result.downloaded)} sessions downloaded, {len(result.present)} were there already, "
              f"{len(result.failed)} failed")  # fmt: skip
    for name, why in result.failed.items():
        print(f"omnimouse: error: {name}: {why}", file=sys.stderr)
    return EXIT_ERROR if result.failed else 0


def _what(args: argparse.Namespace) -> list[str]:
    for name in args.collections:
        collection(name)  # a key is none
    return [*args.what, *args.collections]


def _row(session: CorpusSession) -> str:
    shown = ", ".join(name.lower() for name in session.modalities)
    minutes = f"{session.duration_s / 60:8.1f}"
    return f"{session.key:13} {session.animal_id:>8} {session.n_neurons:8,} {minutes} {session.scan_rate_hz:8}  {shown}"


def _plan_text(plan: DownloadPlan, *, each: bool = False) -> str:
    from omnimouse.corpus.download_plan import size_text

    lines = [f"{session.name}  {size_text(session.n_bytes)}" for session in plan.sessions] if each else []
    here = f", of which {size_text(plan.fetched_bytes)} are here from before" if plan.fetched_bytes else ""
    lines.append(
        f"{plan.repo}: {len(plan.sessions)} sessions, {size_text(plan.n_bytes)} to download into {plan.folder}{here}; "
        f"{len(plan.present)} are there already."
    )
    lines.append(f"Needs {size_text(plan.needed_bytes)} of free space; {size_text(plan.free_bytes)} are free.")
    lines += [f"Cannot be made: {why}" for why in plan.blocked.values()]
    if plan.missing:
        lines.append(f"Not in the dataset: {', '.join(plan.missing)}")
    return "\n".join(lines)


def _plan_json(plan: DownloadPlan) -> dict[str, Any]:
    return {
        "repo": plan.repo,
        "commit": plan.commit,
        "folder": str(plan.folder),
        "sessions": [{"name": s.name, "key": s.key, "bytes": s.n_bytes} for s in plan.sessions],
        "present": [str(path) for path in plan.present],
        "blocked": dict(plan.blocked),
        "missing": list(plan.missing),
        "bytes": plan.n_bytes,
        "fetched_bytes": plan.fetched_bytes,
        "needed_bytes": plan.needed_bytes,
        "free_bytes": plan.free_bytes,
    }
