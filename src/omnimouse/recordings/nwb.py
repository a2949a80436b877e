"""NWB files (two-photon imaging) as session folders: what is what in a file, by name or by mapping, and importing it.

Shape letters: T samples, N neurons, F displayed frames, K stored frames.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.processing_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.arrays import recording_from_arrays
from omnimouse.recordings.base import Recording
from omnimouse.recordings.channel_names import NAMES
from omnimouse.recordings.nwb_file import (
    ImageStack,
    Series,
    all_series,
    find_series,
    is_indexed,
    kind_of,
    open_nwb,
    read_table,
    tables,
    text_of,
)
from omnimouse.recordings.nwb_mapping import AUTO, NONE, NwbMapping, as_mapping
from omnimouse.recordings.session_writer import save_recording

_DECONVOLVED = re.compile(r"deconv|spike|event|inferred", re.IGNORECASE)
CHANNEL_NAMES: dict[str, tuple[str, ...]] = {
    channel: tuple(f".*/({pattern})" for pattern in patterns) for channel, patterns in NAMES.items()
}
"""Channel -> patterns of "type of the container/its name/name of the series", the better ones first."""

CHANNEL_NAMES["pupil_size"] = (CHANNEL_NAMES["pupil_size"][0], r"pupiltracking/.*")
# A bare word, such as the speed of something, counts only away from the eye.
CHANNEL_NAMES["running_speed"] = (
    *CHANNEL_NAMES["running_speed"][:-1],
    f"(?!.*(pupil|eye|gaze)){CHANNEL_NAMES['running_speed'][-1]}",
)

GAZE_NAMES = (r".*/(gaze|gaze_position|eye_position|pupil_?(center|position|location))", r"eyetracking/.*")
"""The same for series of both coordinates, x first."""

_TIERS = ("tier", "split")
_CONDITIONS = ("condition_hash", "condition", "stimulus_id")


@dataclass(frozen=True)
class NwbEntry:
    """Something in an NWB file that a mapping can name.

    Attributes:
        path: where it is.
        role: "responses", "video", "behavior" or "trials".
        kind: its `neurodata_type`.
        shape: of its data; rows of a table.
        rate: Hz, None where it is not known.
        detail: unit of a series, columns of a table.
    """

    path: str
    role: str
    kind: str
    shape: tuple[int, ...]
    rate: float | None
    detail: str


def nwb_entries(file: str | os.PathLike[str]) -> list[NwbEntry]:
    """What an NWB file has that a recording can be made of; only headers are read.

    Raises:
        ValueError: no NWB 2 file, or a damaged one.
    """
    path = Path(file).expanduser()
    with open_nwb(path) as nwb, _named(path):
        entries = [
            NwbEntry(series.path, series.role, series.kind, series.shape, series.rate, series.unit)
            for series in all_series(nwb)
        ]
        for name, group in tables(nwb).items():
            entries.append(
                NwbEntry(name, "trials", kind_of(group), group["start_time"].shape, None, ", ".join(read_table(group)))
            )
    order = ("responses", "behavior", "video", "trials")
    return sorted(entries, key=lambda entry: (order.index(entry.role), entry.path))


@dataclass
class NwbSources:
    """What of an open NWB file a recording is made of.

    Attributes:
        responses: the neurons.
        behavior: channel -> series.
        video: what was shown, None for nothing.
        trials: (start, end, tier, condition) each, None for a split into blocks.
        trials_path: their table, "" for none.
    """

    responses: Series
    behavior: dict[str, Series] = field(default_factory=dict)
    video: Series | None = None
    trials: list[tuple[float, float, str, str | None]] | None = None
    trials_path: str = ""

    def lines(self) -> list[str]:
        """One line of text for each."""
        lines = [f"{'responses':22} {_described(self.responses)}"]
        for channel in dict.fromkeys((*BEHAVIOR_CHANNELS, *self.behavior)):
            derived = channel == "pupil_size_derivative" and "pupil_size" in self.behavior
            absent = "derived from pupil_size" if derived else "none"
            described = _described(self.behavior[channel]) if channel in self.behavior else absent
            lines.append(f"{channel:22} {described}")
        lines.append(f"{'video':22} {'none' if self.video is None else _described(self.video)}")
        trials = "none with tiers: blocks of time" if self.trials is None else f"{self.trials_path}, {len(self.trials)}"
        return [*lines, f"{'trials':22} {trials}"]


def _described(series: Series) -> str:
    column = "" if series.column is None else f"[{series.column}]"
    rate = series.rate
    return f"{series.path}{column}, {' x '.join(map(str, series.shape))}" + (f", {rate:.4g} Hz" if rate else "")


def import_nwb(
    file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    mapping: NwbMapping | Mapping[str, Any] | str | os.PathLike[str] | None = None,
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
    with open_nwb(path) as nwb:
        with _named(path):
            sources = find_sources(nwb, chosen)
            recording = _recording(nwb, sources, chosen, path)
        for line in sources.lines() if report is not None else ():
            report(line)  # type: ignore[misc]
        return save_recording(recording, folder, progress=progress)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors with the file's name in them; groups where arrays should be raise other types than ValueError."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def find_sources(nwb: Any, mapping: NwbMapping) -> NwbSources:
    """Finds in an open NWB file what a mapping names, and by itself what it leaves open.

    Raises:
        ValueError: nothing, or more than one thing, that could be meant.
    """
    series = all_series(nwb)
    trials, path = _trials(nwb, mapping)
    return NwbSources(
        responses=_responses(nwb, series, mapping.responses),
        behavior=_behavior(nwb, series, mapping.behavior),
        video=_video(nwb, series, mapping.video),
        trials=trials,
        trials_path=path,
    )


def _responses(nwb: Any, series: list[Series], path: str) -> Series:
    if path != AUTO:
        return find_series(nwb, path)
    planes = [each for each in series if each.role == "responses"]
    deconvolved = [each for each in planes if _DECONVOLVED.search(each.path)]
    if len(deconvolved) == 1:
        return deconvolved[0]
    listed = "; ".join(map(_described, deconvolved or planes))
    advice = "Write the one to use into a mapping, such as `responses: {}`, and import with it."
    if deconvolved:
        advice = advice.format(deconvolved[0].path)
        raise ValueError(f"{len(deconvolved)} series of deconvolved responses: {listed}. {advice}")
    if planes:
        raise ValueError(
            f"no responses that are named as deconvolved, but: {listed}. Models are trained on deconvolved activity. "
            "If one of these is, or if you want to use it as it is: " + advice.format(planes[0].path)
        )
    raise ValueError(
        "no RoiResponseSeries, so no responses of neurons. If another series has them, name it in a mapping as "
        "`responses: path`; `omnimouse import FILE --list` shows all paths."
    )


def _key(series: Series) -> str:
    """Type and name of a series' container, and its own name, in one style."""
    parent = series.group.parent
    names = (kind_of(parent), parent.name.rsplit("/", 1)[-1], series.path.rsplit("/", 1)[-1])
    return "/".join(re.sub(r"[^a-z0-9]+", "_", name.lower()) for name in names)


def _best(series: list[Series], patterns: tuple[str, ...], what: str) -> Series | None:
    """The one series that fits the first pattern that any fits."""
    for pattern in patterns:
        fitting = [each for each in series if re.fullmatch(pattern, _key(each))]
        if len(fitting) > 1:
            listed = "; ".join(map(_described, fitting))
            raise ValueError(
                f"{len(fitting)} series that may be {what}: {listed}. Write the one to use into a mapping, such as "
                f"`behavior: {{{what}: {fitting[0].path}}}` (or `{what}: none`), and import with it."
            )
        if fitting:
            return fitting[0]
    return None


def _behavior(nwb: Any, series: list[Series], mapped: dict[str, str]) -> dict[str, Series]:
    found: dict[str, Series] = {}
    signals = [each for each in series if each.role == "behavior"]
    single = [each for each in signals if len(each.shape) == 1 or each.shape[1] == 1]
    pairs = [each for each in signals if len(each.shape) == 2 and each.shape[1] >= 2]
    for channel in BEHAVIOR_CHANNELS:
        if channel in mapped:
            continue
        match = _best(single, CHANNEL_NAMES[channel], channel)
        if match is not None:
            found[channel] = match
    if not {"gaze_x", "gaze_y"} & (found.keys() | mapped.keys()):
        match = _best(pairs, GAZE_NAMES, "gaze_x")
        if match is not None:
            for column, channel in enumerate(("gaze_x", "gaze_y")):
                found[channel] = Series(match.path, match.group, match.values, column)
    found |= {channel: find_series(nwb, path) for channel, path in mapped.items() if path != NONE}
    order = [*BEHAVIOR_CHANNELS, *mapped]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def _video(nwb: Any, series: list[Series], path: str) -> Series | None:
    if path == NONE:
        return None
    if path != AUTO:
        return find_series(nwb, path)
    shown = [each for each in series if each.role == "video" and each.path.startswith("stimulus/presentation/")]
    if len(shown) > 1:
        listed = "; ".join(map(_described, shown))
        raise ValueError(
            f"{len(shown)} stimuli were presented: {listed}. A session has one video: write the one to use into a "
            f"mapping, such as `video: {shown[0].path}` (or `video: none`), and import with it."
        )
    return shown[0] if shown else None


def _trials(nwb: Any, mapping: NwbMapping) -> tuple[list[tuple[float, float, str, str | None]] | None, str]:
    if mapping.trials == NONE:
        return None, ""
    path = "intervals/trials" if mapping.trials == AUTO else mapping.trials.strip("/")
    group = tables(nwb).get(path)
    if group is None:
        if mapping.trials == AUTO and mapping.tiers is None and mapping.condition is None:
            return None, ""
        have = ", ".join(tables(nwb)) or "none"
        raise ValueError(f"no table of trials at {path!r}; the file has: {have}. Correct `trials` in the mapping.")
    table = read_table(group)
    column = mapping.tiers.column if mapping.tiers else next((name for name in _TIERS if name in table), None)
    if column is None:
        if mapping.trials == AUTO and mapping.condition is None:
            return None, ""
        raise ValueError(f"{path}: no column of tiers among {', '.join(table)}; name one as `tiers: {{column: ...}}`.")
    condition = mapping.condition or next((name for name in _CONDITIONS if name in table), None)
    for name in (column, condition):
        if name is not None and name not in table:
            raise ValueError(f"{path}: no column {name!r}; it has {', '.join(table)}. Correct the mapping.")
    stored = [str(value) for value in table[column].tolist()]
    tiers = dict(zip(stored, stored, strict=True))
    if mapping.tiers is not None and mapping.tiers.values is not None:
        tiers = {str(value): tier for tier, values in mapping.tiers.values.items() for value in values}
        if not set(stored) & tiers.keys():
            have = ", ".join(dict.fromkeys(stored))
            raise ValueError(f"{path}: no trial has one of the tiers' values; column {column!r} has {have}.")
    conditions = [None] * len(stored) if condition is None else [str(value) for value in table[condition].tolist()]
    spans = zip(table["start_time"].tolist(), table["stop_time"].tolist(), stored, conditions, strict=True)
    return [(start, end, tiers[value], shared) for start, end, value, shared in spans if value in tiers], path


def _recording(nwb: Any, sources: NwbSources, mapping: NwbMapping, path: Path) -> Recording:
    """A recording over the open file; NaN stay what they are."""
    times = {"responses": sources.responses.times()}
    responses = sources.responses.array()
    if len(responses.shape) != 2:
        raise ValueError(f"{sources.responses.path}: shape {responses.shape}, expected [samples, neurons].")
    behavior = {channel: series.signal() for channel, series in sources.behavior.items()}
    times |= {channel: series.times() for channel, series in sources.behavior.items()}
    frames, index = None, None
    if sources.video is not None:
        frames, index = _frames(sources.video, mapping.video_transposed)
        times["video"] = sources.video.times()
    key, animal = _identity(nwb, mapping, path)
    return recording_from_arrays(
        responses,
        times=times,
        video=frames,
        video_index=index,
        video_range=mapping.video_range,
        behavior=behavior,
        trials=sources.trials,
        split=None if sources.trials is not None else mapping.split,
        unit_ids=_unit_ids(sources.responses),
        session_key=key,
        animal_id=animal,
    )


def _frames(series: Series, transposed: bool | None) -> tuple[Any, np.ndarray | None]:
    """Stored frames `[K, H, W]`, and which of them each displayed frame is, None where each is its own."""
    index, shown = None, series
    images: list[Any] | None = None
    if is_indexed(series.group):
        index = np.asarray(series.values[()]).astype(np.int64)
        target = series.group.get("indexed_timeseries", series.group.get("indexed_images"))
        if target is None:
            raise ValueError(f"{series.path}: it counts images that the file does not have; it names no template.")
        if "data" in target:
            shown = Series(target.name.strip("/"), target, target["data"])
        else:
            images = _ordered_images(target)
    if "external_file" in shown.group:
        files = ", ".join(map(text_of, shown.group["external_file"][()]))
        raise ValueError(
            f"{shown.path}: its frames lie in other files ({files}), "
            "which are not read. Store them in the file, or read them and call recording_from_arrays with the frames; "
            "`video: none` in a mapping imports the rest."
        )
    frames = shown.array(transposed=bool(transposed)) if images is None else ImageStack(images, bool(transposed))
    if transposed is None and frames.shape[1] > frames.shape[2]:
        rows, columns = frames.shape[1:3]
        raise ValueError(
            f"{shown.path}: frames of {rows} rows and {columns} columns, taller than wide. If x comes "
            "before y in them, write `video_transposed: true` into a mapping, else `video_transposed: false`."
        )
    return frames, index


def _ordered_images(group: Any) -> list[Any]:
    """The images of a container, in its order."""
    if "order_of_images" in group:
        images = [group.file[reference] for reference in group["order_of_images"][()]]
    else:
        images = [item for item in group.values() if hasattr(item, "shape")]
        if len(images) > 1:
            raise ValueError(f"{group.name.strip('/')}: {len(images)} images without order_of_images; add their order.")
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) != 1 or len(next(iter(sizes))) != 2:
        listed = ", ".join(map(str, sorted(sizes)))
        raise ValueError(f"{group.name.strip('/')}: images of shapes {listed}, expected grey ones of one size.")
    return images


def _unit_ids(series: Series) -> np.ndarray | None:
    """Ids of the regions that the columns are, None where there are no unique ones."""
    rois = series.group.get("rois")
    if rois is None or not rois.shape or len(rois) != (series.shape[1] if len(series.shape) == 2 else 1):
        return None
    table = rois.attrs.get("table")
    rows = rois[()]
    ids = rows if table is None else np.asarray(series.group.file[table]["id"][()])[rows]
    return ids if len(np.unique(ids)) == len(ids) else None


def _identity(nwb: Any, mapping: NwbMapping, path: Path) -> tuple[str, str | None]:
    """Session key and animal; characters that no file name should have become "_"."""

    def stored(name: str) -> str:
        return re.sub(r"[^\w.-]+", "_", text_of(nwb[name][()]).strip()).strip(".") if name in nwb else ""

    subject, session = stored("general/subject/subject_id"), stored("general/session_id")
    key = session if not subject or session.startswith(subject) else "-".join(filter(None, (subject, session)))
    key = mapping.session_key or key or re.sub(r"[^\w.-]+", "_", path.stem)
    return key, mapping.animal_id or subject or None
