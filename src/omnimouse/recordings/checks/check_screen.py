"""Looking at trials and stimulus files for what opening does not read: headers, sizes and a sample of the pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from omnimouse.recordings.checks.check_pixels import Pixels, check_contrast
from omnimouse.recordings.data.findings import Finding, Findings, Kind, merged
from omnimouse.recordings.data.plausible import identity
from omnimouse.recordings.data.reading import open_array, read_fields, shown
from omnimouse.recordings.data.recording_data import UNUSED_TIER
from omnimouse.recordings.data.screen import Screen, Trial
from omnimouse.support.spreading import listed

KNOWN_TIERS = (
    "train", "validation", "oracle", "test", "final_test", "final_test_1", "final_test_2", "final_test_3",
    "live_test_main", "live_test_bonus", "final_test_main", "final_test_bonus", UNUSED_TIER,
)  # fmt: skip

SAMPLED_FRAMES = 5
"""Frames of each stimulus file whose pixels are looked at."""

# fmt: off
UNTIERED = Kind("warning", "tier", "a tier on every image and video trial",
                "The published profiles take them for blanks, the strict profile leaves them out; add their tier.")
NO_TIERS = Kind("fatal", "tier", "trials with a tier", "Add `tier: train` and others.")
UNKNOWN_TIERS = Kind("info", "tier", f"one of {', '.join(KNOWN_TIERS)}", "They can be used under these names.")
NAMELESS = Kind("warning", "tier", "the name of a tier", "Name the tiers of these trials.")
NO_TRAINING = Kind("warning", "tier", "'train' among the tiers",
                   "Nothing to train on, unless other tiers are named (train_tiers). "
                   "Call the tier for training 'train'{meant}.")
INVALID = Kind("info", "modality", "no INVALID periods",
               "The strict profile leaves them out; the published profiles take them for blanks and show NaN.")
NO_GREY = Kind("warning", "interleave_value", "a grey level from 0 to 255",
               "It is shown to the model as it is; write the grey level that was on screen, usually 128.0.")
SCALED_GREY = Kind("warning", "interleave_value", "a grey level from 0 to 255",
                   "The grey levels look scaled to 0-1; write them times 255.")
NO_SCREEN = Kind("info", "modality", "'screen'", "It is not used here, but experanto itself needs it.")
OTHER_FILES = Kind("warning", "file names", "five digits and .yml",
                   "These files are ignored, as in experanto; rename them if they are trials.")
GAPS = Kind("warning", "numbering", "consecutive trials from {first} to {last}",
            "Trials may have been lost in copying.")
CACHE = Kind("info", "cache", "the content of screen/meta/*.yml",
             "It is ignored here, but experanto itself trusts it: delete it.")
LATE_FRAMES = Kind("info", "late frames", "regular intervals within a video",
                   "Nothing: frames are looked up by their own times.")
SIZES = Kind("warning", "frame sizes", "one size", "Resize the stimuli to one size.")
COLOUR = Kind("fatal", "colour", "{wanted}", "Convert the stimuli to grey.")
SHAPE = Kind("fatal", "shape", "{wanted}", "{do}")
TOO_FEW = Kind("fatal", "frames", "{n}, the trial's num_frames", "The file is truncated or num_frames is wrong.")
TOO_MANY = Kind("warning", "frames", "{n}, the trial's num_frames", "The surplus frames are never shown.")
OTHER_SIZE = Kind("warning", "image_size", "{size}, the trial's image_size (height, width)", "{do}")
FRAME_SIZE = Kind("fatal", "frame size", "{height} x {width} (height x width)", "{do}")
# fmt: on


def check_trials(screen: Screen) -> Iterator[Finding]:
    """Tiers, INVALID periods, file names and caches: everything about trials but their pixels."""
    yield from check_tiers(screen, screen.folder / "meta")
    yield from _check_files(screen)
    steps = np.diff(screen.timestamps)
    spans = (steps[t.first_frame : t.first_frame + t.n_frames - 1] for t in _with_frames(screen))
    late = sum(int(np.count_nonzero(within > 1.5 * np.median(within))) for within in spans if len(within))
    if late:
        yield LATE_FRAMES(screen.folder / "timestamps.npy", f"{late} intervals above 1.5 times their video's median")


def _with_frames(screen: Screen) -> list[Trial]:
    return [trial for trial in screen.trials if trial.modality in ("video", "image")]


def check_tiers(screen: Screen, meta: Path) -> Iterator[Finding]:
    """Tiers and INVALID periods; `meta` is where trials are stored, a folder of one file each or one file."""

    def stored(name: str) -> Path:
        return meta if meta.suffix else meta / f"{name}.yml"

    stimuli = _with_frames(screen)
    untiered = [trial.name for trial in stimuli if trial.tier is None]
    if untiered:
        found = f"{len(untiered)} of {len(stimuli)} without: {listed(untiered, 5)}"
        yield UNTIERED(stored(untiered[0]), found)
    tiers = list(dict.fromkeys(trial.tier for trial in screen.trials if trial.tier is not None))
    if not tiers:
        yield NO_TIERS(meta, "none")
    unknown = [tier for tier in tiers if tier not in KNOWN_TIERS]
    if unknown:
        yield UNKNOWN_TIERS(meta, ", ".join(map(repr, unknown)))
    yield from check_names_of_tiers(tiers, meta)
    invalid = [trial for trial in screen.trials if trial.modality == "invalid"]
    if invalid:
        last = float(screen.timestamps[-1])
        seconds = sum(min(trial.end, last) - trial.start for trial in invalid)
        yield INVALID(stored(invalid[0].name), f"{len(invalid)} trials, {seconds:.1f} s")
    greys = {trial.interleave_value: trial.name for trial in screen.trials if trial.modality == "blank"}
    outside = [value for value in greys if value is not None and not 0 <= value <= 255]
    if outside:
        yield NO_GREY(stored(greys[outside[0]]), listed(outside, 5))
    elif greys and all(value is not None and value <= 1 for value in greys) and set(greys) != {0}:
        yield SCALED_GREY(stored(next(iter(greys.values()))), f"{listed(greys, 5)} on every blank")


def check_names_of_tiers(tiers: Sequence[str], where: Path) -> Iterator[Finding]:
    """Whether one tier is trained on and standardised by, and all have a name ("none" is one, of SENSORIUM)."""
    nameless = [tier for tier in tiers if identity(tier) is None and tier != "none"]
    if nameless:
        yield NAMELESS(where, f"{', '.join(map(repr, nameless))}, which names none")
    if tiers and "train" not in tiers:
        meant = next((tier for tier in tiers if tier.strip().lower() in ("train", "training")), None)
        yield NO_TRAINING(where, ", ".join(tiers), meant="" if meant is None else f"; it may be {meant!r}")


def _check_files(screen: Screen) -> Iterator[Finding]:
    """Metadata that nothing here needs, names of the trials' files, and a cache of them."""
    file, problems = screen.folder / "meta.yml", Findings()
    device = read_fields(file, problems)
    if device is None or str(shown(device.get("modality"))).lower() != "'screen'":
        yield NO_SCREEN(file, problems[0].found if device is None else shown(device.get("modality", "no such key")))
    meta, known = screen.folder / "meta", {f"{trial.name}.yml" for trial in screen.trials}
    ignored = sorted({entry.name for entry in meta.iterdir() if entry.suffix in (".yml", ".yaml")} - known)
    if ignored:
        yield OTHER_FILES(meta, listed(ignored, 5))
    numbers = [int(trial.name) for trial in screen.trials]
    gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if numbers else []
    if gaps:
        yield GAPS(meta, f"{len(gaps)} missing: {listed(gaps, 5)}", first=numbers[0], last=numbers[-1])
    cache = screen.folder / "combined_meta.json"
    if cache.is_file() and not _cache_agrees(cache, screen):
        yield CACHE(cache, "something else")


def _cache_agrees(cache: Path, screen: Screen) -> bool:
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(content, dict) or list(content) != [trial.name for trial in screen.trials]:
        return False
    return all(
        isinstance(entry, dict)
        and entry.get("first_frame_idx") == trial.first_frame
        and entry.get("tier") == trial.tier
        and str(entry.get("modality")).lower() == trial.modality
        for entry, trial in zip(content.values(), screen.trials, strict=True)
    )


def check_stimuli(screen: Screen, *, frame_size: tuple[int, int]) -> Iterator[Finding]:
    """Headers of all stimulus files and the pixels of a few frames of each; `frame_size` is that of windows."""
    tally, sizes, pixels, data = Findings(), set(), Pixels(), screen.folder / "data"
    for trial in _with_frames(screen):
        path, problems = data / f"{trial.name}.npy", Findings()
        stimulus = open_array(path, problems)
        if stimulus is not None:
            problems.extend(_check_shape(trial, path, stimulus, frame_size))
        tally.extend(problems[:1] if stimulus is None else problems)
        if stimulus is None or any(finding.field in ("colour", "shape") for finding in problems):
            continue
        sizes.add(stimulus.shape[-2:])
        if trial.modality == "video":
            stimulus = stimulus[np.unique(np.linspace(0, len(stimulus) - 1, SAMPLED_FRAMES).astype(int))]
        tally.extend(pixels.look(np.asarray(stimulus), path, "the sampled frames", what="stimuli"))
    tally.extend(pixels.dark(data, where=" in the sampled frames", what="The stimuli", black="every frame"))
    yield from merged(tally)
    yield from check_contrast(pixels.levels, data)
    if len(sizes) > 1:
        yield SIZES(data, ", ".join(f"{height} x {width}" for height, width in sorted(sizes)))


def _check_shape(trial: Trial, path: Path, stimulus: np.ndarray, frame_size: tuple[int, int]) -> Iterator[Finding]:
    """One finding of "colour" or "shape" where the file holds no frames, else what is odd about these."""
    video, shape, (height, width) = trial.modality == "video", stimulus.shape, frame_size
    wanted = f"({trial.n_frames}, {height}, {width})" if video else f"({height}, {width})"
    do = None
    if stimulus.ndim == (4 if video else 3) and shape[-1] == 3:
        yield COLOUR(path, shape, wanted=wanted)
        return
    if stimulus.ndim != (3 if video else 2):
        do = "Store (frames, height, width)."
    elif 0 in shape:
        do = "Copy the file again."
    elif video and shape[-1] == trial.n_frames != len(stimulus):
        do = "Time comes last here: store (frames, height, width)."
    if do is not None:
        yield SHAPE(path, shape, wanted=wanted, do=do)
        return
    if video and len(stimulus) != trial.n_frames:
        kind = TOO_FEW if len(stimulus) < trial.n_frames else TOO_MANY
        yield kind(path, len(stimulus), n=trial.n_frames)
    size = shape[-2:]
    if trial.image_size is not None and size != trial.image_size:
        swapped = size == trial.image_size[::-1]
        do = "Height and width are swapped." if swapped else "Correct image_size."
        yield OTHER_SIZE(path, size, size=trial.image_size, do=do)
    if size != frame_size:
        do = "Resize the stimuli; nothing is resized here."
        if size == frame_size[::-1]:
            do = "Height and width are swapped: transpose the frames."
        yield FRAME_SIZE(path, f"{size[0]} x {size[1]}", height=height, width=width, do=do)
