"""How a recording becomes model inputs: rates, window lengths, normalisation and which windows exist.

Shape letters: T time samples, N neurons, C behaviour channels, H and W pixels of a frame.

The processor is saved beside the model (`preprocessor_config.json`), so a checkpoint carries the preprocessing it was
trained with. Its rules come from one of three profiles:

* ``"published"`` reproduces the pipeline behind the published OmniMouse numbers (experanto, branch `foundation_model`);
* ``"experanto-main"`` reproduces experanto's later main branch;
* ``"strict"``, for new training, keeps their normalisation but drops what is questionable in both: INVALID trials are
  not blanks, a filter that leaves nothing yields no windows, the stride restarts in every trial, times are exact, fast
  responses are averaged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import FeatureExtractionMixin

from omnimouse.hub.sources import HubOptions, find
from omnimouse.model.configuration_omnimouse import BEHAVIOR_CHANNELS
from omnimouse.model.session_tables.session_surgery import SessionTables

_RULE_TABLE: dict[str, tuple[tuple[Any, ...], Any, Any, Any]] = {
    # rule: its choices, and what it is in "published", "experanto-main" and "strict"
    "response_std_floor": (("absolute", "relative"), "absolute", "relative", "relative"),
    "std_guard": ((True, False), False, False, True),
    "time_rule": (("linspace", "integer", "exact"), "linspace", "integer", "exact"),
    "nan_buffer_rule": (("widened", "vicinity"), "widened", "vicinity", "vicinity"),
    "empty_filter_rule": (("ignore", "exclude"), "ignore", "ignore", "exclude"),
    "blank_rule": (("no_tier", "modality"), "no_tier", "no_tier", "modality"),
    "stride_rule": (("global", "trial"), "global", "global", "trial"),
    "lookup_dtype": (("float32", "stored"), "float32", "stored", "float32"),
    "fast_responses": (("pick", "average"), "pick", "pick", "average"),
}

PROFILES: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        profile: {name: row[column] for name, row in _RULE_TABLE.items()}
        for column, profile in enumerate(("published", "experanto-main", "strict"), start=1)
    }
)
"""What each rule is in a profile."""

ABSURD_STD = 100.0
"""Times the median std from which a neuron is none like the others: rules made from means would be made by it."""


class OmniMouseProcessor(FeatureExtractionMixin):
    """Rates, window lengths, normalisation and window rules; JSON beside the model.

    Args:
        profile: "published", "experanto-main" or "strict"; sets every rule below that is not given.
        response_rate, video_rate, behavior_rate: Hz at which a window samples each modality.
        num_response_samples, num_frames, num_behavior_samples: samples per window.
        frame_height, frame_width: pixels of a video frame; frames are not resized.
        behavior_channels: names of the behaviour channels in stored order (eye tracker, then treadmill).
        video_mean, video_std: grey levels; frames become ``(x - video_mean) / video_std``.
        safe_interval: seconds cut from both ends of the time that all devices share.
        nan_vicinity: seconds around a NaN of eye tracker or treadmill that no window may touch.
        response_std_floor: "absolute" raises stds below 1 to 1; "relative" raises those below 1 % of the mean std.
        std_guard: a behaviour std that is zero, negative or not finite becomes 1 (a NaN mean 0), and a
            response std of that kind becomes the floor; stds of more than 100 times their median, which no neuron
            like the others has, do not count for the floor.
        time_rule: "linspace" and "integer" (10 us ticks) as the two experanto branches; "exact" keeps
            ``start + i / rate`` with a tolerance of 10 us at sample boundaries.
        nan_buffer_rule: "vicinity" excludes +-nan_vicinity; "widened" adds ``max(2 / rate, nan_vicinity / 10)``.
        empty_filter_rule: what a NaN filter that leaves no time at all does: "ignore" it or "exclude" everything.
        blank_rule: a blank is a trial without a tier ("no_tier", which admits INVALID trials) or of that "modality".
        stride_rule: the stride counts through the list of all valid starts ("global") or anew in each trial ("trial").
        lookup_dtype: normalise in "float32" or in the dtype "stored" in the file. Windows are float32 either way.
        fast_responses: "pick" the last sample at or before each time of a window, or "average" all samples up to the
            next one where responses are sampled faster (by more than a tenth); behaviour is always picked.

    Raises:
        ValueError: unknown profile, rule or argument, or a number that cannot be meant.
    """

    response_std_floor: str
    std_guard: bool
    time_rule: str
    nan_buffer_rule: str
    empty_filter_rule: str
    blank_rule: str
    stride_rule: str
    lookup_dtype: str
    fast_responses: str

    def __init__(
        self,
        profile: str = "strict",
        *,
        response_rate: float = 30.0,
        num_response_samples: int = 60,
        video_rate: float = 30.0,
        num_frames: int = 60,
        frame_height: int = 36,
        frame_width: int = 64,
        behavior_rate: float = 20.0,
        num_behavior_samples: int = 40,
        behavior_channels: list[str] | tuple[str, ...] = BEHAVIOR_CHANNELS,
        video_mean: float = 113.0,
        video_std: float = 59.0,
        safe_interval: float = 0.5,
        nan_vicinity: float = 0.05,
        **rules: Any,
    ) -> None:
        for key in ("feature_extractor_type", "processor_class", "transformers_version"):
            rules.pop(key, None)
        if profile not in PROFILES:
            raise ValueError(f"unknown profile {profile!r}; choose one of {', '.join(map(repr, PROFILES))}")
        for name, value in rules.items():
            if name not in _RULE_TABLE:
                raise ValueError(f"OmniMouseProcessor has no argument {name!r}; rules are {', '.join(_RULE_TABLE)}")
            if value not in _RULE_TABLE[name][0]:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, _RULE_TABLE[name][0]))}")
        super().__init__()
        self.profile = profile
        self.response_rate = _positive("response_rate", response_rate)
        self.num_response_samples = _count("num_response_samples", num_response_samples)
        self.video_rate = _positive("video_rate", video_rate)
        self.num_frames = _count("num_frames", num_frames)
        self.frame_height = _count("frame_height", frame_height)
        self.frame_width = _count("frame_width", frame_width)
        self.behavior_rate = _positive("behavior_rate", behavior_rate)
        self.num_behavior_samples = _count("num_behavior_samples", num_behavior_samples)
        self.behavior_channels = list(behavior_channels)
        self.video_mean = float(video_mean)
        self.video_std = _positive("video_std", video_std)
        self.safe_interval = _positive("safe_interval", safe_interval, zero=True)
        self.nan_vicinity = _positive("nan_vicinity", nan_vicinity, zero=True)
        for name, value in (PROFILES[profile] | rules).items():
            setattr(self, name, value)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Loads the processor that is stored with a model.

        Args:
            pretrained_model_name_or_path: What `OmniMouseModel.from_pretrained` takes.
            **kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, ...; others replace what is stored.

        Raises:
            ValueError: Nothing of that name, or it comes without a processor.
            OSError: The Hub does not give it.
        """
        source = find(pretrained_model_name_or_path, HubOptions.take(kwargs))
        if source.is_checkpoint:
            return cls.from_dict(processor_fields(cls(profile="published")), **kwargs)
        if not (source.folder / "preprocessor_config.json").is_file():
            raise ValueError(
                f"{source.name} comes without a processor (preprocessor_config.json). Make one with "
                f"OmniMouseProcessor(profile=...), one of {', '.join(map(repr, PROFILES))}."
            )
        return super().from_pretrained(str(source.folder), **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OmniMouseProcessor) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    @property
    def window_seconds(self) -> float:
        """Seconds from the first frame of a window to the first frame after it."""
        return self.num_frames / self.video_rate

    def nan_buffer(self, sampling_rate: float) -> float:
        """Seconds on both sides of a NaN sample of a device of `sampling_rate` Hz that windows keep away from."""
        if self.nan_buffer_rule == "vicinity":
            return self.nan_vicinity
        return self.nan_vicinity + max(2.0 / sampling_rate, 0.1 * self.nan_vicinity)

    def floored_response_stds(self, stds: np.ndarray) -> np.ndarray:
        """Stds `[N]` that responses are divided by, after the floor that keeps silent neurons from exploding.

        Source: OmniMouse (ICLR 2026) trains on ``response / std`` without subtracting the mean.
        """
        stds = np.asarray(stds, dtype=np.float64).reshape(-1).copy()
        if self.response_std_floor == "absolute":
            stds[stds < 1.0] = 1.0
            return stds
        sound = stds[np.isfinite(stds) & (stds >= 0)] if self.std_guard else stds[~np.isnan(stds)]
        if self.std_guard and (sound > 0).any():
            # A single absurd neuron would raise the mean until all others are silent.
            sound = sound[sound <= ABSURD_STD * np.median(sound[sound > 0])]
        floor = 0.01 * float(np.mean(sound)) if sound.size else float("nan")
        stds[stds < floor] = floor
        if self.std_guard:
            # Strict: a std that is still unusable (NaN, inf, or all neurons silent) leaves the responses unscaled.
            stds[~np.isfinite(stds) | (stds <= 0)] = floor if np.isfinite(floor) and floor > 0 else 1.0
        return stds

    def behavior_statistics(self, means: np.ndarray, stds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and stds `[C]` of behaviour channels with the guard of the profile applied."""
        means = np.asarray(means, dtype=np.float64).reshape(-1).copy()
        stds = np.asarray(stds, dtype=np.float64).reshape(-1).copy()
        if self.std_guard:
            means[~np.isfinite(means)] = 0.0
            stds[~np.isfinite(stds) | (stds <= 0)] = 1.0
        return means, stds

    def normalize_responses(self, responses: np.ndarray, floored_stds: np.ndarray) -> np.ndarray:
        """Responses `[T, N]` in stored units to float32 in units of the floored std `[N]`."""
        responses = self._cast(responses)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return (responses / floored_stds.astype(responses.dtype)).astype(np.float32, copy=False)

    def normalize_behavior(self, behavior: np.ndarray, means: np.ndarray, stds: np.ndarray) -> np.ndarray:
        """Behaviour `[T, C]` in stored units to float32 z-scores; means and stds `[C]` from `behavior_statistics`."""
        behavior = self._cast(behavior)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            scaled = (behavior - means.astype(behavior.dtype)) / stds.astype(behavior.dtype)
            return scaled.astype(np.float32, copy=False)

    def normalize_video(self, frames: np.ndarray) -> np.ndarray:
        """Frames `[T, H, W]` on a 0-255 scale to float32 around zero; NaN frames (INVALID trials) stay NaN."""
        frames = np.asarray(frames, dtype=np.float32)
        return (frames - np.float32(self.video_mean)) / np.float32(self.video_std)

    def _cast(self, array: np.ndarray) -> np.ndarray:
        if self.lookup_dtype == "float32" or not np.issubdtype(array.dtype, np.floating):
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, as a check says
                return array.astype(np.float32, copy=False)
        return array


def processor_fields(processor: OmniMouseProcessor) -> dict[str, Any]:
    """The fields of a processor as JSON has them; `OmniMouseProcessor.from_dict` takes them."""
    fields: dict[str, Any] = json.loads(processor.to_json_string())
    return fields


def session_processor(sessions: SessionTables, key: str, own: OmniMouseProcessor | None) -> OmniMouseProcessor:
    """What a session's windows are cut by: the processor it was trained with, else the model's, else `"strict"`.

    Args:
        sessions: The model's sessions; one that is not among them has no processor of its own.
        key: The session.
        own: The model's processor, if any.

    Raises:
        ValueError: The processor that is stored with the session is none.
    """
    spec = sessions.specs.get(sessions.full_key(key))
    if spec is None or spec.processor is None:
        return own or OmniMouseProcessor(profile="strict")
    try:
        return OmniMouseProcessor(**spec.processor)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The processor that is stored with session {spec.key!r} cannot be used: {error}. Copy the adapter or "
            "the model's folder again."
        ) from error


def processor_words(fields: Mapping[str, Any] | None) -> str:
    """A processor in words: its profile, and in what it differs from it; `None` is the model's."""
    if fields is None:
        return "the model's"
    profile = str(fields.get("profile"))
    usual = processor_fields(OmniMouseProcessor(profile=profile)) if profile in PROFILES else {}
    others = [f"{name} {value}" for name, value in fields.items() if usual.get(name, value) != value]
    return ", ".join([f"profile {profile}", *others])


def _positive(name: str, value: float, *, zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    if not np.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name} is {value!r}; it must be finite and {'>= 0' if zero else '> 0'}")
    return float(value)


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be an integer >= 1")
    return int(value)
