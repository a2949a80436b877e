"""Behaviour channels by name: which stored channel is which row of a window."""

from __future__ import annotations

from collections.abc import Sequence

from omnimouse.recordings.data.channel_names import DEVICE_CHANNELS
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.recording_data import RecordingData


def channel_rows(recording: RecordingData, names: Sequence[str]) -> tuple[list[int | None], list[int | None]]:
    """Which row of a window's behaviour each stored channel becomes; None for channels that nobody asks for.

    Named channels go by name. Where no device names its channels and there are as many as names, they go by position;
    else a device of the usual number of channels (4 of the eye tracker, 1 of the treadmill) has the usual ones.

    Returns:
        For the eye tracker's channels, and for the treadmill's.

    Raises:
        ValueError: channels that have no names, and another number than expected; or a name that is there twice.
    """
    devices = (recording.eye_tracker, recording.treadmill)
    total = sum(device.shape[1] for device in devices)
    if not any(device.channels for device in devices) and total == len(names):
        split = devices[0].shape[1]
        return list(range(split)), list(range(split, total))
    stored = [usual_channels(device) if device.channels is None else device.channels for device in devices]
    if None in stored:
        raise ValueError(
            f"{recording.path}: eye tracker and treadmill have {total} channels together without names, but the "
            f"processor names {len(names)} ({', '.join(names)}). Write `channel_names` into the devices' meta.yml, "
            "export those channels, or name yours in the processor's behavior_channels"
        )
    flat = [name for channels in stored for name in channels or ()]
    twice = sorted({name for name in flat if flat.count(name) > 1})
    if twice:
        raise ValueError(f"{recording.path}: behaviour channels {', '.join(twice)} are there twice; rename one of them")
    rows = {name: row for row, name in enumerate(names)}
    eye_tracker, treadmill = ([rows.get(name) for name in channels or ()] for channels in stored)
    return eye_tracker, treadmill


def missing_modalities(recording: RecordingData, names: Sequence[str]) -> tuple[str, ...]:
    """Which of "video" and "behavior" windows of a recording do not have; for `names` see `channel_rows`."""
    has_behavior = any(row is not None for rows in channel_rows(recording, names) for row in rows)
    return (*(() if recording.has_video else ("video",)), *(() if has_behavior else ("behavior",)))


def usual_channels(device: SequenceDevice) -> tuple[str, ...] | None:
    """Names of a device's channels where nobody wrote them down, None if there are more or fewer than usual."""
    usual = DEVICE_CHANNELS.get(device.name, ())
    return usual if device.shape[1] == len(usual) else (() if not device.shape[1] else None)
