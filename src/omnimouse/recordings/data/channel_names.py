"""What behaviour channels are called elsewhere: one table for every reader."""

from __future__ import annotations

import difflib
import re

from omnimouse.model.configuration_omnimouse import BEHAVIOR_CHANNELS

DEVICE_CHANNELS = {"eye_tracker": BEHAVIOR_CHANNELS[:4], "treadmill": BEHAVIOR_CHANNELS[4:]}
"""The channels of each behaviour device where nobody names them."""

_SIZE = r"pupil_?(size|area|diameter|diam|radius|width)"
_EYE = r"(gaze|gaze_pos(ition)?|eye|eye_pos(ition)?|pupil|pupil_?(center|centre|pos(ition)?|location|com))"

NAMES: dict[str, tuple[str, ...]] = {
    "pupil_size": (_SIZE, r"pupil"),
    "pupil_size_derivative": (
        rf"({_SIZE}|pupil)_(derivative|velocity|change)",
        rf"(d|delta|diff|derivative(_of)?)_({_SIZE}|pupil)",
    ),
    "gaze_x": (rf"{_EYE}_(x|h|horizontal)", rf"x_{_EYE}"),
    "gaze_y": (rf"{_EYE}_(y|v|vertical)", rf"y_{_EYE}"),
    "running_speed": (
        r"running_?speed",
        r"(running|run|treadmill|wheel|locomotion|walking|ball|belt|forward)_?(speed|velocity)",
        r"running|run|treadmill|locomotion|speed|velocity",
    ),
}
"""Channel -> patterns of whole names in lower case with underscores, the better ones first."""

_UNIT = re.compile(
    r"_(in_)?(z|zscored?|cm_?s|cm_?per_?s(ec)?|mm_?s|m_?s|cm|mm|um|px|pix(els?)?|deg(rees)?|au|a_u|norm(alized)?|raw|trace)$"
)


def plain_name(name: str) -> str:
    """A name in lower case with underscores between its words, without the unit or scale at its end."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    plain = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return _UNIT.sub("", plain)


def channel_of(name: str) -> str | None:
    """The behaviour channel that a name means, such as "running_speed" for "Running (cm/s)"; None for none."""
    if name in BEHAVIOR_CHANNELS:
        return name
    plain = plain_name(name)
    if plain in BEHAVIOR_CHANNELS:
        return plain
    return next((channel for channel, patterns in NAMES.items() if any(re.fullmatch(p, plain) for p in patterns)), None)


def similar_channels(name: str) -> list[str]:
    """Channels whose names resemble one that means none of them, the most similar first."""
    return difflib.get_close_matches(plain_name(name), BEHAVIOR_CHANNELS, n=2, cutoff=0.5)
