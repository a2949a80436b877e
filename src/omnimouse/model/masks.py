"""The masks of the release, the user-level tasks, and looking them up by name.

Lengths are in samples of the responses (or frames of the video) from the window's start.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Literal, TypeVar

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.mask_rules import Count, Mask, Piece, ResolvedMask

__all__ = [
    "EVALUATION_MASKS",
    "TASKS",
    "TRAINING_MASKS",
    "Mask",
    "NotRecordedError",
    "Piece",
    "ResolvedMask",
    "as_mask",
    "build_tasks",
    "fit_mask",
    "fit_masks",
    "usable_masks",
    "without_modalities",
]

# The release's masks, as the rules they follow. A window of 60 samples is shared between responses and video: the
# last `n_frames` frames are shown together with `60 - n_frames` samples of responses.

Key = TypeVar("Key", bound=Hashable)
_Behavior = Literal["encoded", "decoded", "absent"]
_ENCODED: _Behavior = "encoded"
_DECODED: _Behavior = "decoded"
_ABSENT: _Behavior = "absent"
_POPULATIONS = (1024, 256, 64)
_CAUSAL_PREFIXES = {60: ((15, 10), (10, 15), (0, 25)), 20: ((15, 10), (10, 15)), 10: ((10, 10),)}
_WINDOW = 60


def _mask(
    visible: Count,
    prefix: tuple[int, int],
    context: tuple[int, int],
    targets: Count,
    frames: tuple[int, int],
    behavior: _Behavior,
    *,
    full: int = 0,
    target: tuple[int, int] = (30, 30),
) -> Mask:
    target = target if targets != 0 else (0, 0)
    return Mask(visible, *prefix, full, *context, targets, *target, *frames, behavior)


def _training_block(samples: int) -> Iterable[Mask]:
    """Masks that show `samples` samples of responses and the last `60 - samples` frames."""
    frames = (samples, _WINDOW - samples) if samples < _WINDOW else (0, 0)
    if samples == 0:
        return [_mask(0, (0, 0), (0, 0), 3072, frames, behavior) for behavior in (_ENCODED, _ABSENT)]
    whole = samples == _WINDOW
    start = min(_WINDOW - samples, 30)
    early = (0 if samples > 20 else 10, samples)
    ending = min(10 + samples, _WINDOW)
    inverse_prefixes = [(15, 10), (10, 15), *([(0, 25)] if whole else [])] if samples >= 30 else []

    def population(behavior: _Behavior) -> list[Mask]:
        part = (start, samples)
        return [_mask(n, part, part, 3072, frames, behavior) for n in _POPULATIONS]

    def inverse(behavior: _Behavior) -> list[Mask]:
        context = (0 if whole else 10, samples)
        return [
            _mask(n, (begin, ending - begin), context, 3072, frames, behavior, full=full)
            for n in _POPULATIONS
            for begin, full in inverse_prefixes
        ]

    causal_prefixes = _CAUSAL_PREFIXES[samples if samples <= 20 else 60]
    causal = [_mask(n, p, early, 3072, frames, _ENCODED) for n in (4096, *_POPULATIONS) for p in causal_prefixes]
    decoding = [_mask(4096, (0, _WINDOW), (0, _WINDOW), 0, (0, 0), _DECODED), *population(_DECODED)] if whole else []
    return [*population(_ENCODED), *decoding, *causal, *inverse(_ENCODED), *(inverse(_DECODED) if whole else [])]


TRAINING_MASKS: tuple[Mask, ...] = tuple(chain.from_iterable(_training_block(n) for n in (60, 50, 40, 30, 20, 10, 0)))
"""The 120 training masks of the release, in its order, drawn with equal weight."""

_FULL, _LATE, _EARLY, _NONE = (0, 60), (30, 30), (0, 30), (0, 0)


def _population_masks(counts: Sequence[int], video: bool) -> dict[str, Mask]:
    name = "population_{}_response" + ("_video" if video else "")
    frames = _FULL if video else _NONE
    return {
        name.format(n) + suffix: _mask(n, _LATE, _LATE, 3072, frames, behavior)
        for n in counts
        for suffix, behavior in (("_behavior", _ENCODED), ("", _DECODED))
    }


def _causal_masks(prefix: tuple[int, int], *, video_context: tuple[int, int]) -> dict[str, Mask]:
    return {
        f"causal_response_{prefix[1]}{video}{suffix}": _mask(
            None, prefix, video_context if video else _FULL, None, _FULL if video else _NONE, behavior
        )
        for suffix, behavior in (("", _DECODED), ("_behavior", _ENCODED))
        for video in ("", "_video")
    }


def _evaluation_masks() -> dict[str, dict[str, Mask]]:
    hidden = (0, _NONE, _NONE)
    test = {
        "video_behavior": _mask(*hidden, None, _FULL, _ENCODED),
        "video_only": _mask(*hidden, None, _FULL, _DECODED),
        "responses_from_behavior": _mask(*hidden, None, _NONE, _ENCODED),
        "all_response_only": _mask(None, _FULL, _FULL, 0, _NONE, _DECODED),
        "all_response_video": _mask(None, _FULL, _FULL, 0, _FULL, _DECODED),
        **_population_masks((64, 1024), video=False),
        **_population_masks((64, 1024), video=True),
        **_causal_masks((0, 25), video_context=_EARLY),
        **_causal_masks((0, 10), video_context=_EARLY),
    }
    sizes = (16, 32, 64, 128, 256, 512, 1024, 2048)
    # These end where the longest prefix ends, so that only the length of the prefix differs.
    causal = {}
    for video in ("", "_video"):
        for length in (25, 20, 15, 10):
            name = f"causal_response_{length}{video}_behavior"
            causal[name] = _causal_masks((25 - length, length), video_context=_FULL)[name]
    additional = {
        **{name: mask for name, mask in _population_masks(sizes, video=False).items() if name.endswith("behavior")},
        **{name: mask for name, mask in _population_masks(sizes, video=True).items() if name.endswith("behavior")},
        **causal,
    }
    validation = {
        "video_behavior": _mask(*hidden, 4096, _FULL, _ENCODED),
        "stimulus_driven": _mask(*hidden, 4096, _FULL, _ABSENT),
        "causal_response_behavior": _mask(4096, (0, 25), _FULL, 4096, _NONE, _ENCODED),
        "all_response_only": _mask(4096, _FULL, _FULL, 0, _NONE, _DECODED),
        "population_1024_response_behavior": _mask(1024, _FULL, _FULL, 3072, _NONE, _ENCODED),
        "population_1024_response_video_behavior": _mask(1024, _LATE, _LATE, 3072, _LATE, _ENCODED),
        "causal_response_video_behavior": _mask(4096, (0, 25), _EARLY, 4096, _LATE, _ENCODED),
        "inverse_population_causal_response_video_behavior": _mask(
            1024, (10, 40), (10, 40), 3072, (40, 20), _ENCODED, full=15
        ),
    }
    return {"test": test, "test_additional": additional, "validation": validation}


EVALUATION_MASKS: MappingProxyType[str, dict[str, Mask]] = MappingProxyType(_evaluation_masks())
"""The 53 evaluation masks of the release, by suite (`test`, `test_additional`, `validation`) and name."""


def build_tasks(config: OmniMouseConfig) -> dict[str, Mask]:
    """Builds the user-level tasks for a configuration's window: the second half of the window is predicted.

    For the released window (60 samples) this is `TASKS`. A plain task name says what is predicted (`behavior`,
    `forecasting`, `population`) or shown (`stimulus`); `+x` shows x as well. `population` tasks show a random quarter
    of the neurons and predict the rest, the proportion of the release (1,024 and 3,072).

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
    visible = (length - w) // s * s + w
    full, late, early = (0, (samples - w) // s * s + w), (samples - visible, visible), (0, half)
    target, video, none = (begin, length), (0, frames), (0, 0)
    shown, hidden = _ENCODED, _DECODED

    def forecast(frames: tuple[int, int], behavior: _Behavior) -> Mask:
        return _mask(None, (0, prefix), early if frames[1] else (0, samples), None, frames, behavior, target=target)

    def population(frames: tuple[int, int], behavior: _Behavior) -> Mask:
        return _mask(0.25, late, (begin, length), 0.75, frames, behavior, target=target)

    tasks = {}
    for name, rule in (("forecasting", forecast), ("population", population)):
        tasks[name] = rule(none, hidden)
        tasks[f"{name}+stimulus"] = rule(video, hidden)
        tasks[f"{name}+behavior"] = rule(none, shown)
        tasks[f"{name}+stimulus+behavior"] = rule(video, shown)
    tasks["stimulus"] = _mask(0, none, none, None, video, hidden, target=target)
    tasks["stimulus+behavior"] = _mask(0, none, none, None, video, shown, target=target)
    tasks["behavior"] = _mask(None, full, (0, samples), 0, none, hidden)
    tasks["behavior+stimulus"] = _mask(None, full, (0, samples), 0, video, hidden)
    return tasks


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


class NotRecordedError(ValueError):
    """A mask needs what a recording lacks; the message says what."""


def _not_recorded(names: Sequence[str]) -> str:
    return f"this recording has no {' and no '.join(names)}"


def without_modalities(mask: Mask, missing: Collection[str]) -> Mask:
    """Returns the mask for a recording that lacks "video", "behavior" or both: it shows and decodes none of them."""
    if "video" in missing and mask.n_frames:
        mask = replace(mask, frames_start=0, n_frames=0)
    return replace(mask, behavior="absent") if "behavior" in missing and mask.behavior != "absent" else mask


def fit_mask(
    mask: Mask, n_neurons: int, config: OmniMouseConfig, missing: Collection[str] = (), *, go_without: bool = False
) -> Mask:
    """Fits a mask to what was recorded, or says why it does not fit.

    Behaviour that was not recorded is not decoded: nothing is asked for that nobody can answer. A mask that *shows*
    what was not recorded would be another task without it, and does not fit, unless it is to `go_without`.

    Args:
        mask: What is asked for.
        n_neurons: Neurons of the population, after any cut.
        config: The model's configuration.
        missing: Of "video" and "behavior" what the recording lacks.
        go_without: Also hide what the mask shows and the recording lacks, as training masks do.

    Returns:
        The mask itself, or its like for this recording.

    Raises:
        NotRecordedError: It shows or predicts nothing but what is missing, or shows it and may not go without.
        ValueError: The population cannot serve it; see `Mask.resolve`.
    """
    shown = {"video": mask.n_frames > 0, "behavior": mask.behavior == "encoded"}
    lacks = [name for name, is_shown in shown.items() if is_shown and name in missing]
    reason = _not_recorded(lacks)
    if lacks and not go_without:
        raise NotRecordedError(f"it shows {' and '.join(lacks)}, but {reason}")
    fitted = without_modalities(mask, missing)
    if lacks and not (fitted.prefix_length or fitted.n_frames or fitted.behavior == "encoded"):
        raise NotRecordedError(f"it shows nothing but {' and '.join(lacks)}, and {reason}")
    try:
        fitted.resolve(n_neurons, config)
    except ValueError:
        mask.resolve(n_neurons, config)  # where this fails too, it is the population's fault
        raise NotRecordedError(f"it predicts nothing but behavior, and {_not_recorded(['behavior'])}") from None
    return fitted


def fit_masks(
    masks: Mapping[Key, Mask],
    n_neurons: int,
    config: OmniMouseConfig,
    missing: Collection[str] = (),
    *,
    go_without: bool = False,
) -> tuple[dict[Key, Mask], dict[Key, str]]:
    """Sorts masks into those that fit, as `fit_mask` returns them, and the reasons of those that do not."""
    fitted, reasons = {}, {}
    for key, mask in masks.items():
        try:
            fitted[key] = fit_mask(mask, n_neurons, config, missing, go_without=go_without)
        except ValueError as error:
            reasons[key] = str(error)
    return fitted, reasons


def usable_masks(masks: Sequence[Mask], n_neurons: int, config: OmniMouseConfig) -> tuple[list[int], dict[int, str]]:
    """Sorts masks into those a population can serve and those it cannot.

    Args:
        masks: Masks to try.
        n_neurons: Neurons of the session; at most `config.max_population` of them are used at once.
        config: The model's configuration.

    Returns:
        Indices of usable masks, and for each other index the reason.
    """
    fitted, reasons = fit_masks(dict(enumerate(masks)), min(n_neurons, config.max_population), config)
    return list(fitted), reasons
