"""One case: a damaged session is opened, checked and cut into windows, and what must not happen is reported."""

from __future__ import annotations

import os
import random
import shutil
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fuzzing.mutations import archive_bytes, mutate
from fuzzing.sessions import HEIGHT, READERS, SENSORIUM_NAME, WIDTH, write_tree
from omnimouse import OmniMouseProcessor
from omnimouse.corpus.tar_files import extract_tar
from omnimouse.recordings import (
    Recording,
    Windows,
    check_recording,
    describe,
    mean_responses,
    open_questions,
    open_recording,
)
from omnimouse.recordings.checks.open_questions import question_lines
from omnimouse.recordings.formats.sensorium.clips import ClipScreen
from omnimouse.recordings.views import overview


class ViolationError(Exception):
    """Something that no damage may lead to, other than an exception of the wrong kind."""


@dataclass(frozen=True)
class Case:
    """What became of a case.

    Attributes:
        damage: what was done to the session.
        outcome: "refused" (ValueError, with a fatal finding), "opened" (with or without findings).
        windows: windows that were cut.
    """

    damage: str
    outcome: str
    windows: int


def generator(reader: str, seed: int) -> random.Random:
    """The source of all randomness of a case."""
    return random.Random((zlib.crc32(reader.encode()) << 32) + seed)


def describe_damage(reader: str, seed: int) -> str:
    """What a seed does to a session."""
    rng, tree = generator(reader, seed), READERS[reader].tree()
    return "; ".join(mutate(tree, rng))


def run_case(reader: str, seed: int, scratch: Path) -> Case:
    """Run one case in a folder that does not exist yet and is gone afterwards.

    Raises:
        ViolationError: something was written, a check had no words for a fault, or opening and checking disagree.
        Exception: whatever the package raised that is no ValueError.
    """
    kind, rng = READERS[reader], generator(reader, seed)
    tree = kind.tree()
    damage = mutate(tree, rng)
    try:
        if kind.pack is None:
            path = write_tree(tree, scratch / "given" / SENSORIUM_NAME)
        else:
            content, what = archive_bytes(kind.pack(tree), rng)
            damage.append(what)
            (scratch / "given").mkdir(parents=True)
            path = scratch / "given" / f"{SENSORIUM_NAME}{kind.suffix}"
            path.write_bytes(content)
        before = snapshot(scratch / "given")
        with strict_warnings(), cache_in(scratch / "cache"):
            outcome, windows = _use(path, scratch)
        if snapshot(scratch / "given") != before:
            raise ViolationError("something was written into the recording")
        return Case("; ".join(damage), outcome, windows)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _use(path: Path, scratch: Path) -> tuple[str, int]:
    if path.suffix == ".tar":
        try:
            extract_tar(path, scratch / "unpacked")
        except ValueError:
            return "refused", 0
        path = scratch / "unpacked/session"
    processor = OmniMouseProcessor("strict", frame_height=HEIGHT, frame_width=WIDTH)
    findings = check_recording(path, processor=processor)
    unforeseen = [finding for finding in findings if finding.field == "check"]
    if unforeseen:
        raise ViolationError(f"the check had no words for it: {unforeseen[0]}")
    if not all(finding.expected and finding.found and finding.what_to_do for finding in findings):
        raise ViolationError("a finding is incomplete")
    if max((len(str(finding)) for finding in findings), default=0) > 5000 + 3 * len(str(path)):
        raise ViolationError("a finding is too long to be read")
    try:
        recording = open_recording(path)
    except ValueError:
        if not any(finding.severity == "fatal" for finding in findings):
            raise ViolationError("refused, but nothing that the check found is fatal") from None
        return "refused", 0
    try:
        describe(recording)
        _look_over(recording, processor)
    except ValueError:  # what lies in arrays is found out when they are read
        if not any(finding.severity == "fatal" for finding in findings):
            raise
    cut = 0
    for profile in ("strict", "published", "experanto-main"):
        chosen = OmniMouseProcessor(profile, frame_height=HEIGHT, frame_width=WIDTH)
        for tier in recording.tiers[:3]:
            try:
                windows = Windows(recording, tier, processor=chosen, quiet=True)
                for index in {0, len(windows) // 2, len(windows) - 1} if len(windows) else ():
                    window = windows[index]
                    shapes = {name: tuple(tensor.shape) for name, tensor in window.items()}
                    wanted = {
                        "responses": (60, recording.n_neurons),
                        "video": (1, 60, HEIGHT, WIDTH),
                        "behavior": (5, 40),
                    }
                    if "responses" not in shapes or not shapes.items() <= wanted.items():
                        raise ViolationError(f"a window has the shapes {shapes}")
                    cut += 1
                mean_responses(recording, chosen, tiers=tier)
            except ValueError:
                continue
    return "opened", cut


def _look_over(recording: Recording, processor: OmniMouseProcessor) -> None:
    """What pictures and open questions are made of."""
    if not isinstance(recording.screen, ClipScreen):
        question_lines(open_questions(recording))
    edges = overview.bin_edges(recording.responses.start_time, recording.responses.end_time, 20)
    overview.sorted_neurons(overview.binned_responses(recording.responses, edges)[0], 2)
    for device in (recording.eye_tracker, recording.treadmill):
        overview.binned_channels(device, edges, recording.screen)
    overview.binned_trials(recording.screen, edges)
    overview.frame_intervals(recording.screen, edges)
    if len(recording.tiers) < 4:
        overview.binned_windows(recording, edges, processor)


@contextmanager
def strict_warnings() -> Iterator[None]:
    """Overflow and NaN that nobody meant are errors in our own modules, as they are in the tests."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=RuntimeWarning, module="omnimouse")
        yield


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Unpacked sessions go to this folder."""
    before = os.environ.get("OMNIMOUSE_CACHE")
    os.environ["OMNIMOUSE_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMNIMOUSE_CACHE"]
        else:
            os.environ["OMNIMOUSE_CACHE"] = before


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Kind, size, time of change and content of everything below a folder."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found
