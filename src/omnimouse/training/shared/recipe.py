"""How training changes weights: optimizers and schedules, as data.

The numbers of the released OmniMouse models (ICLR 2026) are `PUBLISHED_SESSION_OPTIMIZER` and
`PUBLISHED_CORE_OPTIMIZER`. Session tables and the core always have an optimizer and a gradient clip of their own: their
gradients differ by orders of magnitude, and with one common clip the norm of one session's tables would decide how far
the core, which every session shares, may move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from omnimouse.support.validation import is_number, require, require_counts, require_numbers

MixedPrecision = Literal["no", "bf16"]

AskedPrecision = Literal["auto", "float32", "bfloat16", "no", "bf16"]
"""What recipes take: the words of `evaluate` and `predict`, and those of Accelerate for the same."""


def stored_precision(asked: AskedPrecision) -> MixedPrecision | Literal["auto"]:
    """A precision by the one name that recipes keep and runs are identified with, that of Accelerate."""
    if asked == "float32":
        return "no"
    return "bf16" if asked == "bfloat16" else asked


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW and its gradient clip for one set of parameters.

    Attributes:
        learning_rate: peak learning rate, reached after warm-up.
        weight_decay: decoupled weight decay.
        betas: decay rates of the two Adam moments.
        eps: added to the denominator of the Adam update.
        max_grad_norm: the norm this set's gradients are clipped to.

    Raises:
        ValueError: when a number is outside its range.
    """

    learning_rate: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require_numbers(self, "learning_rate", "eps", "max_grad_norm")
        require_numbers(self, "weight_decay", zero=True)
        valid = len(self.betas) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in self.betas)
        require(valid, self, "betas", self.betas, "two numbers in [0, 1)")


PUBLISHED_SESSION_OPTIMIZER = OptimizerRecipe(learning_rate=3e-3, weight_decay=1e-3)
PUBLISHED_CORE_OPTIMIZER = OptimizerRecipe(learning_rate=7e-4, weight_decay=0.1)


@dataclass(frozen=True)
class ScheduleRecipe:
    """Learning rate over steps: linear warm-up, constant, and an optional decay to near zero at the end.

    Attributes:
        warmup_steps: steps from `initial_learning_rate` up to the peak; 0 starts at the peak.
        decay_steps: the last steps, over which the rate falls as `peak * (1 - sqrt((t + 1) / (decay_steps + 1)))`,
            t = 0 .. decay_steps - 1; 0 keeps it constant. The last step still moves the weights a little.
        initial_learning_rate: rate of the first warm-up step.
    """

    warmup_steps: int = 0
    decay_steps: int = 0
    initial_learning_rate: float = 1e-7

    def __post_init__(self) -> None:
        require_counts(self, 0, "warmup_steps", "decay_steps")
        require_numbers(self, "initial_learning_rate", zero=True)

    def learning_rate(self, peak: float, step: int, total_steps: int) -> float:
        """Returns the learning rate of one step.

        Args:
            peak: learning rate of the constant phase.
            step: 0 for the first step of the run.
            total_steps: steps of the whole run; the decay ends with its last one.
        """
        if step < self.warmup_steps:
            start = min(self.initial_learning_rate, peak)
            return start + (peak - start) * step / self.warmup_steps
        into_decay = step - (total_steps - self.decay_steps)
        if into_decay >= 0 and self.decay_steps > 0:
            return peak * (1.0 - math.sqrt(min(into_decay + 1, self.decay_steps) / (self.decay_steps + 1)))
        return peak
