"""Trials of recordings over arrays: rows or a table, in seconds on the clock of the responses; or blocks of a split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.clock import frame_indices
from omnimouse.recordings.data.plausible import adjoining, doubt_about_trials, identity
from omnimouse.recordings.data.reading import Findings
from omnimouse.recordings.data.screen import Trial
from omnimouse.recordings.formats.arrays.clocks import tier_blocks
from omnimouse.recordings.formats.arrays.likes import as_vector, columns_of

DEFAULT_SPLIT = {"train": 0.8, "validation": 0.1, "final_test": 0.1}
"""Shares of the recording's time."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "start": ("start", "start_time", "t_start", "onset", "begin", "start_s", "start_sec"),
    "end": ("end", "end_time", "stop", "stop_time", "t_end", "t_stop", "offset", "end_s", "end_sec"),
    "duration": ("duration", "length"),
    "tier": ("tier", "split", "set"),
    "condition": ("condition", "condition_hash", "condition_id", "stimulus_id", "stimulus", "stim_id", "image_id"),
}
"""What columns of a table of trials are called, the better names first."""

TrialTime = tuple[float, float, str, str | None]


def choose_trials(
    trials: Any,
    split: Mapping[str, float] | None,
    block_seconds: float,
    *,
    bounds: tuple[float, float],
    rate: float,
    where: Path,
    findings: Findings,
) -> list[TrialTime]:
    """(start, end, tier, condition) of each trial in order of time; see `recording_from_arrays`.

    Args:
        trials: rows or a table of them, None for blocks.
        split, block_seconds: of the blocks.
        bounds: first and last second of the responses.
        rate: Hz of the responses, in which trials may have been counted.
        where: what findings name.
        findings: trials that leave the recording, or end early in it, go here.

    Raises:
        ValueError: no trials, or such that cannot be meant.
    """
    if trials is None:
        return tier_blocks(*bounds, DEFAULT_SPLIT if split is None else split, block_seconds)
    if split is not None:
        raise ValueError("trials and split exclude each other: trials say which time belongs to which tier.")
    table = columns_of(trials)
    rows = _rows(trials) if table is None else _rows_of_table(table)
    chosen = [_trial(number, row) for number, row in enumerate(rows)]
    if not chosen:
        raise ValueError("trials is empty; pass at least one, or leave it out for a split into blocks.")
    chosen.sort(key=lambda trial: trial[0])
    starts = np.array([trial[0] for trial in chosen])
    ends = adjoining(starts, np.array([trial[1] for trial in chosen]))
    _check_clock(starts, ends, bounds, rate, where, findings)
    if (ends[:-1] > starts[1:]).any():
        at = int(np.argmax(ends[:-1] > starts[1:]))
        raise ValueError(f"trials: one from {starts[at + 1]} s begins before the one from {starts[at]} s ends.")
    return [(start, float(end), tier, shown) for (start, _, tier, shown), end in zip(chosen, ends, strict=True)]


def _check_clock(
    starts: np.ndarray, ends: np.ndarray, bounds: tuple[float, float], rate: float, where: Path, findings: Findings
) -> None:
    doubt = doubt_about_trials(starts, ends, start=bounds[0], end=bounds[1], rate=rate)
    if doubt is not None and doubt[1]:
        raise ValueError(f"trials: {doubt[0]}")
    if doubt is not None:
        findings.warning(where / "trials", "times", **doubt[0]._asdict())
    used = (float(ends.max()) - bounds[0]) / (bounds[1] - bounds[0])
    if used < 0.1:
        findings.warning(
            where / "trials",
            "times",
            expected=f"trials over all of the recording, {bounds[0]:.6g} to {bounds[1]:.6g} s",
            found=f"the last one ends at {float(ends.max()):.6g} s",
            do="If they are in minutes or another unit, convert them to seconds.",
        )


def _rows(trials: Any) -> list[Any]:
    if isinstance(trials, (str, bytes)) or not isinstance(trials, Iterable):
        raise ValueError(
            f"trials: {type(trials).__name__}, expected rows of (start, end, tier) or (start, end, tier, condition), "
            "or a table with such columns, as pandas.read_csv(path) makes of a file."
        )
    rows = list(trials)
    tables = [columns_of(row) if isinstance(row, Mapping) else None for row in rows]
    if rows and all(table is not None for table in tables):
        names = dict.fromkeys(name for row in rows for name in row)
        return _rows_of_table({str(name): [row.get(name) for row in rows] for name in names})
    return rows


def _rows_of_table(table: Mapping[str, Any]) -> list[Sequence[Any]]:
    """Rows of (start, end, tier, condition) of a table whose columns go by name."""
    plain = {name.strip().lower().replace(" ", "_"): name for name in table}
    found = {what: next((plain[name] for name in names if name in plain), None) for what, names in COLUMNS.items()}
    lacking = [what for what in ("start", "tier") if found[what] is None]
    if found["end"] is None and found["duration"] is None:
        lacking.insert(len(lacking[:1]), "end")
    if lacking:
        accepted = "; ".join(f"{what}: {', '.join(COLUMNS[what])}" for what in lacking)
        raise ValueError(
            f"trials: no column of {', '.join(lacking)} among {', '.join(table) or 'none'}. Rename them ({accepted}); "
            "starts and ends are seconds, tiers are names such as 'train' and 'final_test'."
        )
    values = {
        what: _column(table[name], f"trials: column {name!r}") for what, name in found.items() if name is not None
    }
    ends = values.get("end")
    if ends is None:
        ends = [_sum(start, length) for start, length in zip(values["start"], values["duration"], strict=True)]
    n = len(values["start"])
    conditions = values.get("condition", [None] * n)
    if not all(len(column) == n for column in (ends, values["tier"], conditions)):
        raise ValueError(f"trials: columns of {', '.join(map(str, table))} have different lengths.")
    return list(zip(values["start"], ends, values["tier"], conditions, strict=True))


def _column(values: Any, name: str) -> list[Any]:
    column = as_vector(values, name)
    if column.dtype.kind in "mM":
        raise ValueError(
            f"{name}: dtype {column.dtype}, expected seconds as numbers (value / numpy.timedelta64(1, 's'))."
        )
    return list(column.reshape(-1)) if column.dtype == object else column.reshape(-1).tolist()


def _sum(start: Any, length: Any) -> Any:
    return start + length if _is_number(start) and _is_number(length) else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _trial(number: int, row: Any) -> TrialTime:
    given = tuple(row) if isinstance(row, Iterable) and not isinstance(row, (str, bytes)) else ()
    if len(given) not in (3, 4) or not all(_is_number(edge) for edge in given[:2]):
        raise ValueError(
            f"trials[{number}]: {row!r}, expected (start, end, tier) or (start, end, tier, condition), in seconds."
        )
    start, end, tier = float(given[0]), float(given[1]), None if _is_number(given[2]) else identity(given[2])
    if not (np.isfinite([start, end]).all() and end > start):
        raise ValueError(f"trials[{number}]: from {start} to {end} s, expected an end after the start.")
    if tier is None:
        raise ValueError(
            f"trials[{number}]: {given[2]!r} is no tier; name one, such as 'train', or leave the trial out: time in no "
            "trial is not used."
        )
    return start, end, tier, None if len(given) == 3 else identity(given[3])


def as_trials(chosen: Sequence[TrialTime], timestamps: np.ndarray) -> list[Trial]:
    """Trials of a screen whose frames were displayed at `timestamps`, seconds `[F]`."""
    starts, ends = np.array([trial[:2] for trial in chosen]).T
    firsts = np.maximum(frame_indices(starts, timestamps), 0)
    edges = np.stack([firsts, np.searchsorted(timestamps, ends)], axis=1)
    return [
        Trial(
            index=number,
            modality="video",
            tier=tier,
            first_frame=int(first),
            n_frames=int(max(1, last - first)),
            start=start,
            end=end,
            condition_hash=condition,
            name=f"{number:05d}",
        )
        for number, ((start, end, tier, condition), (first, last)) in enumerate(zip(chosen, edges, strict=True))
    ]
