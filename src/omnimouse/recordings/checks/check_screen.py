"""Looking at trials and stimulus files for what opening does not read: headers, sizes and a sample of the pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from omnimouse.recordings.data.findings import Findings, Tally
from omnimouse.recordings.data.frames import GreyLevels
from omnimouse.recordings.data.plausible import identity
from omnimouse.recordings.data.reading import open_array, read_mapping, shown
from omnimouse.recordings.data.recording_data import UNUSED_TIER
from omnimouse.recordings.data.screen import Screen, Trial

KNOWN_TIERS = (
    "train",
    "validation",
    "oracle",
    "test",
    "final_test",
    "final_test_1",
    "final_test_2",
    "final_test_3",
    "live_test_main",
    "live_test_bonus",
    "final_test_main",
    "final_test_bonus",
    UNUSED_TIER,
)

SAMPLED_FRAMES = 5
"""Frames of each stimulus file whose pixels are looked at."""


def check_trials(screen: Screen, findings: Findings) -> None:
    """Tiers, INVALID periods, file names and caches: everything about trials but their pixels."""
    check_tiers(screen, screen.folder / "meta", findings)
    _check_device(screen, findings)
    _check_files(screen, findings)
    _check_rate(screen, findings)


def check_tiers(screen: Screen, meta: Path, findings: Findings) -> None:
    """Tiers and INVALID periods; `meta` is where trials are stored, a folder of one file each or one file."""
    stimuli = [trial for trial in screen.trials if trial.modality in ("video", "image")]
    untiered = [trial.name for trial in stimuli if trial.tier is None]
    if untiered:
        findings.warning(
            _stored_trial(meta, untiered[0]),
            "tier",
            expected="a tier on every image and video trial",
            found=f"{len(untiered)} of {len(stimuli)} without: {_listed(untiered)}",
            do="The published profiles take them for blanks, the strict profile leaves them out; add their tier.",
        )
    tiers = list(dict.fromkeys(trial.tier for trial in screen.trials if trial.tier is not None))
    if not tiers:
        findings.fatal(meta, "tier", expected="trials with a tier", found="none", do="Add `tier: train` and others.")
    unknown = [tier for tier in tiers if tier not in KNOWN_TIERS]
    if unknown:
        findings.info(
            meta,
            "tier",
            expected=f"one of {', '.join(KNOWN_TIERS)}",
            found=", ".join(map(repr, unknown)),
            do="They can be used under these names.",
        )
    check_names_of_tiers(tiers, meta, findings)
    _check_invalid(screen, meta, findings)
    _check_blanks(screen, meta, findings)


def check_names_of_tiers(tiers: Sequence[str], where: Path, findings: Findings) -> None:
    """Whether one tier is trained on and standardised by, and all have a name ("none" is one, of SENSORIUM)."""
    nameless = [tier for tier in tiers if identity(tier) is None and tier != "none"]
    if nameless:
        found = f"{', '.join(map(repr, nameless))}, which names none"
        do = "Name the tiers of these trials."
        findings.warning(where, "tier", expected="the name of a tier", found=found, do=do)
    if tiers and "train" not in tiers:
        meant = next((tier for tier in tiers if tier.strip().lower() in ("train", "training")), None)
        findings.warning(
            where,
            "tier",
            expected="'train' among the tiers",
            found=", ".join(tiers),
            do="Nothing to train on, unless other tiers are named (train_tiers). Call the tier for training 'train'"
            + (f"; it may be {meant!r}." if meant is not None else "."),
        )


def _stored_trial(meta: Path, name: str) -> Path:
    return meta if meta.suffix else meta / f"{name}.yml"


def _check_invalid(screen: Screen, meta: Path, findings: Findings) -> None:
    invalid = [trial for trial in screen.trials if trial.modality == "invalid"]
    if not invalid:
        return
    last = float(screen.timestamps[-1])
    seconds = sum(min(trial.end, last) - trial.start for trial in invalid)
    findings.info(
        _stored_trial(meta, invalid[0].name),
        "modality",
        expected="no INVALID periods",
        found=f"{len(invalid)} trials, {seconds:.1f} s",
        do="The strict profile leaves them out; the published profiles take them for blanks and show NaN.",
    )


def _check_blanks(screen: Screen, meta: Path, findings: Findings) -> None:
    greys = {trial.interleave_value: trial.name for trial in screen.trials if trial.modality == "blank"}
    outside = [value for value in greys if value is not None and not 0 <= value <= 255]
    if outside:
        findings.warning(
            _stored_trial(meta, greys[outside[0]]),
            "interleave_value",
            expected="a grey level from 0 to 255",
            found=_listed(outside),
            do="It is shown to the model as it is; write the grey level that was on screen, usually 128.0.",
        )
    elif greys and all(value is not None and value <= 1 for value in greys) and set(greys) != {0}:
        findings.warning(
            _stored_trial(meta, next(iter(greys.values()))),
            "interleave_value",
            expected="a grey level from 0 to 255",
            found=f"{_listed(list(greys))} on every blank",
            do="The grey levels look scaled to 0-1; write them times 255.",
        )


def _check_device(screen: Screen, findings: Findings) -> None:
    """The metadata of the device itself, which nothing here needs."""
    problems = Findings()
    meta = read_mapping(screen.folder / "meta.yml", problems)
    if meta is None or str(shown(meta.get("modality"))).lower() != "'screen'":
        findings.info(
            screen.folder / "meta.yml",
            "modality",
            expected="'screen'",
            found=problems[0].found if meta is None else shown(meta.get("modality", "no such key")),
            do="It is not used here, but experanto itself needs it.",
        )


def _check_files(screen: Screen, findings: Findings) -> None:
    meta, known = screen.folder / "meta", {f"{trial.name}.yml" for trial in screen.trials}
    entries = [entry.name for entry in meta.iterdir() if entry.suffix in (".yml", ".yaml")]
    ignored = sorted(set(entries) - known)
    if ignored:
        findings.warning(
            meta,
            "file names",
            expected="five digits and .yml",
            found=_listed(ignored),
            do="These files are ignored, as in experanto; rename them if they are trials.",
        )
    numbers = [int(trial.name) for trial in screen.trials]
    gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if numbers else []
    if gaps:
        findings.warning(
            meta,
            "numbering",
            expected=f"consecutive trials from {numbers[0]} to {numbers[-1]}",
            found=f"{len(gaps)} missing: {_listed(gaps)}",
            do="Trials may have been lost in copying.",
        )
    cache = screen.folder / "combined_meta.json"
    if cache.is_file() and not _cache_agrees(cache, screen):
        findings.info(
            cache,
            "cache",
            expected="the content of screen/meta/*.yml",
            found="something else",
            do="It is ignored here, but experanto itself trusts it: delete it.",
        )


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


def _check_rate(screen: Screen, findings: Findings) -> None:
    steps = np.diff(screen.timestamps)
    late = 0
    for trial in screen.trials:
        if trial.modality not in ("video", "image"):
            continue
        within = steps[trial.first_frame : trial.first_frame + trial.n_frames - 1]
        if len(within):
            late += int(np.count_nonzero(within > 1.5 * np.median(within)))
    if late:
        findings.info(
            screen.folder / "timestamps.npy",
            "late frames",
            expected="regular intervals within a video",
            found=f"{late} intervals above 1.5 times their video's median",
            do="Nothing: frames are looked up by their own times.",
        )


def check_stimuli(screen: Screen, findings: Findings, *, frame_size: tuple[int, int]) -> None:
    """Headers of all stimulus files and the pixels of a few frames of each.

    Args:
        screen: an open screen.
        findings: what is found goes here.
        frame_size: (height, width) that windows need.
    """
    tally = Tally()
    sizes: set[tuple[int, ...]] = set()
    highest: dict[Path, float] = {}
    levels = GreyLevels()
    for trial in screen.trials:
        if trial.modality not in ("video", "image"):
            continue
        path = screen.folder / "data" / f"{trial.name}.npy"
        problems = Findings()
        stimulus = open_array(path, problems)
        if stimulus is None:
            problem = problems[0]
            tally.add(
                "fatal", problem.field, path, expected=problem.expected, found=problem.found, do=problem.what_to_do
            )
            continue
        if not _check_shape(trial, path, stimulus, frame_size, tally):
            continue
        sizes.add(stimulus.shape[-2:])
        highest[path] = _check_pixels(trial, path, stimulus, levels, tally)
    if max(highest.values(), default=0) > 1:
        check_scale(highest, tally)
    tally.report(findings)
    levels.report_contrast(screen.folder / "data", findings)
    if len(sizes) > 1:
        found = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
        findings.warning(
            screen.folder / "data",
            "frame sizes",
            expected="one size",
            found=found,
            do="Resize the stimuli to one size.",
        )
    if 0 < max(highest.values(), default=0) <= 1:
        findings.warning(
            screen.folder / "data",
            "value range",
            expected="grey levels from 0 to 255",
            found=f"at most {max(highest.values()):.3g} in the sampled frames",
            do="The stimuli look scaled to 0-1; store them times 255, or every frame is nearly black to the model.",
        )


def check_scale(highest: dict[Path, float], tally: Tally) -> None:
    """Single stimuli that look scaled to 0-1 among others that are not; `highest` are their highest grey levels."""
    for path, level in highest.items():
        if 0 < level <= 1:
            tally.add(
                "warning",
                "value range",
                path,
                expected="grey levels from 0 to 255, as other stimuli have",
                found=f"at most {level:.3g}",
                do="They look scaled to 0-1; store them times 255, or they are nearly black to the model.",
            )


def _check_shape(trial: Trial, path: Path, stimulus: np.ndarray, frame_size: tuple[int, int], tally: Tally) -> bool:
    video = trial.modality == "video"
    height, width = frame_size
    wanted = f"({trial.n_frames}, {height}, {width})" if video else f"({height}, {width})"
    if stimulus.ndim == (4 if video else 3) and stimulus.shape[-1] == 3:
        tally.add(
            "fatal", "colour", path, expected=wanted, found=str(stimulus.shape), do="Convert the stimuli to grey."
        )
        return False
    if stimulus.ndim != (3 if video else 2):
        tally.add(
            "fatal", "shape", path, expected=wanted, found=str(stimulus.shape), do="Store (frames, height, width)."
        )
        return False
    if 0 in stimulus.shape:
        tally.add("fatal", "shape", path, expected=wanted, found=str(stimulus.shape), do="Copy the file again.")
        return False
    if video and stimulus.shape[-1] == trial.n_frames != len(stimulus):
        do = "Time comes last here: store (frames, height, width)."
        tally.add("fatal", "shape", path, expected=wanted, found=str(stimulus.shape), do=do)
        return False
    if video and len(stimulus) != trial.n_frames:
        short = len(stimulus) < trial.n_frames
        tally.add(
            "fatal" if short else "warning",
            "frames",
            path,
            expected=f"{trial.n_frames}, the trial's num_frames",
            found=str(len(stimulus)),
            do="The file is truncated or num_frames is wrong." if short else "The surplus frames are never shown.",
        )
    size = stimulus.shape[-2:]
    if trial.image_size is not None and size != trial.image_size:
        tally.add(
            "warning",
            "image_size",
            path,
            expected=f"{trial.image_size}, the trial's image_size (height, width)",
            found=str(size),
            do="Height and width are swapped." if size == trial.image_size[::-1] else "Correct image_size.",
        )
    if size != frame_size:
        swapped = size == frame_size[::-1]
        tally.add(
            "fatal",
            "frame size",
            path,
            expected=f"{height} x {width} (height x width)",
            found=f"{size[0]} x {size[1]}",
            do="Height and width are swapped: transpose the frames."
            if swapped
            else "Resize the stimuli; nothing is resized here.",
        )
    return True


def _check_pixels(trial: Trial, path: Path, stimulus: np.ndarray, levels: GreyLevels, tally: Tally) -> float:
    """Look at a few frames; returns the highest grey level among them."""
    if trial.modality == "video":
        sampled = np.asarray(stimulus[np.unique(np.linspace(0, len(stimulus) - 1, SAMPLED_FRAMES).astype(int))])
    else:
        sampled = np.asarray(stimulus)
    levels.add(sampled)
    finite = np.isfinite(sampled)
    if not finite.all():
        tally.add(
            "warning",
            "pixels",
            path,
            expected="finite grey levels",
            found=f"{np.count_nonzero(~finite) / finite.size:.2%} NaN or infinite in the sampled frames",
            do="They reach the model as they are; repair the stimuli.",
        )
    values = sampled[finite]
    if values.size and (values.min() < 0 or values.max() > 255):
        tally.add(
            "warning",
            "grey levels",
            path,
            expected="0 to 255",
            found=f"{values.min():.4g} to {values.max():.4g}",
            do="Store grey levels from 0 to 255, not normalised ones.",
        )
    return float(values.max()) if values.size else -np.inf


def _listed(names: Sequence[object], limit: int = 5) -> str:
    return ", ".join(map(str, names[:limit])) + (", ..." if len(names) > limit else "")
