"""The command `list`: sessions of the authors' corpus. It needs the manifest alone, and so answers at once."""

from __future__ import annotations

from dataclasses import asdict

from omnimouse.cli.output import Said
from omnimouse.cli.recording_options import List, OfCorpus
from omnimouse.corpus.manifest import CorpusSession, choose_sessions, collection, corpus_sessions, filter_sessions


def list_command(command: List) -> Said:
    """List sessions of the corpus, and what they add up to."""
    by_key = {session.key: session for session in corpus_sessions()}
    keys, missing = choose_sessions(asked_for(command) or "*", by_key, "The corpus")
    sessions = filter_sessions(
        (by_key[key] for key in keys), **command.take("animals", "min_neurons", "max_neurons", "modalities")
    )
    totals = {
        "sessions": len(sessions),
        "animals": len({session.animal_id for session in sessions}),
        "neurons": sum(session.n_neurons for session in sessions),
        "hours": round(sum(session.duration_s for session in sessions) / 3600, 3),
    }
    header = f"{'session':13} {'animal':>8} {'neurons':>8} {'minutes':>8} {'scan Hz':>8}  shown"
    lines = [header, *map(_row, sessions)] if sessions else []
    lines.append(
        f"{totals['sessions']} sessions of {totals['animals']} animals, {totals['neurons']:,} neurons in all, "
        f"{totals['hours']:.1f} hours"
    )
    if missing:
        lines.append(f"Not in the manifest, so nothing is known of them: {', '.join(missing)}")
    data = {"sessions": [asdict(session) for session in sessions], "totals": totals, "not_in_manifest": missing}
    return Said(data, "\n".join(lines))


def asked_for(command: OfCorpus) -> list[str]:
    """The keys, globs and collections of a command; a key is no collection."""
    for name in command.collections:
        collection(name)
    return [*command.what, *command.collections]


def _row(session: CorpusSession) -> str:
    shown = ", ".join(name.lower() for name in session.modalities)
    minutes = f"{session.duration_s / 60:8.1f}"
    return f"{session.key:13} {session.animal_id:>8} {session.n_neurons:8,} {minutes} {session.scan_rate_hz:8}  {shown}"
