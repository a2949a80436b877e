"""Writes small SENSORIUM 2022 sessions in the distributed layout, for tests of recordings and of evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

NAME = "static21067-10-18-GrayImageNet-94c6ff995dac583098847cfecd43e7b6"
KEY = "21067-10-18"
NEURONS = 7
TIERS = (
    "test", "train", "validation", "test", "train", "test", "train", "final_test", "test", "train", "test", "train",
    "validation", "test", "train", "final_test", "train", "test", "test", "train",
)  # fmt: skip
IMAGES = (100, 1, 2, 101, 3, 100, 4, 103, 102, 5, 101, 6, 7, 100, 8, 103, 9, 102, 101, 10)
"""Image of every trial: tests show 100 and 101 three times and 102 twice."""


def image(number: int) -> np.ndarray:
    """What was shown, `[1, 144, 256]`."""
    return np.random.default_rng(number).integers(0, 256, (1, 144, 256)).astype(np.float32)


def write_static(root: Path, *, withhold: tuple[str, ...] = ("final_test",), no_behavior: bool = False) -> Path:
    """Writes a session; responses follow the image and vary between repeats."""
    rng = np.random.default_rng(3)
    kept: dict[str, list[np.ndarray]] = {"responses": [], "behavior": [], "pupil_center": []}
    for trial, (tier, number) in enumerate(zip(TIERS, IMAGES, strict=True)):
        tuned = np.random.default_rng(number + 1).gamma(2.0, 3.0, NEURONS)
        arrays = {
            "images": image(number),
            "responses": tuned + rng.gamma(1.0, 1.0, NEURONS),
            "behavior": np.array([rng.normal(50, 5), rng.normal(0, 2), rng.gamma(1.0, 1.0)]) * (not no_behavior),
            "pupil_center": rng.normal([140.0, 90.0], 3.0) * (not no_behavior),
        }
        for kind, array in arrays.items():
            if kind in kept:
                kept[kind].append(array)
            hidden = kind == "responses" and tier in withhold
            (root / "data" / kind).mkdir(parents=True, exist_ok=True)
            np.save(root / f"data/{kind}/{trial}.npy", np.zeros_like(array) if hidden else array)
    for kind, values in kept.items():
        for source in ("all", "stimulus_frame"):
            folder = root / f"meta/statistics/{kind}/{source}"
            folder.mkdir(parents=True)
            np.save(folder / "mean.npy", np.mean(values, axis=0))
            np.save(folder / "std.npy", np.std(values, axis=0))
    (root / "meta/trials").mkdir()
    (root / "meta/neurons").mkdir()
    np.save(root / "meta/trials/tiers.npy", np.array(TIERS))
    np.save(root / "meta/trials/frame_image_id.npy", np.array(IMAGES))
    np.save(root / "meta/trials/frame_image_class.npy", np.array(["imagenet"] * len(TIERS)))
    np.save(root / "meta/trials/trial_idx.npy", np.arange(len(TIERS))[::-1] + 500)
    np.save(root / "meta/neurons/unit_ids.npy", np.arange(NEURONS) * 2 + 1)
    np.save(root / "meta/neurons/cell_motor_coordinates.npy", np.zeros((NEURONS, 3), dtype=int))
    (root / "config.json").write_text(json.dumps({"links": {}}))
    return root


def trials_of(tier: str) -> list[int]:
    """Numbers of the trials of a tier."""
    return [trial for trial, name in enumerate(TIERS) if name == tier]


def stored(folder: Path, kind: str, trial: int) -> np.ndarray:
    """One stored array."""
    return np.load(folder / f"data/{kind}/{trial}.npy")


def change(folder: Path, kind: str, function, trials=(4,)) -> None:
    """Replaces arrays by what a function makes of them."""
    for trial in trials:
        np.save(folder / f"data/{kind}/{trial}.npy", function(stored(folder, kind, trial)))
