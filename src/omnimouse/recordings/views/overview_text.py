"""What is in a recording, in numbers that a person or a script can read."""

from __future__ import annotations

from typing import Any

import numpy as np

from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings.channels import channel_rows
from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.data.recording_data import UNUSED_TIER, RecordingData
from omnimouse.recordings.windows import Windows


def describe(
    recording: RecordingData, *, processor: OmniMouseProcessor | None = None, stride: int = 1
) -> dict[str, Any]:
    """What is in a recording, as plain values that JSON can hold.

    Args:
        recording: an open recording.
        processor: rates and rules for counting windows; profile "strict" when not given.
        stride: of the counted windows.

    Returns:
        Keys ``session_key, animal_id, path, n_neurons, has_unit_ids, duration_s, start_time, profile, stride, tiers``
        (per tier ``trials, seconds, conditions, windows``; windows is None when behaviour
        channels have no names or the responses are withheld)``, modalities`` (trials of
        each, and "unused" stretches of time in no trial)``, devices`` (per recorded device
        ``file, dtype, rows, signals, sampling_rate_hz, seconds,
        end_overshoot_s, starts_after_responses_s, is_mem_mapped, phase_shifts, statistics``)``, screen`` (``frames,
        trials, median_rate_hz, frame_sizes, starts_after_responses_s``).
    """
    processor = processor if processor is not None else OmniMouseProcessor(profile="strict")
    timestamps = recording.screen.timestamps
    steps = np.diff(timestamps)
    modalities = [UNUSED_TIER if trial.tier == UNUSED_TIER else trial.modality for trial in recording.trials]
    origin = recording.responses.start_time
    return {
        "session_key": recording.session_key,
        "animal_id": recording.animal_id,
        "path": str(recording.path),
        "n_neurons": recording.n_neurons,
        "has_unit_ids": recording.unit_ids is not None,
        "start_time": recording.start_time,
        "duration_s": round(recording.end_time - recording.start_time, 3),
        "profile": processor.profile,
        "stride": stride,
        "tiers": {tier: _describe_tier(recording, tier, processor, stride) for tier in recording.tiers},
        "modalities": {modality: modalities.count(modality) for modality in dict.fromkeys(modalities)},
        "devices": {device.name: _describe_device(device, origin) for device in recording.devices if device.shape[1]},
        "screen": {
            "frames": sum(trial.n_frames for trial in recording.trials),
            "trials": len(recording.trials),
            "median_rate_hz": round(1 / float(np.median(steps[steps > 0])), 3) if (steps > 0).any() else None,
            "frame_sizes": sorted([*size] for size in {trial.image_size for trial in recording.trials} if size),
            "starts_after_responses_s": round(float(timestamps[0]) - origin, 4),
        },
    }


def _describe_tier(recording: RecordingData, tier: str, processor: OmniMouseProcessor, stride: int) -> dict[str, Any]:
    trials = [trial for trial in recording.trials if trial.tier == tier]
    cuttable = tier not in recording.withheld_tiers
    try:
        channel_rows(recording, processor.behavior_channels)
    except ValueError:
        cuttable = False
    first, last = recording.start_time, recording.end_time
    return {
        "trials": len(trials),
        "seconds": round(sum(max(0.0, min(trial.end, last) - max(trial.start, first)) for trial in trials), 3),
        "conditions": len({trial.condition_hash or trial.name for trial in trials}),
        "windows": len(Windows(recording, tier, stride, processor=processor, quiet=True)) if cuttable else None,
    }


def _describe_device(device: SequenceDevice, origin: float) -> dict[str, Any]:
    seconds = device.end_time - device.start_time
    return {
        "file": device.file.name,
        "dtype": device.dtype,
        "rows": device.shape[0],
        "signals": device.shape[1],
        "sampling_rate_hz": device.sampling_rate,
        "seconds": round(seconds, 3),
        "end_overshoot_s": round(seconds - device.shape[0] / device.sampling_rate, 4),
        "starts_after_responses_s": round(device.start_time - origin, 4),
        "is_mem_mapped": device.is_mem_mapped,
        "phase_shifts": device.phase_shifts is not None,
        "statistics": "stored" if device.means is not None and device.stds is not None else "computed",
    }
