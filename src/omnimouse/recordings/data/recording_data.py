"""What a recording holds, whatever format it came from: devices, trials and a clock. Opening lies above.

Shape letters: T stored samples, S signals (neurons or behaviour channels).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from omnimouse.recordings.data.devices import SequenceDevice, streamed_statistics
from omnimouse.recordings.data.findings import Finding, Findings
from omnimouse.recordings.data.screen import Screen, Trial
from omnimouse.support.text_tables import html_table

SEQUENCE_DEVICES = ("responses", "eye_tracker", "treadmill")

UNUSED_TIER = "unused"
"""Tier of time that belongs to no tier, written where a recording with such time is saved; nothing uses it."""


@dataclass
class RecordingData:
    """One session: a recording of one population, opened without reading its arrays.

    Attributes:
        path: folder (or archive) it was opened from; nothing is ever written there.
        session_key: e.g. "17797-4-7" (animal, session, scan).
        animal_id: e.g. "17797".
        responses, eye_tracker, treadmill: sampled devices.
        screen: displayed frames and trials.
        findings: what opening noticed that is not fatal; `validate` looks deeper.
        withheld_tiers: tiers whose responses were not published; they have windows for predictions only.
        stores_statistics: whether means and stds are expected beside the arrays, so that their lack is worth a warning.
    """

    path: Path
    session_key: str
    animal_id: str
    responses: SequenceDevice
    eye_tracker: SequenceDevice
    treadmill: SequenceDevice
    screen: Screen
    findings: tuple[Finding, ...] = ()
    withheld_tiers: tuple[str, ...] = ()
    _statistics: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    stores_statistics: ClassVar[bool] = True

    def __repr__(self) -> str:
        """One line, however much was recorded."""
        return (
            f"<{type(self).__name__} {self.session_key} ({self.path}): {self.n_neurons} neurons at "
            f"{self.responses.sampling_rate:.6g} Hz, {self.start_time:.6g} to {self.end_time:.6g} s, "
            f"{'video' if self.has_video else 'no video'}, behavior: {self._behavior}, tiers: {self._trials_by_tier}>"
        )

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        facts = {
            "animal": self.animal_id,
            "neurons": f"{self.n_neurons} at {self.responses.sampling_rate:.6g} Hz",
            "minutes": f"{(self.end_time - self.start_time) / 60:.4g}",
            "tiers": self._trials_by_tier,
            "behavior": self._behavior,
            "video": "yes" if self.has_video else "not recorded",
        }
        return html_table(("session", self.session_key), list(facts.items()))

    @property
    def _trials_by_tier(self) -> str:
        trials = Counter(trial.tier for trial in self.trials)
        return ", ".join(f"{tier} ({trials[tier]} trials)" for tier in self.tiers) or "none"

    @property
    def _behavior(self) -> str:
        named = self.behavior_channels
        return "unnamed channels" if named is None else ", ".join(named) or "none"

    @property
    def n_neurons(self) -> int:
        """Neurons in the stored responses."""
        return self.responses.shape[1]

    @property
    def unit_ids(self) -> np.ndarray | None:
        """Identities of the neurons `[n_neurons]` in file order, or None when the recording has none."""
        return self.responses.unit_ids

    @property
    def behavior_channels(self) -> tuple[str, ...] | None:
        """Names of the behaviour channels, eye tracker first; None when a device with channels does not name them."""
        named = (self.eye_tracker.channels, self.treadmill.channels)
        return None if None in named else tuple(name for names in named if names is not None for name in names)

    @property
    def has_video(self) -> bool:
        """Whether what was shown is part of the recording."""
        return self.screen.has_frames

    @property
    def trials(self) -> list[Trial]:
        """All trials in order of presentation."""
        return self.screen.trials

    @property
    def tiers(self) -> list[str]:
        """Tiers that trials carry, in order of first appearance."""
        return list(dict.fromkeys(trial.tier for trial in self.trials if trial.tier not in (None, UNUSED_TIER)))

    @property
    def devices(self) -> tuple[SequenceDevice, SequenceDevice, SequenceDevice]:
        """Responses, eye tracker, treadmill."""
        return self.responses, self.eye_tracker, self.treadmill

    @property
    def start_time(self) -> float:
        """Absolute second from which every device has data."""
        return max(float(self.screen.timestamps[0]), *(device.valid_range[0] for device in self.devices))

    @property
    def end_time(self) -> float:
        """Absolute second up to which every device claims to have data."""
        return min(float(self.screen.timestamps[-1]), *(device.valid_range[1] for device in self.devices))

    def statistics(self, device: SequenceDevice) -> tuple[np.ndarray, np.ndarray]:
        """Means and stds `[S]` of a device: the stored ones, else computed from the train tier and kept in memory."""
        if device.means is not None and device.stds is not None:
            return device.means, device.stds
        if device.name not in self._statistics:
            tiers = ("train",) if "train" in self.tiers else None
            self._statistics[device.name] = streamed_statistics(device, self.row_ranges(device, tiers))
        means, stds = self._statistics[device.name]
        return means if device.means is None else device.means, stds if device.stds is None else device.stds

    def row_ranges(self, device: SequenceDevice, tiers: Iterable[str] | None) -> list[slice]:
        """Contiguous ranges of stored rows sampled inside trials of `tiers` (None: all rows), merged and increasing."""
        if tiers is None:
            return [slice(0, device.shape[0])]
        wanted = set(tiers)
        ranges: list[slice] = []
        for trial in self.trials:
            if trial.tier not in wanted:
                continue
            bounds = (np.array([trial.start, trial.end]) - device.start_time) * device.sampling_rate
            low, high = (int(row) for row in np.ceil(np.clip(bounds, 0, device.shape[0])))
            if ranges and low <= ranges[-1].stop:
                ranges[-1] = slice(ranges[-1].start, max(high, ranges[-1].stop))
            elif high > low:
                ranges.append(slice(low, high))
        return ranges


@dataclass(frozen=True)
class SessionParts:
    """What could be opened of a session folder; None stands for a part with a fatal finding."""

    path: Path
    session_key: str
    animal_id: str
    devices: Mapping[str, SequenceDevice | None] = field(default_factory=lambda: dict.fromkeys(SEQUENCE_DEVICES))
    screen: Screen | None = None
    withheld_tiers: tuple[str, ...] = ()

    def recording(self, findings: Findings) -> RecordingData | None:
        """The whole recording, or None when a part is missing or a finding is fatal."""
        responses, eye_tracker, treadmill = (self.devices[name] for name in SEQUENCE_DEVICES)
        if findings.has_fatal or responses is None or eye_tracker is None or treadmill is None or self.screen is None:
            return None
        return RecordingData(
            self.path, self.session_key, self.animal_id, responses, eye_tracker, treadmill, self.screen,
            tuple(findings), self.withheld_tiers,
        )  # fmt: skip
