"""Trials of recordings over arrays: rows or a table, in seconds on the clock of the responses; or blocks of a split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.clock import frame_indices
from omnimouse.recordings.data.findings import Findings, Kind
from omnimouse.recordings.data.plausible import adjoining, doubt_about_trials, identity, is_real
from omnimouse.recordings.data.screen import Trial
from omnimouse.recordings.formats.arrays.likes import as_vector, columns_of

DEFAULT_SPLIT = {"train": 0.8, "validation": 0.1, "final_test": 0.1}
"""Shares of the recording's time."""

SHORTEST_BLOCK = 2.0
"""Seconds; a window would not fit into a shorter one."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "start": ("start", "start_time", "t_start", "onset", "begin", "start_s", "start_sec"),
    "end": ("end", "end_time", "stop", "stop_time", "t_end", "t_stop", "offset", "end_s", "end_sec"),
    "duration": ("duration", "length"),
    "tier": ("tier", "split", "set"),
    "condition": ("condition", "condition_hash", "condition_id", "stimulus_id", "stimulus", "stim_id", "image_id"),
}
"""What columns of a table of trials are called, the better names first."""

EARLY = Kind(
    "warning", "times", "trials over all of the recording, {start:.6g} to {end:.6g} s",
    "If they are in minutes or another unit, convert them to seconds.",
)  # fmt: skip

TrialTime = tuple[float, float, str, str | None]


@dataclass(frozen=True)
class Tiers:
    """Trials, or the blocks of a split where there are none, as `recording_from_arrays` takes them."""

    trials: Any
    split: Mapping[str, float] | None
    block_seconds: float

    def trial_times(self, bounds: tuple[float, float], rate: float, where: Path, findings: Findings) -> list[TrialTime]:
        """(start, end, tier, condition) of each trial in order of time; what cannot be meant is refused.

        Responses have `bounds` in seconds and a rate in Hz, in which trials may have been counted. Trials that leave
        the recording, or end early in it, are findings.
        """
        if self.trials is None:
            return tier_blocks(*bounds, DEFAULT_SPLIT if self.split is None else self.split, self.block_seconds)
        if self.split is not None:
            raise ValueError("trials and split exclude each other: trials say which time belongs to which tier.")
        chosen = sorted((_trial(*row) for row in enumerate(_rows(self.trials))), key=lambda trial: trial[0])
        if not chosen:
            raise ValueError("trials is empty; pass at least one, or leave it out for a split into blocks.")
        starts = np.array([trial[0] for trial in chosen])
        ends = adjoining(starts, np.array([trial[1] for trial in chosen]))
        _check_trial_times(starts, ends, bounds, rate, where, findings)
        if (ends[:-1] > starts[1:]).any():
            at = int(np.argmax(ends[:-1] > starts[1:]))
            raise ValueError(f"trials: one from {starts[at + 1]} s begins before the one from {starts[at]} s ends.")
        return [(start, float(end), tier, shown) for (start, _, tier, shown), end in zip(chosen, ends, strict=True)]


def _check_trial_times(
    starts: np.ndarray, ends: np.ndarray, bounds: tuple[float, float], rate: float, where: Path, findings: Findings
) -> None:
    doubt = doubt_about_trials(starts, ends, start=bounds[0], end=bounds[1], rate=rate)
    if doubt is not None and doubt[1]:
        raise ValueError(f"trials: {doubt[0]}")
    if doubt is not None:
        findings.warning(where / "trials", "times", **doubt[0]._asdict())
    last = float(ends.max())
    if last - bounds[0] < 0.1 * (bounds[1] - bounds[0]):
        found = f"the last one ends at {last:.6g} s"
        findings.append(EARLY(where / "trials", found, start=bounds[0], end=bounds[1]))


def _rows(trials: Any) -> list[Any]:
    """Rows as given, or of a table, or of mappings that each are a row of one."""
    table = columns_of(trials)
    if table is not None:
        return _rows_of_table(table)
    if isinstance(trials, (str, bytes)) or not isinstance(trials, Iterable):
        raise ValueError(
            f"trials: {type(trials).__name__}, expected rows of (start, end, tier) or (start, end, tier, condition), "
            "or a table with such columns, as pandas.read_csv(path) makes of a file."
        )
    rows = list(trials)
    if rows and all(isinstance(row, Mapping) for row in rows):
        names = dict.fromkeys(name for row in rows for name in row)
        return _rows_of_table({str(name): [row.get(name) for row in rows] for name in names})
    return rows


def _rows_of_table(table: Mapping[str, Any]) -> list[Any]:
    """Rows of (start, end, tier, condition) of a table whose columns go by name."""
    plain = {name.strip().lower().replace(" ", "_"): name for name in table}
    found = {what: next((plain[name] for name in names if name in plain), None) for what, names in COLUMNS.items()}
    has_end = found["end"] is not None or found["duration"] is not None
    lacking = [what for what in ("start", "end", "tier") if not (has_end if what == "end" else found[what] is not None)]
    if lacking:
        accepted = "; ".join(f"{what}: {', '.join(COLUMNS[what])}" for what in lacking)
        raise ValueError(
            f"trials: no column of {', '.join(lacking)} among {', '.join(table) or 'none'}. Rename them ({accepted}); "
            "starts and ends are seconds, tiers are names such as 'train' and 'final_test'."
        )
    values = {
        what: _column(table[name], f"trials: column {name!r}") for what, name in found.items() if name is not None
    }
    if "end" not in values:
        pairs = zip(values["start"], values["duration"], strict=True)
        values["end"] = [a + b if is_real(a) and is_real(b) else None for a, b in pairs]
    values.setdefault("condition", [None] * len(values["start"]))
    columns = [values[what] for what in ("start", "end", "tier", "condition")]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"trials: columns of {', '.join(map(str, table))} have different lengths.")
    return list(zip(*columns, strict=True))


def _column(values: Any, name: str) -> list[Any]:
    column = as_vector(values, name).reshape(-1)
    if column.dtype.kind in "mM":
        raise ValueError(
            f"{name}: dtype {column.dtype}, expected seconds as numbers (value / numpy.timedelta64(1, 's'))."
        )
    return list(column) if column.dtype == object else column.tolist()


def _trial(number: int, row: Any) -> TrialTime:
    given = tuple(row) if isinstance(row, Iterable) and not isinstance(row, (str, bytes)) else ()
    if len(given) not in (3, 4) or not all(is_real(edge) for edge in given[:2]):
        raise ValueError(
            f"trials[{number}]: {row!r}, expected (start, end, tier) or (start, end, tier, condition), in seconds."
        )
    start, end, tier = float(given[0]), float(given[1]), None if is_real(given[2]) else identity(given[2])
    if not (np.isfinite([start, end]).all() and end > start):
        raise ValueError(f"trials[{number}]: from {start} to {end} s, expected an end after the start.")
    if tier is None:
        raise ValueError(
            f"trials[{number}]: {given[2]!r} is no tier; name one, such as 'train', or leave the trial out: time in no "
            "trial is not used."
        )
    return start, end, tier, None if len(given) == 3 else identity(given[3])


def tier_blocks(start: float, end: float, split: Mapping[str, float], block_seconds: float) -> list[TrialTime]:
    """Cuts time into blocks and deals them to tiers in turn, so that each has its share all along the recording."""
    try:
        shares = np.array([float(share) for share in split.values()])
    except (AttributeError, TypeError, ValueError):
        shares = np.zeros(0)
    if not len(shares) or not np.isfinite(shares).all() or (shares <= 0).any() or None in map(identity, split):
        raise ValueError(
            f"split: {split!r}, expected tiers with shares above 0, such as {{'train': 0.9, 'test': 0.1}}."
        )
    if not isinstance(block_seconds, (int, float, np.number)) or not block_seconds >= SHORTEST_BLOCK:
        raise ValueError(
            f"block_seconds: {block_seconds!r}, expected at least {SHORTEST_BLOCK:g} s, the length of a window."
        )
    n_blocks = max(len(shares), int(np.ceil((end - start) / min(block_seconds, (end - start) / 10))))
    edges = np.linspace(start, end, n_blocks + 1).tolist()
    names, dealt = list(split), np.zeros(len(shares))
    shares = shares / shares.sum()
    blocks: list[TrialTime] = []
    for number in range(n_blocks):
        # The tier that lags behind its share most; the first blocks go to the largest.
        tier = int(np.argmax(shares * (number + 1) - dealt))
        dealt[tier] += 1
        blocks.append((edges[number], edges[number + 1], names[tier], None))
    return blocks


def as_trials(chosen: Sequence[TrialTime], timestamps: np.ndarray) -> list[Trial]:
    """Trials of a screen whose frames were displayed at `timestamps`, seconds `[F]`."""
    starts, ends = np.array([trial[:2] for trial in chosen]).T
    firsts = np.maximum(frame_indices(starts, timestamps), 0).tolist()
    lasts = np.searchsorted(timestamps, ends).tolist()
    return [
        Trial(number, "video", tier, first, max(1, last - first), start, end, condition, name=f"{number:05d}")
        for number, ((start, end, tier, condition), first, last) in enumerate(zip(chosen, firsts, lasts, strict=True))
    ]
