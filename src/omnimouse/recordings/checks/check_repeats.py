"""Whether a stimulus that is scored was also shown in training, by its identity, or else by its frames.

Shape letters: F frames, H and W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from omnimouse.recordings.data.findings import Findings
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


def check_repeats(
    recording: RecordingData, findings: Findings, *, frame_size: tuple[int, int], deep: bool = True
) -> None:
    """Trials of other tiers that show what training trials show, one finding per tier.

    Args:
        recording: an open recording.
        findings: what is found goes here.
        frame_size: (height, width) that windows need.
        deep: also compare frames, where the identity of stimuli is not known.
    """
    shown = [trial for trial in recording.trials if trial.modality in ("video", "image")]
    training = [trial for trial in shown if trial.tier == TRAINING]
    scored = [trial for trial in shown if trial.tier not in (TRAINING, UNUSED_TIER, None)]
    if not training or not scored:
        return
    known = {trial.condition_hash: trial for trial in training if trial.condition_hash is not None}
    pairs = [(trial, known[trial.condition_hash]) for trial in scored if trial.condition_hash in known]
    # Two identities that differ are two stimuli; where one lacks, only frames can tell.
    complete = all(trial.condition_hash is not None for trial in training)
    unknown = [trial for trial in scored if not complete or trial.condition_hash is None]
    by_frames: list[tuple[Trial, Trial]] = []
    if deep and unknown and recording.has_video:
        nameless = [trial for trial in training if trial.condition_hash is None]
        for named, others in ((False, training), (True, nameless)):
            trials = [trial for trial in unknown if (trial.condition_hash is not None) == named]
            by_frames += _by_frames(recording, others, trials, frame_size)
    apart = _apart(recording, pairs, frame_size) if deep else []
    sure = [pair for pair in (*pairs, *by_frames) if pair not in apart]
    for tier in dict.fromkeys(trial.tier for trial in scored):
        n = sum(trial.tier == tier for trial in scored)
        for found in (sure, apart):
            of_tier = {trial.index: (trial, other) for trial, other in found if trial.tier == tier}
            if of_tier:
                _report(recording, list(of_tier.values()), n, found is sure, findings)


def _report(recording: RecordingData, pairs: list[tuple[Trial, Trial]], n: int, sure: bool, findings: Findings) -> None:
    """One finding about the trials of a tier, of `n` trials, that show what training trials show."""
    trial, other = pairs[0]
    how = "by their frames" if trial.condition_hash is None else f"condition {trial.condition_hash[:40]!r}"
    such = f"such as trials {trial.name or trial.index} and {other.name or other.index}"
    (findings.warning if sure else findings.info)(
        recording.screen.folder,
        f"stimuli of tier {trial.tier!r}",
        expected=f"none that tier {TRAINING!r} shows",
        found=f"{len(pairs)} of {n} trials show what training trials show ({how}), {such}"
        if sure
        else f"{len(pairs)} of {n} trials with the condition of training trials ({how}), {such}, whose frames differ",
        do="A model that was trained on them is scored too well on these; give all repeats of a stimulus one tier."
        if sure
        else "If they do show the same, give all repeats of a stimulus one tier; else conditions of their own.",
    )


def _apart(
    recording: RecordingData, pairs: list[tuple[Trial, Trial]], frame_size: tuple[int, int]
) -> list[tuple[Trial, Trial]]:
    """Pairs of one condition that, as far as their stored stimuli begin, do not show the same."""
    # Trials over arrays are cut out of a movie by time, so that frames say less than whoever named the condition.
    if not recording.has_video or isinstance(recording.screen, ArrayScreen):
        return []
    apart = []
    for trial, other in pairs[:CONFIRMED]:
        one, two = (set(_sequences(recording, each, 256, frame_size)) for each in (trial, other))
        if one and two and not one & two:
            apart.append((trial, other))
    return apart


def _by_frames(
    recording: RecordingData, training: list[Trial], scored: list[Trial], frame_size: tuple[int, int]
) -> list[tuple[Trial, Trial]]:
    """Pairs of a scored and a training trial that show the same frames."""
    if not training or not scored:
        return []
    trials = [*training, *scored]
    together = sum(trial.n_frames for trial in trials)
    most = max(SEQUENCE, MOST_FRAMES // len(trials)) if together > MOST_FRAMES else max(t.n_frames for t in trials)
    seen: dict[tuple[int, ...], Trial] = {}
    for trial in training:
        for sequence in _sequences(recording, trial, most, frame_size):
            seen.setdefault(sequence, trial)
    pairs: list[tuple[Trial, Trial]] = []
    for trial in scored:
        other = _shown_in(_sequences(recording, trial, most, frame_size), seen)
        if other is None:
            continue
        longer = max(trial.n_frames, other.n_frames)
        if longer > most and len(pairs) < CONFIRMED:
            whole = dict.fromkeys(_sequences(recording, other, min(longer, MOST_FRAMES), frame_size), other)
            other = _shown_in(_sequences(recording, trial, min(longer, MOST_FRAMES), frame_size), whole)
        if other is not None:
            pairs.append((trial, other))
    return pairs


def _shown_in(sequences: Iterable[tuple[int, ...]], seen: dict[tuple[int, ...], Trial]) -> Trial | None:
    """A trial that showed enough of some sequences, None without any."""
    found = [seen.get(sequence) for sequence in sequences]
    there = [trial for trial in found if trial is not None]
    return there[0] if there and len(there) >= ENOUGH * len(found) else None


def _sequences(
    recording: RecordingData, trial: Trial, most: int, frame_size: tuple[int, int]
) -> Iterator[tuple[int, ...]]:
    """Stretches of different frames in a row at the beginning of a trial; uniform ones, blanks, do not count."""
    frames = list(_frames(recording, trial, most, frame_size))
    changes = [frame for number, frame in enumerate(frames) if number == 0 or frame != frames[number - 1]]
    length = min(SEQUENCE, len(changes))
    for first in range(len(changes) - length + 1 if length else 0):
        yield tuple(changes[first : first + length])


def _frames(recording: RecordingData, trial: Trial, most: int, frame_size: tuple[int, int]) -> Iterator[int]:
    """Hashes of the frames of a trial that are not uniform, up to some number of frames."""
    n = min(trial.n_frames, most)
    for low in range(0, n, 256):
        within = np.arange(low, min(low + 256, n))
        try:
            with np.errstate(over="ignore"):  # numbers that are no grey levels are told by whoever checks them
                pictures = np.asarray(recording.screen._trial_frames(trial, within, *frame_size), dtype=np.float32)
        except (ValueError, IndexError, OSError):  # whoever looks at this stimulus says what is wrong with it
            return
        for picture in pictures.reshape(-1, *frame_size):
            # Whole grey levels, off the ties: frames that are resized differ in the last digits.
            levels = np.nan_to_num(np.floor(picture + np.float32(0.37)), nan=-1.0, posinf=-1.0, neginf=-1.0)
            if levels.min() < levels.max():
                digest = hashlib.blake2b(levels.astype("<f4").tobytes(), digest_size=8).digest()
                yield int.from_bytes(digest, "little")
