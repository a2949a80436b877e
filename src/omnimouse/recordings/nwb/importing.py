"""NWB files (two-photon imaging) as session folders: what is what in a file, by name or by mapping, and importing it.

Shape letters: T samples, N neurons, F displayed frames, K stored frames.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.checks.check_times import END_SHARE, SCREEN_SHARE
from omnimouse.recordings.data.findings import Finding, Findings, Kind
from omnimouse.recordings.data.missing import as_missing
from omnimouse.recordings.data.plausible import doubt_about_range, doubt_about_start, doubt_about_trials
from omnimouse.recordings.from_arrays import recording_from_arrays
from omnimouse.recordings.nwb.nwb_file import neurodata_type, open_nwb
from omnimouse.recordings.nwb.nwb_identity import identity_of
from omnimouse.recordings.nwb.nwb_sources import NwbSources, find_sources
from omnimouse.recordings.nwb.nwb_video import read_frames
from omnimouse.recordings.nwb.rois import Rois, choose, read_rois
from omnimouse.recordings.nwb.series import CORRECT, Series, Turned, all_series
from omnimouse.recordings.nwb.tables import read_table, tables
from omnimouse.recordings.nwb.unpacked import unpack
from omnimouse.recordings.nwb_mapping import NwbMapping, as_mapping
from omnimouse.recordings.recording import Recording, save_recording
from omnimouse.support.files import expect_no_folder

# fmt: off
FILLS = Kind("info", "{path}", "NaN where there is no value", "They are read as missing: NaN.")
VERDICTS = Kind("warning", "{path}", "every region accepted or rejected", "{do}")
SAME_IDS = Kind("warning", "{path}", "a whole number for each neuron, all different",
                "The neurons go without ids; restore them if sessions are to be compared.")
UNSAID = Kind("warning", "{path}", "[samples, neurons], and regions or time stamps that say so",
              "It looks like [neurons, samples], imported as {n} neurons. {asked}")
OTHER_REGIONS = Kind("warning", "{path}", "{n}, one a column of {series}",
                     "Which region is which column is not known: neurons go without ids, and all are imported. "
                     + CORRECT)
# fmt: on


@dataclass(frozen=True)
class NwbEntry:
    """Something in an NWB file that a mapping can name."""

    path: str  # where it is
    role: str  # "responses", "video", "behavior" or "trials"
    kind: str  # its `neurodata_type`
    shape: tuple[int, ...]  # of its data; rows of a table
    rate: float | None  # Hz, None where it is not known
    detail: str  # unit of a series, columns of a table


def nwb_entries(file: str | os.PathLike[str]) -> list[NwbEntry]:
    """What an NWB file has that a recording can be made of; only headers are read.

    Raises:
        ValueError: no NWB 2 file, or a damaged one.
    """
    path = Path(file).expanduser()
    with open_nwb(path) as nwb, _naming(path):
        entries = [
            NwbEntry(series.path, series.role, neurodata_type(series.group), series.shape, series.rate, series.unit)
            for series in all_series(nwb)
        ]
        for name, group in tables(nwb).items():
            try:
                columns = ", ".join(read_table(group).columns)
            except ValueError as error:
                columns = f"cannot be read: {error}"
            entries.append(NwbEntry(name, "trials", neurodata_type(group), group["start_time"].shape, None, columns))
    order = ("responses", "behavior", "video", "trials")
    return sorted(entries, key=lambda entry: (order.index(entry.role), entry.path))


def import_nwb(
    file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    mapping: NwbMapping | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    rois: str | None = None,
    progress: bool = False,
    report: Callable[[str], None] | None = None,
) -> Recording:
    """Makes a session folder of an NWB file of two-photon imaging.

    Everything that is not mapped is found by name and type: deconvolved responses, running speed, pupil, gaze, and what
    was presented as stimulus. The file is read in pieces and never written to.

    Args:
        file: an NWB 2 file in HDF5.
        folder: where to save the session; must not exist, or be empty.
        mapping: what is what where the file does not say so: a YAML file, its content, or an `NwbMapping`.
        rois: which regions to import, as `NwbMapping.rois` says; None: what the mapping has, else those accepted.
        progress: whether to show a progress bar.
        report: takes lines that say what is used, before anything is written.

    Returns:
        The saved recording, opened.

    Raises:
        ImportError: h5py is not installed.
        ValueError: no readable NWB 2 file, several things that could be meant, or data that make no recording; the
            message says what to write into a mapping.
    """
    path, chosen = Path(file).expanduser(), as_mapping(mapping)
    if rois is not None:
        chosen = dataclasses.replace(chosen, rois=rois)
    target, found = Path(os.path.abspath(Path(folder).expanduser())), Findings()
    expect_no_folder(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_nwb(path) as nwb,
        tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", suffix=".partial", dir=target.parent, ignore_cleanup_errors=True
        ) as scratch,
    ):
        with _naming(path):
            sources = find_sources(nwb, chosen, Path(path.name), found)
            recording, lines, passing = _over_open_file(nwb, sources, chosen, path, Path(scratch), found)
        for finding in recording.findings:
            if finding.severity == "warning":
                found.append(dataclasses.replace(finding, path=finding.path.replace(str(recording.path), path.name)))
        if report is not None:
            for line in [*sources.lines(), *lines, *map(str, (*found, *passing))]:
                report(line)
        return save_recording(recording, target, progress=progress, notes=found)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors with the file's name in them; groups where arrays should be raise other types than ValueError."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _over_open_file(
    nwb: Any, sources: NwbSources, mapping: NwbMapping, path: Path, scratch: Path, found: Findings
) -> tuple[Recording, list[str], Findings]:
    """A recording over the open file and what was unpacked of it; and lines that say what it is of. NaN stay.

    Last come findings that checks of the saved folder come to by themselves.
    """
    where = Path(path.name)  # findings stay with the folder, which may travel
    key, animal, named = identity_of(nwb, path, mapping.session_key, mapping.animal_id)
    behavior = {channel: _channel_values(channel, series, where, found) for channel, series in sources.behavior.items()}
    times = {channel: series.times() for channel, series in sources.behavior.items()}
    responses, times["responses"], unit_ids, chosen = _neurons(nwb, sources.responses, mapping, where, scratch, found)
    frames, index = None, None
    if sources.video is not None:
        frames, index = read_frames(sources.video, mapping.video_transposed, scratch)
        times["video"] = sources.video.times("video")
    passing = Findings(_doubts_about_clocks(sources, times, where))
    recording = recording_from_arrays(
        responses,
        times=times,
        video=frames,
        video_index=index,
        video_range=mapping.video_range,
        behavior=behavior,
        trials=sources.trials,
        split=None if sources.trials is not None else mapping.split,
        unit_ids=unit_ids,
        session_key=key,
        animal_id=animal,
    )
    lines = [*([f"{'regions':22} {chosen}"] if chosen else []), f"{'session':22} {named}"]
    return recording, lines, passing


def _channel_values(channel: str, series: Series, where: Path, found: Findings) -> np.ndarray:
    """A behaviour channel `[T]`, NaN where numbers such as -9999 stand for no value."""
    stored = series.signal()
    values = as_missing(stored)
    lost = np.isnan(values) & (stored == stored)
    if lost.any():
        fills = ", ".join(f"{value:g}" for value in np.unique(stored[lost])[:3])
        odd = f"{np.count_nonzero(lost)} of {len(values)} values of {channel} that stand for none ({fills})"
        found.append(FILLS(where, odd, path=series.path))
    return values


def _doubts_about_clocks(sources: NwbSources, times: dict[str, np.ndarray], where: Path) -> Iterator[Finding]:
    """Devices that begin long after, or end long before or after the responses.

    Raises:
        ValueError: they share no time, or most trials lie elsewhere.
    """
    stamps = times["responses"]
    span = start, end = float(stamps[0]), float(stamps[-1])
    for name, series in sources.devices().items():
        own = first, last = float(times[name][0]), float(times[name][-1])
        if first >= end or last <= start:
            raise ValueError(
                f"{series.path}: from {first:.6g} to {last:.6g} s, but the responses from {start:.6g} to {end:.6g} "
                f"s, so they share no time: expected one clock for all. {CORRECT} Or leave it out: "
                "`none` in a mapping."
            )
        share = SCREEN_SHARE if name == "video" else END_SHARE
        late = doubt_about_start(name, own, span, share=share)
        for doubt in (doubt_about_range(name, own, span, series.rate, share=share), late):
            if doubt is not None:
                yield Finding("warning", str(where), series.path, *doubt)
    if sources.trials is not None:
        starts, ends = np.array([trial[:2] for trial in sources.trials]).T
        rate = (len(stamps) - 1) / (end - start) if end > start else np.nan
        doubted = doubt_about_trials(starts, ends, start=start, end=end, rate=rate)
        if doubted is not None and doubted[1]:
            raise ValueError(f"{sources.trials_path}: {doubted[0]} {CORRECT} Or go without: `trials: none`.")


def _neurons(
    nwb: Any, series: Series, mapping: NwbMapping, where: Path, scratch: Path, found: Findings
) -> tuple[Any, np.ndarray, np.ndarray | None, str]:
    """Responses `[T, N]` to be read along time, their times `[T]`, the neurons' ids, and which regions they are."""
    series = dataclasses.replace(series, turned=bool(mapping.responses_transposed))
    if len(series.shape) not in (1, 2) or 0 in series.shape:
        raise ValueError(f"{series.path}: shape {series.shape}, expected [samples, neurons].")
    rois = _fitting(series, read_rois(nwb, series), mapping.responses_transposed is not None, where, found)
    times = series.times("responses")
    choice = choose(rois, mapping.rois)
    for what, odd, do in choice.doubts:
        found.append(VERDICTS(where, odd, path=what, do=do))
    source = Turned(series.values) if series.turned else series.values
    if series.values.chunks or choice.columns is not None:
        source = unpack(series.values, scratch / "responses", turned=series.turned, columns=choice.columns)
    ids = rois.ids
    if ids is not None and (ids.dtype.kind not in "iu" or len(np.unique(ids)) < len(ids)):
        odd = f"{len(ids)} ids, {len(np.unique(ids))} of them distinct, of type {ids.dtype}"
        found.append(SAME_IDS(where, odd, path=rois.source))
        ids = None
    if ids is not None and choice.columns is not None:
        ids = ids[choice.columns]
    return series.in_units(source, columns=choice.columns), times, ids, choice.line


def _fitting(series: Series, rois: Rois, stated: bool, where: Path, found: Findings) -> Rois:
    """The regions, or none where they are not those of the columns.

    Raises:
        ValueError: what the file says shows that time is not the first axis, and no mapping states how it is.
    """
    n_rows, n_columns = series.shape[0], series.shape[1] if len(series.shape) == 2 else 1
    asked = "If so, write `responses_transposed: true` into a mapping, else `responses_transposed: false`."
    swapped = None
    if rois.n not in (None, n_columns):
        swapped = f"{rois.source} has {rois.n} entries" if rois.n == n_rows else None
    elif rois.n is None and series.n_stamps not in (None, n_rows):
        swapped = f"it has {series.n_stamps} time stamps" if series.n_stamps == n_columns else None
    if swapped and not stated:
        raise ValueError(
            f"{series.path}: data of {n_rows} rows and {n_columns} columns, but {swapped}, so its axes look swapped: "
            f"time comes first in NWB. {asked}"
        )
    if rois.n is None and series.n_stamps is None and n_rows < n_columns and not stated:
        odd = f"{n_rows} rows and {n_columns} columns, and nothing in the file says which of them are neurons"
        found.append(UNSAID(where, odd, path=series.path, n=n_columns, asked=asked))
    if rois.n in (None, n_columns):
        return rois
    found.append(OTHER_REGIONS(where, f"{rois.n} entries", path=rois.source, n=n_columns, series=series.path))
    return Rois()
