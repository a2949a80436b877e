"""What behaviour channels are called elsewhere."""

from __future__ import annotations

import pytest

from omnimouse.model.configuration_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.recordings.data.channel_names import NAMES, channel_of, similar_channels


@pytest.mark.parametrize(
    ("name", "channel"),
    [
        *((name, name) for name in BEHAVIOR_CHANNELS),
        ("running", "running_speed"),
        ("Running (cm/s)", "running_speed"),
        ("runningSpeed", "running_speed"),
        ("speed", "running_speed"),
        ("treadmill velocity", "running_speed"),
        ("wheel_speed", "running_speed"),
        ("pupil_diameter", "pupil_size"),
        ("Pupil-Area_px", "pupil_size"),
        ("pupil", "pupil_size"),
        ("pupil_diameter_derivative", "pupil_size_derivative"),
        ("d_pupil", "pupil_size_derivative"),
        ("pupil_x", "gaze_x"),
        ("eye_position_y", "gaze_y"),
        ("pupilCenterX", "gaze_x"),
        ("gaze x (deg)", "gaze_x"),
        ("whisking", None),
        ("wheel", None),
        ("lick", None),
        ("x", None),
    ],
)
def test_names_that_mean_a_channel_are_known_and_others_are_not(name: str, channel: str | None) -> None:
    assert channel_of(name) == channel


def test_every_channel_has_names_and_misspelt_ones_are_suggested() -> None:
    assert list(NAMES) == list(BEHAVIOR_CHANNELS)
    assert similar_channels("runing_sped") == ["running_speed"]
    assert similar_channels("whisking") == []
