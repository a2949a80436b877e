"""Whether a stimulus that is scored was also shown in training, by its identity, or else by its frames.

Shape letters: F frames, H and W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from omnimouse.recordings.data.findings import Finding, Kind
from omnimouse.recordings.data.recording_data import UNUSED_TIER, RecordingData
from omnimouse.recordings.data.screen import Trial
from omnimouse.recordings.formats.arrays.array_devices import ArrayScreen

TRAINING = "train"
"""Tier of which no other should show the stimuli."""

MOST_FRAMES = 20_000
"""Frames that are read of all trials together, 11 minutes of video; of longer recordings, the first of every trial."""

SEQUENCE = 3
"""Different frames in a row that are compared: single ones recur in many stimuli, such as sparse noise."""

ENOUGH = 0.5
"""Share of what a trial showed that makes it the same stimulus."""

CONFIRMED = 50
"""Trials whose first frames are those of another that are compared to their end."""

# fmt: off
SAME = Kind("warning", "stimuli of tier {tier!r}", f"none that tier {TRAINING!r} shows",
            "A model that was trained on them is scored too well on these; give all repeats of a stimulus one tier.")
DIFFERENT = Kind("info", "stimuli of tier {tier!r}", f"none that tier {TRAINING!r} shows",
                 "If they do show the same, give all repeats of a stimulus one tier; else conditions of their own.")
# fmt: on

Pair = tuple[Trial, Trial]


def check_repeats(recording: RecordingData, *, frame_size: tuple[int, int], deep: bool = True) -> Iterator[Finding]:
    """Trials of other tiers that show what training trials show, one finding per tier.

    Where the identity of stimuli is not known, `deep` compares their frames, at `frame_size` (height, width).
    """
    shown = [trial for trial in recording.trials if trial.modality in ("video", "image")]
    training = [trial for trial in shown if trial.tier == TRAINING]
    scored = [trial for trial in shown if trial.tier not in (TRAINING, UNUSED_TIER, None)]
    if not training or not scored:
        return
    stimuli = _Stimuli(recording, frame_size)
    known = {trial.condition_hash: trial for trial in training if trial.condition_hash is not None}
    pairs = [(trial, known[trial.condition_hash]) for trial in scored if trial.condition_hash in known]
    # Two identities that differ are two stimuli; where one lacks, only frames can tell.
    nameless = [trial for trial in training if trial.condition_hash is None]
    by_frames: list[Pair] = []
    if deep and recording.has_video:
        for named, others in ((False, training), (True, nameless)):
            unknown = [trial for trial in scored if (trial.condition_hash is not None) == named]
            by_frames += stimuli.pairs(others, unknown)
    apart = stimuli.apart(pairs) if deep else []
    sure = [pair for pair in (*pairs, *by_frames) if pair not in apart]
    for tier in dict.fromkeys(trial.tier for trial in scored):
        n = sum(trial.tier == tier for trial in scored)
        for kind, found in ((SAME, sure), (DIFFERENT, apart)):
            of_tier = list({trial.index: (trial, other) for trial, other in found if trial.tier == tier}.values())
            if not of_tier:
                continue
            trial, other = of_tier[0]
            how = "by their frames" if trial.condition_hash is None else f"condition {trial.condition_hash[:40]!r}"
            such = f"({how}), such as trials {trial.name or trial.index} and {other.name or other.index}"
            what = f"trials show what training trials show {such}"
            if kind is DIFFERENT:
                what = f"trials with the condition of training trials {such}, whose frames differ"
            yield kind(recording.screen.folder, f"{len(of_tier)} of {n} {what}", tier=tier)


class _Stimuli:
    """The frames of a recording's trials, compared."""

    def __init__(self, recording: RecordingData, frame_size: tuple[int, int]) -> None:
        self.recording, self.frame_size = recording, frame_size

    def apart(self, pairs: list[Pair]) -> list[Pair]:
        """Pairs of one condition that, as far as their stored stimuli begin, do not show the same."""
        # Trials over arrays are cut out of a movie by time, so that frames say less than whoever named the condition.
        if not self.recording.has_video or isinstance(self.recording.screen, ArrayScreen):
            return []
        apart = []
        for pair in pairs[:CONFIRMED]:
            one, two = (set(self._sequences(trial, 256)) for trial in pair)
            if one and two and not one & two:
                apart.append(pair)
        return apart

    def pairs(self, training: list[Trial], scored: list[Trial]) -> list[Pair]:
        """Pairs of a scored and a training trial that show the same frames."""
        if not training or not scored:
            return []
        lengths = [trial.n_frames for trial in (*training, *scored)]
        most = max(SEQUENCE, MOST_FRAMES // len(lengths)) if sum(lengths) > MOST_FRAMES else max(lengths)
        seen: dict[tuple[int, ...], Trial] = {}
        for trial in training:
            for sequence in self._sequences(trial, most):
                seen.setdefault(sequence, trial)
        pairs: list[Pair] = []
        for trial in scored:
            other = _shown_in(self._sequences(trial, most), seen)
            longer = 0 if other is None else max(trial.n_frames, other.n_frames)
            if other is not None and longer > most and len(pairs) < CONFIRMED:
                longer = min(longer, MOST_FRAMES)
                whole = dict.fromkeys(self._sequences(other, longer), other)
                other = _shown_in(self._sequences(trial, longer), whole)
            if other is not None:
                pairs.append((trial, other))
        return pairs

    def _sequences(self, trial: Trial, most: int) -> Iterator[tuple[int, ...]]:
        """Stretches of different frames in a row at the beginning of a trial; uniform ones, blanks, do not count."""
        frames = list(self._frames(trial, most))
        changes = [frame for number, frame in enumerate(frames) if number == 0 or frame != frames[number - 1]]
        length = min(SEQUENCE, len(changes))
        for first in range(len(changes) - length + 1 if length else 0):
            yield tuple(changes[first : first + length])

    def _frames(self, trial: Trial, most: int) -> Iterator[int]:
        """Hashes of the frames of a trial that are not uniform, up to some number of frames."""
        n = min(trial.n_frames, most)
        for low in range(0, n, 256):
            within = np.arange(low, min(low + 256, n))
            try:
                with np.errstate(over="ignore"):  # numbers that are no grey levels are told by whoever checks them
                    pictures = self.recording.screen.trial_frames(trial, within, *self.frame_size)
                    pictures = np.asarray(pictures, dtype=np.float32)
            except (ValueError, IndexError, OSError):  # whoever looks at this stimulus says what is wrong with it
                return
            for picture in pictures.reshape(-1, *self.frame_size):
                # Whole grey levels, off the ties: frames that are resized differ in the last digits.
                levels = np.nan_to_num(np.floor(picture + np.float32(0.37)), nan=-1.0, posinf=-1.0, neginf=-1.0)
                if levels.min() < levels.max():
                    digest = hashlib.blake2b(levels.astype("<f4").tobytes(), digest_size=8).digest()
                    yield int.from_bytes(digest, "little")


def _shown_in(sequences: Iterable[tuple[int, ...]], seen: dict[tuple[int, ...], Trial]) -> Trial | None:
    """A trial that showed enough of some sequences, None without any."""
    found = [seen.get(sequence) for sequence in sequences]
    there = [trial for trial in found if trial is not None]
    return there[0] if there and len(there) >= ENOUGH * len(found) else None
