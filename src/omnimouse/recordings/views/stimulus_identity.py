"""Which trials show the same stimulus: by the identity stored with them, else by a few of the frames they show."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from omnimouse.recordings.data.recording_data import RecordingData
from omnimouse.recordings.data.screen import Trial

EVERY, MOST = 15, 20
"""Every so many frames of a trial are compared, and at most so many."""


def same_stimuli(recording: RecordingData, trials: Sequence[int], *, height: int, width: int) -> np.ndarray:
    """Numbers the stimuli that trials show, so that trials of the same stimulus have the same number.

    Trials with a `condition_hash` show the same where it is equal. Others are compared by one frame in 15 from their
    start, as far as both last, so that a presentation that was cut short is still a repeat; whoever differs from all
    others only between these frames is taken for the same. Without video every trial is a stimulus of its own.

    `trials` are positions in `recording.trials`; frames are compared at `height` and `width`.

    Returns:
        int64 `[len(trials)]`, from 0 in the order of first appearance.
    """
    keys = [_key(recording, recording.trials[position], height, width) for position in trials]
    # Sorted, a key follows directly on those that it continues.
    first: dict[int, int] = {}
    root = None
    for place in sorted(range(len(keys)), key=lambda place: keys[place]):
        if root is None or len(keys[place]) < 2 or keys[place][: len(keys[root])] != keys[root]:
            root = place
        first[place] = root
    _, numbers = np.unique([first[place] for place in range(len(keys))], return_inverse=True)
    order = {number: rank for rank, number in enumerate(dict.fromkeys(numbers.tolist()))}
    return np.array([order[number] for number in numbers.tolist()], dtype=np.int64)


def _key(recording: RecordingData, trial: Trial, height: int, width: int) -> tuple[str, ...]:
    """What trials of one stimulus have in common; of frames, the longer key continues the shorter one."""
    if trial.condition_hash is not None:
        return "condition", trial.condition_hash
    times = recording.screen.timestamps[trial.first_frame : trial.first_frame + trial.n_frames : EVERY][:MOST]
    if not recording.has_video or not len(times):
        return (f"trial {trial.index}",)
    try:
        frames = recording.screen.frames_at(times, height=height, width=width)
    except (ValueError, IndexError, OSError):  # whoever trains on these frames will be told
        return (f"trial {trial.index}",)
    return "frames", *(hashlib.sha256(np.ascontiguousarray(frame).tobytes()).hexdigest() for frame in frames)
