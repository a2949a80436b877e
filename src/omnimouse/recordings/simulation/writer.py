"""Writing the devices of a session folder in the experanto layout.

Shape letters: T samples, C signals of a sequence device, H pixels per column, W pixels per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse.recordings.data.devices import SequenceDevice
from omnimouse.recordings.formats.experanto.session_writer import write_screen_meta, write_sequence_meta, write_yaml
from omnimouse.recordings.simulation.behavior import Behavior, eye_trace
from omnimouse.recordings.simulation.settings import SimulationSettings, random_stream
from omnimouse.recordings.simulation.stimuli import (
    GRAY,
    LEAD_SECONDS,
    MAX_GAP_FRAMES,
    Presentation,
    condition_hash,
    render_clip,
)

END_OVERSHOOT = 0.12
"""Seconds by which the stated end of a sequence device lies after its last sample, as in exported recordings."""


@dataclass(frozen=True)
class ShownScreen:
    """Everything that was shown."""

    files: list[Path | None]  # of every trial's frames, in order; None for a blank, one frame that stays
    first_frames: np.ndarray  # index of every trial's first frame among all displayed frames
    timestamps: np.ndarray  # time of every displayed frame, s, float64

    def frames_at(self, times: np.ndarray, settings: SimulationSettings) -> np.ndarray:
        """The last frame displayed at increasing times (s, [K]), gray before the first, uint8 [K, H, W]."""
        out = np.full((len(times), settings.frame_height, settings.frame_width), GRAY, np.uint8)
        shown = np.searchsorted(self.timestamps, times, side="right") - 1
        owner = np.searchsorted(self.first_frames, shown, side="right") - 1
        for index in np.unique(owner[shown >= 0]):
            if (file := self.files[index]) is not None:
                here = np.flatnonzero(owner == index)
                frames = np.load(file, mmap_mode="r", allow_pickle=False)
                out[here] = frames[shown[here] - self.first_frames[index]]
        return out


def write_screen(
    folder: Path, presentations: list[Presentation], settings: SimulationSettings, *, stimulus_seed: int, start: float
) -> ShownScreen:
    """Renders all clips and writes the device `screen` of a recording that starts at `start` (s)."""
    device = folder / "screen"
    for sub in ("data", "meta"):
        (device / sub).mkdir(parents=True)
    rng = random_stream(stimulus_seed, "screen clock")
    size = [settings.frame_height, settings.frame_width]
    files: list[Path | None] = []
    first_frames: list[int] = []
    times: list[np.ndarray] = []

    def add(meta: dict[str, Any], at: np.ndarray, file: Path | None) -> None:
        first_frames.append(first_frames[-1] + len(times[-1]) if times else 0)
        meta = {**meta, "first_frame_idx": first_frames[-1], "image_size": size, "num_frames": len(at)}
        write_yaml(device / "meta" / f"{len(files):05d}.yml", meta)
        files.append(file)
        times.append(at)

    blank = {"interleave_value": float(GRAY), "modality": "blank"}
    add(blank, np.array([start + 0.4 * LEAD_SECONDS]), None)
    now = start + LEAD_SECONDS
    for number, shown in enumerate(presentations):
        file = device / "data" / f"{len(files):05d}.npy"
        frames = render_clip(settings, stimulus_seed, shown.clip)
        np.save(file, frames)
        # Jitter never exceeds a third of a frame, so that time stamps increase.
        most = 0.3 / settings.video_rate
        jitter = np.clip(settings.screen_jitter * rng.standard_normal(len(frames)), -most, most)
        at = now + np.arange(len(frames)) / settings.video_rate + jitter
        meta = {"condition_hash": condition_hash(frames), "modality": "video", "stim_type": "stimulus.Clip"}
        add({**meta, "tier": shown.tier, "trial_idx": number}, at, file)
        # A random gap lets the phase between screen and scan differ from trial to trial.
        now += (len(frames) + rng.uniform(0.5, MAX_GAP_FRAMES)) / settings.video_rate
        if shown.blank_seconds > 0:
            add(blank, np.array([now]), None)
            now += shown.blank_seconds
    add(blank, np.array([now]), None)
    timestamps = np.concatenate(times)
    write_screen_meta(device, timestamps)
    return ShownScreen(files, np.array(first_frames), timestamps)


def write_behavior(
    folder: Path, behavior: Behavior, settings: SimulationSettings, seed: int, *, start: float, seconds: float
) -> None:
    """Writes the devices `eye_tracker` and `treadmill`; both start before and end after the responses.

    `behavior` covers two seconds more than the responses at both ends.
    """
    for name, rate, lead in (("eye_tracker", settings.eye_rate, 0.73), ("treadmill", settings.treadmill_rate, 0.91)):
        first = start - lead
        times = first + np.arange(round((seconds + lead + 0.8) * rate)) / rate
        is_eye = name == "eye_tracker"
        data = eye_trace(settings, seed, behavior, times) if is_eye else behavior.at(behavior.running, times)[:, None]
        statistics = {"means": np.nanmean(data, axis=0, keepdims=True), "stds": np.nanstd(data, axis=0, keepdims=True)}
        end = first + len(data) / rate + END_OVERSHOOT
        file, shape, dtype = folder / name / "data.npy", data.shape, str(data.dtype)
        write_sequence_meta(SequenceDevice(name, file, rate, first, end, shape, dtype, **statistics))
        np.save(file, data)
