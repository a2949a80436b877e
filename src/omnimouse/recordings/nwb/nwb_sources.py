"""What in an NWB file is what: responses, behaviour, video and trials, by mapping or by name and type."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omnimouse.model.configuration_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.data.channel_names import NAMES, plain_name, similar_channels
from omnimouse.recordings.data.findings import Findings, Kind
from omnimouse.recordings.formats.arrays.trials import TrialTime
from omnimouse.recordings.nwb.nwb_file import neurodata_type, walk
from omnimouse.recordings.nwb.nwb_trials import read_trials
from omnimouse.recordings.nwb.series import Series, all_series, broken_links, find_series
from omnimouse.recordings.nwb_mapping import AUTO, NONE, NwbMapping
from omnimouse.support.spreading import listed

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

_NO_SPEED = re.compile(
    r"(c|m|k)?m|(centi|milli)?met(er|re)s?|inch(es)?|deg(rees?)?|rad(ians?)?|rev(olution)?s?|turns?|m?v(olts?)?|counts?|ticks?|px|pixels?"
)
"""Units of positions and of raw signals of encoders."""

# fmt: off
BROKEN = Kind("warning", "{path}", "what the link leads to", "What lies there is not imported.")
MISNAMED = Kind("warning", "{path}", "a name such as {name}",
                "If it is meant, write it into a mapping: `behavior: {{{name}: {path}}}`, else `none`.")
POSITION = Kind("warning", "{path}", "a speed, such as cm/s",
                "If it is a position or the signal of an encoder, leave it out: `behavior: {{running_speed: none}}`.")
# fmt: on


@dataclass
class NwbSources:
    """What of an open NWB file a recording is made of."""

    responses: Series
    behavior: dict[str, Series]  # by channel
    video: Series | None
    trials: list[TrialTime] | None  # None for a split into blocks
    trials_path: str
    unused: list[Series]  # of behaviour

    def devices(self) -> dict[str, Series]:
        """Everything but the responses that has a clock: channels, and "video" where it was shown."""
        return {**self.behavior, **({} if self.video is None else {"video": self.video})}

    def lines(self) -> list[str]:
        """One line of text for each."""
        said = [("responses", _described(self.responses))]
        for channel in dict.fromkeys((*BEHAVIOR_CHANNELS, *self.behavior)):
            derived = channel == "pupil_size_derivative" and "pupil_size" in self.behavior
            absent = "derived from pupil_size" if derived else "none"
            said.append((channel, _described(self.behavior[channel]) if channel in self.behavior else absent))
        blocks = "none with tiers: blocks of time"
        said.append(("video", "none" if self.video is None else _described(self.video)))
        said.append(("trials", blocks if self.trials is None else f"{self.trials_path}, {len(self.trials)}"))
        if self.unused:
            said.append(("not used", listed([series.path for series in self.unused], 8)))
        return [f"{name:22} {text}" for name, text in said]


def _described(series: Series) -> str:
    column = "" if series.column is None else f"[{series.column}, :]" if series.turned else f"[{series.column}]"
    rate = f", {series.rate:.4g} Hz" if series.rate else ""
    unit = f", {series.unit}" if series.unit and series.role == "behavior" else ""
    return f"{series.path}{column}, {' x '.join(map(str, series.shape))}{rate}{unit}"


def find_sources(nwb: Any, mapping: NwbMapping, where: Path, found: Findings) -> NwbSources:
    """Finds in an open NWB file what a mapping names, and by itself what it leaves open; findings name `where`.

    Raises:
        ValueError: nothing, or more than one thing, that could be meant.
    """
    series = all_series(nwb)
    trials, path = read_trials(nwb, mapping, where, found)
    responses, behavior = _responses(nwb, series, mapping.responses), _behavior(nwb, series, mapping.behavior)
    used = {each.group for each in behavior.values()}
    sources = NwbSources(
        responses=responses,
        behavior=behavior,
        video=_presented(nwb, series, mapping.video),
        trials=trials,
        trials_path=path,
        unused=[each for each in series if each.role == "behavior" and each.group not in used],
    )
    for place, text in walk(nwb)[1].items():
        found.append(BROKEN(where, f"what {text.rstrip('.')}", path=place))
    for each in sources.unused:
        absent = [name for name in similar_channels(each.path.rpartition("/")[2]) if name not in behavior]
        absent = [name for name in absent if name not in mapping.behavior]
        if absent:
            odd = f"a series that is not used, although its name is like {' and '.join(absent)}"
            found.append(MISNAMED(where, odd, path=each.path, name=absent[0]))
    running = behavior.get("running_speed")
    if running is not None and _NO_SPEED.fullmatch(running.unit.strip().lower()):
        odd = f"running_speed in {running.unit!r}, which is no unit of speed"
        found.append(POSITION(where, odd, path=running.path))
    return sources


def _responses(nwb: Any, series: list[Series], path: str) -> Series:
    if path != AUTO:
        series_there = find_series(nwb, path)
        if series_there.column is not None:
            raise ValueError(f"responses: {path}: one signal of a series; name the series, for all its neurons.")
        return series_there
    planes = [each for each in series if each.role == "responses"]
    deconvolved = [each for each in planes if _DECONVOLVED.search(each.path)]
    if len(deconvolved) == 1:
        return deconvolved[0]
    if not planes:
        raise ValueError(
            "no RoiResponseSeries, so no responses of neurons. If another series has them, name it in a mapping as "
            f"`responses: path`; `omnimouse import FILE --list` shows all paths.{broken_links(nwb)}"
        )
    found, path = "; ".join(map(_described, deconvolved or planes)), (deconvolved or planes)[0].path
    advice = f"Write the one to use into a mapping, such as `responses: {path}`, and import with it."
    if deconvolved:
        raise ValueError(f"{len(deconvolved)} series of deconvolved responses: {found}. {advice}")
    raise ValueError(
        f"no responses that are named as deconvolved, but: {found}. Models are trained on deconvolved activity. "
        f"If one of these is, or if you want to use it as it is: {advice}"
    )


def _path_in_one_style(series: Series) -> str:
    """Type and name of a series' container, and its own name, in one style."""
    parent = series.group.parent
    names = (neurodata_type(parent), parent.name.rsplit("/", 1)[-1])
    own = plain_name(series.path.rsplit("/", 1)[-1])
    return "/".join((*(re.sub(r"[^a-z0-9]+", "_", name.lower()) for name in names), own))


def _best(series: list[Series], patterns: tuple[str, ...], what: str) -> Series | None:
    """The one series that fits the first pattern that any fits."""
    for pattern in patterns:
        fitting = [each for each in series if re.fullmatch(pattern, _path_in_one_style(each))]
        if len(fitting) > 1:
            described = "; ".join(map(_described, fitting))
            raise ValueError(
                f"{len(fitting)} series that may be {what}: {described}. Write the one to use into a mapping, such as "
                f"`behavior: {{{what}: {fitting[0].path}}}` (or `{what}: none`), and import with it."
            )
        if fitting:
            return fitting[0]
    return None


def _behavior(nwb: Any, series: list[Series], mapped: dict[str, str]) -> dict[str, Series]:
    found: dict[str, Series] = {}
    signals = [each for each in series if each.role == "behavior"]
    pairs = [each for each in signals if len(each.shape) == 2 and 1 not in each.shape]
    single = [each for each in signals if each not in pairs]
    for channel in BEHAVIOR_CHANNELS:
        match = None if channel in mapped else _best(single, CHANNEL_NAMES[channel], channel)
        if match is not None:
            found[channel] = match
    if not {"gaze_x", "gaze_y"} & (found.keys() | mapped.keys()):
        match = _best(pairs, GAZE_NAMES, "gaze_x")
        if match is not None:
            found |= {f"gaze_{axis}": replace(match, column=column) for column, axis in enumerate("xy")}
    found |= {channel: find_series(nwb, path) for channel, path in mapped.items() if path != NONE}
    order = [*BEHAVIOR_CHANNELS, *mapped]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def _presented(nwb: Any, series: list[Series], path: str) -> Series | None:
    if path == NONE:
        return None
    if path != AUTO:
        return find_series(nwb, path)
    shown = [each for each in series if each.role == "video" and each.path.startswith("stimulus/presentation/")]
    if len(shown) > 1:
        described = "; ".join(map(_described, shown))
        raise ValueError(
            f"{len(shown)} stimuli were presented: {described}. A session has one video: write the one to use into a "
            f"mapping, such as `video: {shown[0].path}` (or `video: none`), and import with it."
        )
    return shown[0] if shown else None
