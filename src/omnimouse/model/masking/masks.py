"""The masks of the release, the user-level tasks, and looking them up by name.

Lengths are in samples of the responses (or frames of the video) from the window's start.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.mask_rules import Mask, Piece, ResolvedMask

__all__ = ["EVALUATION_MASKS", "TASKS", "TRAINING_MASKS", "Mask", "Piece", "ResolvedMask", "as_mask", "build_tasks"]


def _released_masks() -> dict[str, dict[str, Mask]]:
    """The masks of the release by suite and name, from the table beside this file, in its order."""
    suites: dict[str, dict[str, Mask]] = defaultdict(dict)
    with files("omnimouse.model.masking").joinpath("release_masks.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            suite, name = row.pop("suite"), row.pop("name")
            values: dict[str, Any] = {column: int(n) if n.isdecimal() else n for column, n in row.items()}
            suites[suite][name] = Mask(**values)
    return dict(suites)


_RELEASED = _released_masks()

TRAINING_MASKS: tuple[Mask, ...] = tuple(_RELEASED.pop("training").values())
"""The 120 training masks of the release, in its order, drawn with equal weight.

Responses and video share a window of 60 samples: where the last `n_frames` frames are shown, no more than
`60 - n_frames` samples of responses are."""

EVALUATION_MASKS: MappingProxyType[str, dict[str, Mask]] = MappingProxyType(_RELEASED)
"""The 53 evaluation masks of the release, by suite (`test`, `test_additional`, `validation`) and name."""


def build_tasks(config: OmniMouseConfig) -> dict[str, Mask]:
    """Builds the user-level tasks for a configuration's window: the second half of the window is predicted.

    For the released window (60 samples) this is `TASKS`. A plain task name says what is predicted (`behavior`,
    `forecasting`, `population`) or shown (`stimulus`); `+x` shows x as well. Behaviour that is not shown is decoded
    too. `population` tasks show a random quarter of the neurons and predict the rest, the proportion of the release
    (1,024 and 3,072).

    Raises:
        ValueError: The window is too short for a prefix, a guard and a target.
    """
    samples, frames = config.num_response_samples, config.num_frames
    w, s = config.response_token_window, config.response_token_stride
    half = samples // 2
    length = (samples - half) // s * s
    begin = samples - length
    prefix = (begin - config.guard_samples - w) // s * s + w
    if prefix < w or begin < config.skip_samples or length < max(w, s):
        raise ValueError(
            f"A window of {samples} samples is too short for the standard tasks: half of it must hold a token of {w} "
            f"samples and a guard of {config.guard_samples}. Use a longer window (num_response_samples) or build a "
            "Mask of your own."
        )
    shown = (length - w) // s * s + w
    whole: dict[str, Any] = {"context_start": 0, "context_length": samples, "behavior": "decoded"}
    late: dict[str, Any] = {"context_start": begin, "context_length": length, "behavior": "decoded"}
    target: dict[str, Any] = {"target_start": begin, "target_length": length}
    forecasting = Mask(None, 0, prefix, **whole, n_target_neurons=None, **target)
    watching = replace(forecasting, context_length=half, n_frames=frames)
    population = Mask(0.25, samples - shown, shown, **late, n_target_neurons=0.75, **target)
    stimulus = Mask(
        0, 0, 0, context_start=0, context_length=0, n_target_neurons=None, **target, n_frames=frames, behavior="decoded"
    )
    behavior = Mask(None, 0, (samples - w) // s * s + w, **whole)
    return {
        "forecasting": forecasting,
        "forecasting+stimulus": watching,
        "forecasting+behavior": replace(forecasting, behavior="encoded"),
        "forecasting+stimulus+behavior": replace(watching, behavior="encoded"),
        "population": population,
        "population+stimulus": replace(population, n_frames=frames),
        "population+behavior": replace(population, behavior="encoded"),
        "population+stimulus+behavior": replace(population, n_frames=frames, behavior="encoded"),
        "stimulus": stimulus,
        "stimulus+behavior": replace(stimulus, behavior="encoded"),
        "behavior": behavior,
        "behavior+stimulus": replace(behavior, n_frames=frames),
    }


TASKS: MappingProxyType[str, Mask] = MappingProxyType(build_tasks(OmniMouseConfig()))
"""User-level tasks for the released window, by name. `build_tasks` makes them for other windows."""


def as_mask(mask: Mask | str, config: OmniMouseConfig | None = None) -> Mask:
    """Returns a mask from a `Mask`, a task name, or `suite/name` of an evaluation mask.

    Args:
        mask: What to look up.
        config: Gives the window that tasks are built for; without it the released window.

    Raises:
        ValueError: The name is unknown; known ones are listed.
    """
    if isinstance(mask, Mask):
        return mask
    tasks = TASKS if config is None else build_tasks(config)
    if isinstance(mask, str):
        if mask in tasks:
            return tasks[mask]
        suite, _, name = mask.partition("/")
        if name in EVALUATION_MASKS.get(suite, {}):
            return EVALUATION_MASKS[suite][name]
        if suite in EVALUATION_MASKS:
            raise ValueError(f"Suite {suite!r} has no mask {name!r}. It has: {', '.join(EVALUATION_MASKS[suite])}.")
    raise ValueError(
        f"Unknown task {mask!r}. Known tasks: {', '.join(tasks)}. Evaluation masks of the release are named "
        f"suite/name, with suites {', '.join(EVALUATION_MASKS)}. Or pass a Mask."
    )
