"""The recipe of a fine-tune: everything but the model, the recording and where results go, as data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from omnimouse.support.validation import is_count
from omnimouse.training.shared.recipe import (
    PUBLISHED_CORE_OPTIMIZER,
    PUBLISHED_SESSION_OPTIMIZER,
    AskedPrecision,
    OptimizerRecipe,
    ScheduleRecipe,
    stored_precision,
)

if TYPE_CHECKING:
    from omnimouse.model.masking.masks import Mask
    from omnimouse.model.processing_omnimouse import OmniMouseProcessor

AUTO = "auto"

MAX_WARMUP_STEPS = 50
"""The most warm-up steps a run has unless told otherwise; with the core frozen, nothing needs a long one."""

FINETUNE_CORE_LEARNING_RATE = 1e-4
"""Peak learning rate of the core when a fine-tune opens it: a seventh of the pre-training rate.

7e-4 is the rate for a core that starts from noise and averages over hundreds of mice. A core that has converged and now
sees one mouse would be driven away from what the others taught it before the new mouse's tables have settled.
"""

_COUNTS = (
    "steps", "batch_size", "checkpoint_every", "validate_every", "max_validation_windows", "patience", "stride",
)  # fmt: skip
_FLAGS = ("train_core", "train_animal", "include_blanks", "validation_all_neurons", "cache_video")
_CHOICES = {"mixed_precision": get_args(AskedPrecision), "start_from": ("auto", "match", "mean")}


@dataclass(frozen=True)
class FinetuneRecipe:
    """How one session is trained; each field is an argument of `finetune` too.

    Attributes:
        steps: optimizer steps of the whole run.
        batch_size: windows per step.
        session_learning_rate: peak learning rate of the session tables.
        train_core: also train the core, as far as it requires gradients: after `peft.get_peft_model` that is the LoRA
            alone. Other sessions in the model are left as they are and no longer fit it.
        core_learning_rate: peak learning rate of the core; lower than in pre-training, so that one mouse does not
            undo what many taught the core.
        warmup_steps: linear warm-up; default: a tenth of the steps, at most 50.
        decay_steps: last steps over which the learning rate falls to near zero; default: a fifth of the steps.
        train_animal: whether to train the animal vector; default: unless another session in the model that was trained
            shares it, which would no longer fit. One that was merely added does not count. To keep several sessions of
            one animal together, train one, load or keep it in the model, and train the next: they share its vector.
        masks: masks or task names to train on; default: the 120 training masks of the released models, which go without
            what the recording lacks. Behaviour that was not recorded is not decoded; of the masks given, those that
            show what was not recorded are left out.
        mask_weights: weight of each mask; default: equal.
        processor: how windows are cut; default: the session's own, else the model's, else the profile "strict". It
            becomes the session's own: it travels in adapters and model folders, and `evaluate` and `predict` use it. A
            model without a processor gets it too.
        train_tiers: tier or tiers of the trials to train on.
        stride: use every stride-th possible window start, counted as the processor's `stride_rule` says.
        include_blanks: also train on blank screens between trials.
        validation_tier: trials that decide which weights are kept; None keeps the last ones. "auto" takes the tier
            "validation" or, where a recording has none, holds a tenth of the training trials out: by stimulus, so that
            no repeat of a clip is on both sides, and always the same ones for a seed (`FinetuneResult.tiers`).
        validation_tasks: masks or task names to validate on; default: `masks` when they are given and at most eight,
            else one task per family (`VALIDATION_TASKS`), as far as the population allows.
        validation_all_neurons: validate on the whole population in file order instead of fixed shuffles that are cut to
            the model's largest population.
        validate_every: steps between validations; default: ten over the run.
        max_validation_windows: windows to validate on, evenly spread over the tier.
        patience: stop after so many validations in a row without improvement; default: never.
        seed: decides windows, masks, neuron shuffles and stochastic depth, each together with the step.
        checkpoint_every: steps between checkpoints; default: ten over the run.
        mixed_precision: "float32" (or "no"), "bfloat16" ("bf16"; the weights stay in float32), or "auto" for bfloat16
            where the device has instructions for it (GPUs, recent CPUs).
        num_workers: 1 cuts windows one batch ahead in a thread, 0 does not; the result is the same.
        on_device: True cuts windows on the device, from the recording held there; False from disk; "auto" on the device
            if that is a GPU and a quarter of its free memory is enough. The result is the same.
        compile_model: True compiles the element-wise parts of the blocks at their first use (`torch.compile`), False
            does not, "auto" does on CUDA if 2,000 steps or more are to come, fewer of which would not earn the
            compilation back. The result is the same up to rounding.
        start_from: where the neurons of a session that the model lacks begin: "mean" at the average neuron that the
            core was trained on, "match" each at the known neuron (of the model's other sessions) whose predictions
            resemble its responses in the training tiers, "auto" for "match" if there are other sessions.
        cache_video: store the video features of the frozen core on disk, and use those that are there, from whatever
            run on the same frames (on a CPU, the result is the same to the last bit). It pays where windows come back:
            in another run on this recording, or with a stride. See `evaluation/encoded_video` for place and size.

    Raises:
        ValueError: a number out of range; warm-up and decay that are longer than the run; features of a core to be
            cached that is trained.
    """

    steps: int = 1000
    batch_size: int = 8
    session_learning_rate: float = PUBLISHED_SESSION_OPTIMIZER.learning_rate
    train_core: bool = False
    core_learning_rate: float = FINETUNE_CORE_LEARNING_RATE
    warmup_steps: int | None = None
    decay_steps: int | None = None
    train_animal: bool | None = None
    masks: Mask | str | Sequence[Mask | str] | None = None
    mask_weights: Sequence[float] | None = None
    processor: OmniMouseProcessor | None = None
    train_tiers: str | Sequence[str] = ("train",)
    stride: int = 1
    include_blanks: bool = True
    validation_tier: str | None = AUTO
    validation_tasks: Mask | str | Sequence[Mask | str] | None = None
    validation_all_neurons: bool = False
    validate_every: int | None = None
    max_validation_windows: int = 32
    patience: int | None = None
    seed: int = 0
    checkpoint_every: int | None = None
    mixed_precision: AskedPrecision = "auto"
    num_workers: int = 1
    on_device: Literal["auto"] | bool = "auto"
    compile_model: Literal["auto"] | bool = "auto"
    start_from: Literal["auto", "match", "mean"] = "auto"
    cache_video: bool = False

    def __post_init__(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for name in (*_COUNTS, "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if not (is_count(value, least) or (value is None and defaults[name] is None)):
                raise ValueError(f"{name} is {value!r}; expected a whole number, {least} or more.")
        for name in _FLAGS:
            value = getattr(self, name)
            if value is None and defaults[name] is None:
                continue
            if isinstance(value, str) or value not in (0, 1):
                raise ValueError(f"{name} is {value!r}; expected True or False.")
            object.__setattr__(self, name, bool(value))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                *others, last = map(repr, choices)
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {', '.join(others)} or {last}.")
        object.__setattr__(self, "mixed_precision", stored_precision(self.mixed_precision))
        if self.cache_video and self.train_core:
            raise ValueError(
                "cache_video=True stores the video features of a core that stays as it is, but train_core=True changes "
                "them at every step. Pass one of both."
            )
        for name in ("on_device", "compile_model"):
            if getattr(self, name) not in (True, False, "auto"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected 'auto', True or False.")
        _ = self.session, self.core  # which refuse what is out of range
        busy = self.schedule.warmup_steps + self.schedule.decay_steps
        if busy > self.steps:
            raise ValueError(
                f"The schedule has {self.schedule.warmup_steps} warm-up and {self.schedule.decay_steps} decay steps, "
                f"together more than the {self.steps} steps of the run; take fewer of them or more steps."
            )

    @cached_property
    def session(self) -> OptimizerRecipe:
        """The optimizer of the session tables."""
        return replace(PUBLISHED_SESSION_OPTIMIZER, learning_rate=self.session_learning_rate)

    @cached_property
    def core(self) -> OptimizerRecipe | None:
        """The optimizer of the core, None where it is frozen."""
        return replace(PUBLISHED_CORE_OPTIMIZER, learning_rate=self.core_learning_rate) if self.train_core else None

    @cached_property
    def schedule(self) -> ScheduleRecipe:
        """The learning rate over steps, for both optimizers."""
        return ScheduleRecipe(
            warmup_steps=min(MAX_WARMUP_STEPS, self.steps // 10) if self.warmup_steps is None else self.warmup_steps,
            decay_steps=self.steps // 5 if self.decay_steps is None else self.decay_steps,
        )

    @property
    def tiers(self) -> tuple[str, ...]:
        """The tiers to train on, also where one was named by itself."""
        return (self.train_tiers,) if isinstance(self.train_tiers, str) else tuple(self.train_tiers)

    @property
    def validation_interval(self) -> int:
        """Steps between validations."""
        return self.validate_every or max(1, self.steps // 10)

    @property
    def checkpoint_interval(self) -> int:
        """Steps between checkpoints."""
        return self.checkpoint_every or max(1, self.steps // 10)

    def identity(self) -> dict[str, Any]:
        """What two sittings of one run have in common of their recipes, by the names that checkpoints have for it."""
        optimizers = {"session": self.session, "core": self.core, "schedule": self.schedule}
        plain = ("steps", "batch_size", "seed", "train_animal", "patience", "mixed_precision")
        values = {name: getattr(self, name) for name in plain} | {"validate_every": self.validation_interval}
        values |= {name: None if part is None else asdict(part) for name, part in optimizers.items()}
        return {f"recipe.{name}": value for name, value in values.items()}


def whole_recipe(recipe: FinetuneRecipe | None, settings: Mapping[str, Any]) -> FinetuneRecipe:
    """A recipe with some fields replaced.

    Raises:
        TypeError: `recipe` is none; a setting that is no field (the message says which may have been meant).
        ValueError: see `FinetuneRecipe`.
    """
    if recipe is not None and not isinstance(recipe, FinetuneRecipe):
        raise TypeError(f"recipe is {recipe!r}; expected a FinetuneRecipe. Give single numbers by name, as steps=1000.")
    known = [field.name for field in fields(FinetuneRecipe)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"the fields of FinetuneRecipe are {', '.join(known)}."
            raise TypeError(f"finetune() got an unexpected keyword argument {name!r}; {meant}")
    return replace(recipe or FinetuneRecipe(), **settings)
