"""Trials of an NWB file: a table of time intervals, with tiers and with what is shown again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.findings import Findings, Kind
from omnimouse.recordings.data.plausible import adjoining, identity
from omnimouse.recordings.formats.arrays.trials import TrialTime
from omnimouse.recordings.nwb.tables import Table, read_table, tables
from omnimouse.recordings.nwb_mapping import AUTO, NONE, NwbMapping

TIERS = ("tier", "split")
CONDITIONS = ("condition_hash", "condition", "condition_id", "stimulus_id", "stim_id", "image_id", "clip_id")
"""Columns that are looked for, the better ones first."""

# fmt: off
UNTIMED = Kind("warning", "{path}", "a start and a stop time of every trial",
               "They are left out; nothing is trained or scored on their time.")
LISTS = Kind("warning", "{path}", "one value a trial, which says which trials show the same",
             "It is not used, so every trial counts as a stimulus of its own; name another as `condition`.")
# fmt: on


def read_trials(file: Any, mapping: NwbMapping, where: Path, found: Findings) -> tuple[list[TrialTime] | None, str]:
    """Trials as (start, end, tier, condition) in seconds, None for a split into blocks; and the path of their table.

    What the mapping leaves open is looked for. What is noteworthy about single trials is found, under `where`.

    Raises:
        ValueError: what the mapping names is not there, or tiers are numbers whose meaning nobody says.
    """
    if mapping.trials == NONE:
        return None, ""
    path = "intervals/trials" if mapping.trials == AUTO else mapping.trials.strip("/")
    all_tables = tables(file)
    optional = mapping.trials == AUTO and mapping.tiers is None and mapping.condition is None
    if path not in all_tables:
        if optional:
            return None, ""
        have = ", ".join(all_tables) or "none"
        raise ValueError(f"no table of trials at {path!r}; the file has: {have}. Correct `trials` in the mapping.")
    table = read_table(all_tables[path])
    table.path = path
    column = mapping.tiers.column if mapping.tiers else table.first(TIERS)
    if column is None:
        if optional:
            return None, ""
        have = ", ".join(table.columns)
        raise ValueError(f"{path}: no column of tiers among {have}; name one as `tiers: {{column: ...}}`.")
    tiers, conditions = _tiers(table, column, mapping), _conditions(table, mapping, where, found)
    spans = list(zip(table.columns["start_time"], table.columns["stop_time"], tiers, conditions, strict=True))
    named = [(start, end, tier, shared) for start, end, tier, shared in spans if tier is not None]
    timed = [
        (float(start), float(end), tier, shared)
        for start, end, tier, shared in named
        if start is not None and end is not None
    ]
    if len(timed) < len(named):
        found.append(UNTIMED(where, f"{len(named) - len(timed)} of {len(named)} trials without one of them", path=path))
    if not timed:
        raise ValueError(f"{path}: none of its {len(spans)} trials has times and a tier in column {column!r}.")
    timed.sort(key=lambda trial: trial[:2])
    starts, ends = np.array([trial[:2] for trial in timed]).T
    adjoined = zip(timed, adjoining(starts, ends).tolist(), strict=True)
    return [(start, end, tier, shared) for (start, _, tier, shared), end in adjoined], path


def _tiers(table: Table, column: str, mapping: NwbMapping) -> list[str | None]:
    """The tier of every trial, None where it is in none."""
    stored = table.column(column)
    values = mapping.tiers.values if mapping.tiers is not None else None
    if values is None:
        numbers = [value for value in stored if value is not None and not isinstance(value, str)]
        if numbers:
            listed = ", ".join(dict.fromkeys(_text(value) for value in numbers[:20]))
            raise ValueError(
                f"{table.path}: column {column!r} has numbers ({listed}), expected names of tiers. Say in a mapping "
                f"what they mean, as `tiers: {{column: {column}, values: {{train: [{_text(numbers[0])}], final_test: "
                "[...]}}`, or go without: `trials: none`."
            )
        return stored
    tiers = {_text(value): tier for tier, meant in values.items() for value in meant}
    shown = [None if value is None else _text(value) for value in stored]
    if not set(shown) & tiers.keys():
        have = ", ".join(dict.fromkeys(value for value in shown if value is not None)) or "no values"
        raise ValueError(f"{table.path}: no trial has one of the tiers' values; column {column!r} has {have}.")
    return [None if value is None else tiers.get(value) for value in shown]


def _text(value: object) -> str:
    """A value as text, numbers alike whether they are stored as integers or not."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _conditions(table: Table, mapping: NwbMapping, where: Path, found: Findings) -> list[str | None]:
    """What each trial shows, None where that is not known."""
    name = table.first(CONDITIONS) if mapping.condition is None else mapping.condition
    if mapping.condition is None and name in table.unread:
        found.append(LISTS(where, f"a column that {table.unread[name]}", path=f"{table.path}/{name}"))
        name = None
    return [None] * len(table.columns["start_time"]) if name is None else list(map(identity, table.column(name)))
