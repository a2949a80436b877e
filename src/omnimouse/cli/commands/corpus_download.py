"""The command `download`: recordings of the authors' corpus, from the Hub."""

from __future__ import annotations

import sys
from typing import Any

from omnimouse.cli.commands.corpus_list import asked_for
from omnimouse.cli.output import Said
from omnimouse.cli.recording_options import Download
from omnimouse.cli.starting import EXIT_ERROR
from omnimouse.corpus.download_plan import DownloadPlan, plan_download, size_text
from omnimouse.corpus.downloading import DownloadResult, carry_out


def download_command(command: Download) -> Said:
    """Download sessions of the corpus; status 2 when any failed."""
    what = asked_for(command)
    if not what and command.count is None:
        raise ValueError("no sessions are asked for: name keys, globs ('*' for all), --collection or --count")
    plan = plan_download(
        what or "*", command.folder, **command.take("count", "repo", "revision", "workers", "keep_tars")
    )
    if command.dry_run:
        lines = [f"{session.name}  {size_text(session.n_bytes)}" for session in plan.sessions]
        return Said(_data(plan), "\n".join([*lines, *_lines(plan)]))
    print("\n".join(_lines(plan)), file=sys.stderr)
    result = carry_out(plan)
    lines = [f"Wrote {path}" for path in result.downloaded]
    lines.append(
        f"{len(result.downloaded)} sessions downloaded, {len(result.present)} were there already, "
        f"{len(result.failed)} failed"
    )
    for name, why in result.failed.items():
        print(f"omnimouse: error: {name}: {why}", file=sys.stderr)
    return Said(_data(result), "\n".join(lines), EXIT_ERROR if result.failed else 0)


def _data(what: DownloadPlan | DownloadResult) -> dict[str, Any]:
    found = {name.removeprefix("n_"): value for name, value in vars(what).items()}
    if isinstance(what, DownloadPlan):
        found["sessions"] = [{"name": s.name, "key": s.key, "bytes": s.n_bytes} for s in what.sessions]
        del found["workers"], found["keep_tars"]
    return found


def _lines(plan: DownloadPlan) -> list[str]:
    here = f", of which {size_text(plan.fetched_bytes)} are here from before" if plan.fetched_bytes else ""
    lines = [
        f"{plan.repo}: {len(plan.sessions)} sessions, {size_text(plan.n_bytes)} to download into {plan.folder}{here}; "
        f"{len(plan.present)} are there already.",
        f"Needs {size_text(plan.needed_bytes)} of free space; {size_text(plan.free_bytes)} are free.",
        *(f"Cannot be made: {why}" for why in plan.blocked.values()),
    ]
    return [*lines, f"Not in the dataset: {', '.join(plan.missing)}"] if plan.missing else lines
