"""The recipe of a pre-training: a small YAML file, typed and checked, every field with a default but two.

The defaults are those of the released models (OmniMouse, ICLR 2026): a mask of the 120 per step with equal weight, 8
windows per process, AdamW, warm-up over 20,000 steps, then a constant rate.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omnimouse.corpus.manifest import collection
from omnimouse.model.configuration_omnimouse import PRESETS, OmniMouseConfig
from omnimouse.model.masking.masks import EVALUATION_MASKS, Mask
from omnimouse.model.processing_omnimouse import PROFILES
from omnimouse.support.validation import from_mapping, is_count, require, require_counts, require_numbers, to_mapping
from omnimouse.support.yaml_fields import override, read_yaml, to_yaml
from omnimouse.training.shared.recipe import (
    PUBLISHED_CORE_OPTIMIZER,
    PUBLISHED_SESSION_OPTIMIZER,
    AskedPrecision,
    OptimizerRecipe,
    ScheduleRecipe,
    stored_precision,
)

AUTO = "auto"
EVALUATION_TIERS = ("validation", "oracle")
"""Tiers to evaluate on during training, by preference; tiers for the last scores are left alone."""

VALIDATION_MASKS = tuple(f"validation/{name}" for name in EVALUATION_MASKS["validation"])
"""The eight masks that the released models were validated on during training."""

PUBLISHED_WARMUP_STEPS = 20_000


@dataclass(frozen=True)
class ModelRecipe:
    """What is trained.

    Attributes:
        preset: size of a model that starts from random weights; see `OmniMouseConfig.from_preset`.
        overrides: fields of the configuration that differ from the preset's.
        initialization: "released" for the first weights of the released models; "open" for some that let the stimulus
            through from the first step, for few mice and few steps: see `open_stimulus_path`.
        start_from: name, folder or repo of a model whose core is trained on instead; the fields above are then left
            out of account. Its sessions that are among the recordings keep their vectors.
    """

    preset: str = "5m"
    overrides: dict[str, Any] = field(default_factory=dict)
    initialization: Literal["released", "open"] = "released"
    start_from: str | None = None

    def __post_init__(self) -> None:
        require(self.preset in PRESETS, self, "preset", self.preset, f"one of {', '.join(PRESETS)}")

    def config(self) -> OmniMouseConfig:
        """The configuration of a model that starts from random weights."""
        return OmniMouseConfig.from_preset(self.preset, **self.overrides)


@dataclass(frozen=True)
class RecordingsRecipe:
    """What it is trained on.

    Attributes:
        paths: session folders, or globs of them; relative to where the command is run.
        tiers: tiers of the trials to train on.
        stride: use every stride-th possible window start.
        include_blanks: also train on blank screens between trials.
        profile: how windows are cut and standardised, a profile of `OmniMouseProcessor`.
        weights: session key, or glob of keys -> visits in each round through the sessions of a process; 1 for those
            that no entry names. Of several entries that match, the last one counts.
        collections: names of collections, see `omnimouse.corpus`: of the sessions under `paths`, only those that belong
            to one of them are used; none uses all.
        allow_missing: train on those sessions of the collections that are there, with a warning, rather than refuse
            where some are missing.
        targets: "recorded"; or "expected", for simulated recordings with their truth beside them: where a mask hides a
            neuron altogether, what the simulator expects of it is the target, see `training.expected_targets`.
    """

    paths: tuple[str, ...]
    tiers: tuple[str, ...] = ("train",)
    stride: int = 1
    include_blanks: bool = True
    profile: str = "strict"
    weights: dict[str, int] = field(default_factory=dict)
    collections: tuple[str, ...] = ()
    allow_missing: bool = False
    targets: Literal["recorded", "expected"] = "recorded"

    def __post_init__(self) -> None:
        require(bool(self.paths), self, "paths", self.paths, "at least one session folder or glob")
        require(bool(self.tiers), self, "tiers", self.tiers, "at least one tier, e.g. [train]")
        require(self.profile in PROFILES, self, "profile", self.profile, f"one of {', '.join(PROFILES)}")
        require_counts(self, 1, "stride")
        for name, weight in self.weights.items():
            require(is_count(weight, 1), self, f"weights.{name}", weight, "a whole number, 1 or more")
        for name in self.collections:
            try:
                collection(name)
            except ValueError as error:
                raise ValueError(f"RecordingsRecipe.collections: {error}") from None


@dataclass(frozen=True)
class MasksRecipe:
    """What is hidden and predicted.

    Attributes:
        names: task names, `suite/name` of evaluation masks, or masks written out as their fields; null for the 120
            training masks of the release.
        weights: one per entry of `names`, proportional to how often it is drawn; null weighs them equally.
    """

    names: tuple[str | Mask, ...] | None = None
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class OptimizersRecipe:
    """AdamW of the core, and of session tables and animal vectors, each with a clip of its own."""

    core: OptimizerRecipe = PUBLISHED_CORE_OPTIMIZER
    session: OptimizerRecipe = PUBLISHED_SESSION_OPTIMIZER


@dataclass(frozen=True)
class EvaluationRecipe:
    """Evaluation during training.

    Attributes:
        every: steps between evaluations; null evaluates never.
        tier: held-out trials; sessions without it are left out. "auto": of each session the first of "validation" and
            "oracle" that it has and that is not trained on.
        masks: task names or `suite/name`, each scored where the population can serve it.
        max_windows: windows per session, evenly spread over the tier.
        max_sessions: sessions per process, evenly spread over its own.
        sessions: keys, or globs of them, of the sessions to score instead: runs on different recordings can be
            compared on those that they have in common. `max_sessions` is then left out of account.
    """

    every: int | None = 10_000
    tier: str = AUTO
    masks: tuple[str, ...] = VALIDATION_MASKS
    max_windows: int = 32
    max_sessions: int = 8
    sessions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_counts(self, 1, "every", optional="null")
        require_counts(self, 1, "max_windows", "max_sessions")
        require(bool(self.masks), self, "masks", self.masks, "at least one; or set every to null")


@dataclass(frozen=True)
class OutputsRecipe:
    """What is written.

    Attributes:
        checkpoint_every: steps between checkpoints.
        keep_newest: so many of the newest checkpoints are kept.
        keep_every: checkpoints at multiples of it are kept for good, to be annealed from; null keeps none. Whatever
            `omnimouse anneal` was started from is kept in any case.
        log_every: steps that one line of the console and one row of the history sum up.
        trackers: names of experiment trackers, "trackio" and "tensorboard"; "auto" for trackio if it is installed.
    """

    checkpoint_every: int = 2_000
    keep_newest: int = 2
    keep_every: int | None = 20_000
    log_every: int = 50
    trackers: Literal["auto"] | tuple[str, ...] = "auto"

    def __post_init__(self) -> None:
        require_counts(self, 1, "checkpoint_every", "keep_newest", "log_every")
        require_counts(self, 1, "keep_every", optional="null")
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise ValueError(
                f"OutputsRecipe.keep_every is {self.keep_every}, no multiple of checkpoint_every "
                f"({self.checkpoint_every}), so there would be no such checkpoints; choose a multiple, or null."
            )


@dataclass(frozen=True)
class LoaderRecipe:
    """How windows are read; it changes no result.

    Attributes:
        workers: threads per process that cut batches in advance, one each; 0 cuts when a batch is needed.
        open_recordings: recordings that a process keeps open; those visited longest ago are closed and opened again
            when their turn comes, so that memory does not grow with the corpus.
        on_device: whether windows are cut on the device, from recordings that lie there, normalised, from their first
            visit on; "auto": on a GPU where all of a process's take at most a quarter of the free memory (in-memory
            on a CPU only where asked for). Recordings whose responses are averaged or shifted are cut from disk.
    """

    workers: int = 2
    open_recordings: int = 32
    on_device: Literal["auto"] | bool = "auto"

    def __post_init__(self) -> None:
        require_counts(self, 0, "workers")
        require_counts(self, 1, "open_recordings")


@dataclass(frozen=True)
class PretrainingRecipe:
    """Everything that decides a pre-training.

    Attributes:
        output: folder of the run.
        recordings: what to train on.
        steps: optimizer steps; may be raised later to go on.
        batch_size: windows per step and process.
        seed: decides the first weights, sessions, windows, masks, neuron shuffles and stochastic depth.
        model: what to train.
        masks: what is hidden and predicted.
        optimizer: rates and clips.
        schedule: learning rate over steps, for all optimizers.
        evaluation: evaluation during training.
        outputs: checkpoints, logs and trackers.
        loader: how windows are read.
        loss_limit: a loss above it stops the run like NaN does. Elements of the Poisson loss are clamped to 100, and a
            sensible loss is near 1.
        mixed_precision: "float32" (or "no"), "bfloat16" ("bf16"; the weights stay in float32), or "auto" for bfloat16
            where the device has it.
        cpu: train on CPUs although there are accelerators.
        compile_model: whether the element-wise parts of the blocks are compiled at their first use (`torch.compile`);
            "auto": on CUDA if 2,000 steps or more are to come. It changes results by rounding, and may change on the
            way.
    """

    output: str
    recordings: RecordingsRecipe
    steps: int = 600_000
    batch_size: int = 8
    seed: int = 0
    model: ModelRecipe = field(default_factory=ModelRecipe)
    masks: MasksRecipe = field(default_factory=MasksRecipe)
    optimizer: OptimizersRecipe = field(default_factory=OptimizersRecipe)
    schedule: ScheduleRecipe = field(default_factory=lambda: ScheduleRecipe(warmup_steps=PUBLISHED_WARMUP_STEPS))
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    outputs: OutputsRecipe = field(default_factory=OutputsRecipe)
    loader: LoaderRecipe = field(default_factory=LoaderRecipe)
    loss_limit: float = 20.0
    mixed_precision: AskedPrecision = "auto"
    cpu: bool = False
    compile_model: Literal["auto"] | bool = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mixed_precision", stored_precision(self.mixed_precision))
        require_counts(self, 1, "steps", "batch_size")
        require_counts(self, 0, "seed")
        if self.evaluation.every is not None and self.evaluation.tier in self.recordings.tiers:
            raise ValueError(
                f"evaluation.tier is {self.evaluation.tier!r}, which recordings.tiers trains on, so its scores would "
                "say nothing about other trials. Set it to another tier or 'auto', or evaluation.every to null."
            )
        require_numbers(self, "loss_limit")
        busy = self.schedule.warmup_steps + self.schedule.decay_steps
        if busy > self.steps:
            raise ValueError(
                f"The schedule has {self.schedule.warmup_steps} warm-up and {self.schedule.decay_steps} decay steps, "
                f"together more than the {self.steps} steps of the run; lower schedule.warmup_steps, or raise steps."
            )

    def to_yaml(self) -> str:
        """The recipe as YAML, every field written out."""
        return to_yaml(self)


def load_recipe(
    recipe: PretrainingRecipe | Mapping[str, Any] | str | os.PathLike[str], overrides: Sequence[str] = ()
) -> PretrainingRecipe:
    """Returns a recipe from a YAML file, a mapping or a recipe, with fields overridden.

    Args:
        recipe: path of a YAML file, what such a file holds, or a recipe.
        overrides: `name=value` or `section.name=value`, e.g. `optimizer.core.learning_rate=1e-3`.

    Raises:
        ValueError: no such file, no YAML, an unknown field (the known ones are listed), or a value out of range.
    """
    where = "recipe"
    if isinstance(recipe, PretrainingRecipe):
        values = to_mapping(recipe)
    elif isinstance(recipe, Mapping):
        values = dict(recipe)
    else:
        where, values = os.fspath(recipe), read_yaml(Path(recipe), "recipe", example="steps: 1000")
    return from_mapping(PretrainingRecipe, override(values, overrides), where=where)
