"""Which neuron each column of an NWB file's responses is: axes, ids, and which regions the lab has accepted.

Shape letters: T samples, N neurons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from omnimouse.recordings.nwb.nwb_file import child, is_dataset, neurodata_type, path_of, referred, walk
from omnimouse.recordings.nwb.series import Series
from omnimouse.recordings.nwb.tables import decoded

YES = (
    "iscell", "is_cell", "accepted", "accept", "valid", "valid_roi", "roi_valid", "is_valid", "good", "is_good", "keep",
    "is_neuron", "selected", "include", "included", "qc_pass", "passed_qc",
)  # fmt: skip
"""Columns of a table of regions that are true for those that are neurons."""

NO = (
    "rejected", "reject", "is_rejected", "bad", "is_bad", "excluded", "exclude", "invalid", "artifact", "is_artifact",
    "noise", "is_noise", "discarded", "not_cell",
)  # fmt: skip
"""Columns that are true for those that are none."""

VERDICTS = ("quality", "label", "status", "classification", "class", "curation", "verdict", "decision", "cell_class")
"""Columns of words."""

_YES_WORDS = ("accepted", "accept", "good", "cell", "neuron", "soma", "valid", "keep", "kept", "ok", "yes", "true")
_NO_WORDS = (
    "rejected", "reject", "bad", "not cell", "not a cell", "notcell", "no cell", "noncell", "non-cell", "noise",
    "artifact", "artefact", "invalid", "excluded", "exclude", "discard", "discarded", "no", "false", "unsure",
    "undecided", "dendrite",
)  # fmt: skip
_WORDS: dict[Any, bool] = {**dict.fromkeys(_YES_WORDS, True), **dict.fromkeys(_NO_WORDS, False)}
_NUMBERS: dict[Any, bool] = {0: False, 1: True, "0": False, "1": True}

ACCEPTED, ALL = "accepted", "all"


@dataclass(frozen=True)
class Rois:
    """The regions that the columns of a response series are."""

    n: int | None = None  # how many the file names, None where it names none
    source: str = ""  # what names them
    ids: np.ndarray | None = None  # `[n]` identities
    table: Any = None  # None where the file does not say which it is
    rows: np.ndarray | None = None  # `[n]` of the table


@dataclass(frozen=True)
class Choice:
    """Which columns are imported."""

    columns: np.ndarray | None = None  # their numbers, None for all
    line: str = ""  # what is said about it
    doubts: tuple[tuple[str, str, str], ...] = ()  # what of it, what was found, what to do


def read_rois(file: Any, series: Series) -> Rois:
    """Which regions the columns of a series are; references to rows that no table has are refused."""
    for name in ("rois", "electrodes"):
        region = child(series.group, name)
        if is_dataset(region) and region.shape is not None and len(region.shape) == 1 and region.dtype.kind in "iu":
            return _of_region(region)
    planes = [group for group in walk(file)[0].values() if neurodata_type(group) == "PlaneSegmentation"]
    ids: Any = child(planes[0], "id") if len(planes) == 1 else None
    return Rois(len(ids), path_of(planes[0])) if is_dataset(ids) and ids.shape else Rois()


def _of_region(region: Any) -> Rois:
    rows = np.asarray(region[()]).astype(np.int64)
    reference = region.attrs.get("table")
    if reference is None:
        return Rois(len(rows), path_of(region), rows)
    table = referred(region, reference, "table")
    stored = child(table, "id")
    if not is_dataset(stored) or not stored.shape:
        raise ValueError(f"{path_of(table)}: a table of regions without ids. Correct the file.")
    if len(rows) and (rows.min() < 0 or rows.max() >= len(stored)):
        raise ValueError(
            f"{path_of(region)}: it points to rows {rows.min()} to {rows.max()} of {path_of(table)}, which has "
            f"{len(stored)}. Correct the file."
        )
    return Rois(len(rows), path_of(region), np.asarray(stored[()])[rows], table, rows)


def choose(rois: Rois, wanted: str) -> Choice:
    """Which of the regions to import: "accepted", "all", or those for which a column of their table is true.

    Raises:
        ValueError: none is left, or there is no such column.
    """
    named = wanted not in (ACCEPTED, ALL)
    if rois.table is None or rois.rows is None:
        if not named:
            return Choice()
        raise ValueError(f"`rois: {wanted}`: the responses name no table of regions. Leave it out, or write `all`.")
    table = path_of(rois.table)
    names = [wanted] if named else [name for name in rois.table if _in_one_style(name) in (*YES, *NO, *VERDICTS)]
    verdicts: dict[str, np.ndarray] = {}
    doubts: list[tuple[str, str, str]] = []
    for name in names:
        item = child(rois.table, name)
        if item is None and named:
            have = ", ".join(name for name in rois.table if name != "id")
            raise ValueError(f"`rois: {wanted}`: {table} has no such column; it has {have}.")
        verdict, odd = _verdict(item, _in_one_style(name), len(rois.table["id"]), named)
        if odd:
            do = "Say which to import in a mapping: `rois: all`, or a column by its name."
            doubts.append((path_of(item), odd, do))
        if verdict is not None:
            verdicts[name] = verdict[rois.rows]
    if not verdicts:
        if named:
            raise ValueError(f"`rois: {wanted}`: {doubts[0][1] if doubts else 'no column of true and false'}.")
        return Choice(None, _unknown(rois.table), tuple(doubts))
    accepted = np.logical_and.reduce(list(verdicts.values()))
    n, n_kept, by = len(accepted), int(accepted.sum()), ", ".join(verdicts)
    if n_kept == n:
        return Choice(None, f"all {n}, as {by} accepts them", tuple(doubts))
    rejected = f"{n - n_kept} of {n} regions are rejected by the lab ({by})"
    if wanted == ALL:
        doubts.append((table, rejected, "They are imported as neurons, as asked for by `rois: all`."))
        return Choice(None, f"all {n}; {rejected}", tuple(doubts))
    if not n_kept:
        raise ValueError(f"{table}: {rejected}, so none is left. Import them with `rois: all`.")
    line = f"{n_kept} of {n}, those accepted ({by}); `rois: all` in a mapping, or --rois all, takes the others too"
    return Choice(np.flatnonzero(accepted), line, tuple(doubts))


def _unknown(table: Any) -> str:
    """A line about columns of true and false of which only the lab knows whether they reject."""
    items = {name: child(table, name) for name in table}
    flags = [
        f"{name} (true for {np.count_nonzero(item[()])} of {item.size})"
        for name, item in items.items()
        if is_dataset(item) and item.shape and item.dtype.kind == "b"
    ]
    if not flags:
        return ""
    return f"all; its table has {', '.join(flags)}: to import those where one is true, write it as `rois` in a mapping"


def _in_one_style(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _verdict(item: Any, name: str, n: int, named: bool) -> tuple[np.ndarray | None, str]:
    """Which rows a column accepts `[n]`, None where it says nothing of the kind; and what is odd about it."""
    by_name = named or name in (*YES, *NO)  # else it is a column of words, which may be about anything
    n_axes = len(item.shape or ()) if is_dataset(item) else 0
    if n_axes not in (1, 2) or item.shape[0] != n or item.dtype.kind not in ("fiubSO" if n_axes == 1 else "fiub"):
        return None, f"{name} has not one value a region" if by_name else ""
    if n_axes == 2:  # Suite2p's iscell: whether it is one, and how probably
        meant = [None if np.isnan(value) else value for value in item[:, 0].tolist()]
    else:
        meant = [value.strip().lower() if isinstance(value, str) else value for value in decoded(item)]
    known = [value for value in meant if value is not None]
    truth = {**_WORDS, **_NUMBERS} if by_name else _WORDS
    if not known or not all(value in truth for value in known):
        odd = f"{name} holds other values than yes and no, such as {next((v for v in known if v not in truth), 'none')}"
        return None, odd if by_name or any(value in _WORDS for value in known) else ""
    lost = n - len(known)
    odd = f"{name} has no value for {lost} of {n} regions, which count as rejected" if lost else ""
    return np.array([value is not None and truth[value] != (name in NO) for value in meant]), odd
