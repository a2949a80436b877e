"""What a pre-training tells: losses by family of tasks, speed, memory and time left, to console, history and trackers.

Sums go on over a checkpoint (they are stored in it), so a resumed run writes the rows that the uninterrupted run would
have written, but for times.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.kernels.row_pieces import row_counts
from omnimouse.model.masking.masks import Mask
from omnimouse.training.runs.trackers import Tracker, log_to
from omnimouse.training.shared.checkpoint import append_history

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

FAMILIES = ("forecasting", "population", "stimulus", "behavior")
"""Of masks, by what a prediction can rely on."""

LOSSES = ("response_loss", "behavior_loss")

STEP_NUMBERS = (
    "problem",
    "stop",
    "first",
    "tokens",
    "flops",
    "session_norm",
    *(f"{family}/{what}" for family in FAMILIES for what in ("loss", "count")),
    *(f"{kind}/{what}" for kind in LOSSES for what in ("sum", "count")),
)
"""What every process says of a step, to be added up; see `GradientSum.exchange`. "first" counts steps of a mask and
population that a process had not met yet: those plan, try kernels and compile, and so are timed apart."""


def mask_family(mask: Mask) -> str:
    """Returns the family of a mask.

    "behavior": predicts no responses. "stimulus": shows none. "population": shows responses at the time of the targets.
    "forecasting": the rest, which shows responses of other times alone.
    """
    if mask.target_length == 0 or mask.n_target_neurons == 0:
        return "behavior"
    if mask.prefix_length == 0:
        return "stimulus"
    begins, ends = mask.prefix_start, mask.prefix_start + mask.prefix_length
    overlaps = begins < mask.target_start + mask.target_length and ends > mask.target_start
    return "population" if overlaps else "forecasting"


def count_tokens(mask: Mask, population: int, config: OmniMouseConfig) -> int:
    """Counts what one window puts through the model: response, behaviour and video tokens, latents, and queries."""
    resolved = mask.resolve(population, config)
    channels = len(config.behavior_channels) * (int(resolved.encodes_behavior) + int(resolved.decodes_behavior))
    return sum(row_counts(resolved, config)) + channels


class Monitor:
    """Sums over steps, and where they go. Made in every process, heard of in the main one.

    Args:
        history: file of the history; None in processes that write nothing.
        log_every: steps that one row sums up.
        last: last step of the run.
        seconds: time spent in earlier sittings.
        sums: of steps that no row has summed up yet, as the attribute of this name.
        trackers: where rows go too.
        progress: whether to print them.

    Attributes:
        sums: what no row has summed up yet.
    """

    def __init__(
        self,
        history: Path | None,
        *,
        log_every: int,
        last: int,
        seconds: float = 0.0,
        sums: Mapping[str, float] | None = None,
        trackers: Sequence[Tracker] = (),
        progress: bool = True,
    ) -> None:
        self.history, self.log_every, self.last = history, log_every, last
        self.trackers, self.progress = list(trackers), progress and history is not None
        self.sums: dict[str, float] = dict(sums or {})
        self._earlier, self._begun = seconds, time.perf_counter()
        # Speed is that of this sitting; what is left is told from its second step on, as the first opens files.
        self._timed: tuple[int, float] | None = None
        self._mark = self._begun
        # Steps, seconds and tokens of ordinary steps and of first steps.
        self._speed = {False: [0.0, 0.0, 0.0], True: [0.0, 0.0, 0.0]}

    @property
    def seconds(self) -> float:
        """Time spent on the run, over all its sittings."""
        return self._earlier + time.perf_counter() - self._begun

    def mark(self) -> None:
        """Lets the time of the next step begin now: evaluating and writing are no part of it."""
        self._mark = time.perf_counter()

    def say(self, text: str) -> None:
        """Prints a line, in the main process."""
        if self.progress:
            print(text, file=sys.stderr, flush=True)

    def note(self, step: int, numbers: Mapping[str, float], rates: Mapping[str, float], core_norm: float) -> None:
        """Takes a step in, and writes a row when it is time to.

        Args:
            step: steps done.
            numbers: `STEP_NUMBERS`, added up over processes.
            rates: learning rates of the step.
            core_norm: norm of the core's mean gradient, before it was clipped.
        """
        summed = {name: value for name, value in numbers.items() if name != "first"}
        for name, value in {**summed, "core_norm": core_norm, "steps": 1.0}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        now, speed = time.perf_counter(), self._speed[numbers["first"] > 0]
        for place, value in enumerate((1.0, now - self._mark, numbers["tokens"])):
            speed[place] += value
        self._mark = now
        if self._timed is None:
            self._timed = (step, now)
        if step % self.log_every == 0 or step == self.last:
            self._write(self._row(step, rates))
            self.sums = {}

    def note_evaluation(self, step: int, scores: Mapping[str, Mapping[str, Any]], sessions: Sequence[str] = ()) -> None:
        """Writes a row of evaluation scores: mask -> {"loss", "score", "behavior_loss", "n_sessions"}."""
        losses = [entry["loss"] for entry in scores.values() if entry["loss"] is not None]
        row = {"kind": "evaluation", "step": step, "loss": _mean(sum(losses), len(losses)), "sessions": list(sessions)}
        self._write({**row, "scores": {name: dict(entry) for name, entry in scores.items()}})

    def _row(self, step: int, rates: Mapping[str, float]) -> dict[str, Any]:
        sums = self.sums
        total, count = (sum(sums[f"{name}/{what}"] for name in FAMILIES) for what in ("loss", "count"))
        elapsed, steps = (time.perf_counter() - self._timed[1], step - self._timed[0]) if self._timed else (0.0, 0)
        (n_plain, plain, tokens), (n_first, first, _) = self._speed[False], self._speed[True]
        return {
            "kind": "training",
            "step": step,
            "loss": _mean(total, count),
            "losses": {name: _mean(sums[f"{name}/loss"], sums[f"{name}/count"]) for name in FAMILIES},
            **{kind: _mean(sums[f"{kind}/sum"], sums[f"{kind}/count"]) for kind in LOSSES},
            "learning_rate": dict(rates),
            "gradient_norm": {"core": sums["core_norm"] / sums["steps"], "session": sums["session_norm"] / count},
            "tokens": sums["tokens"],
            "flops": sums["flops"],
            # What differs from run to run.
            "seconds": self.seconds,
            "steps_per_second": n_plain / plain if plain else None,
            "tokens_per_second": tokens / plain if plain else None,
            "first_steps": {"count": n_first, "seconds": first},
            "seconds_left": elapsed / steps * (self.last - step) if steps and elapsed else None,
            "memory_gib": peak_memory() / 2**30,
        }

    def _write(self, row: dict[str, Any]) -> None:
        if self.history is not None:
            append_history(self.history, row)
            self.trackers = log_to(self.trackers, row)
            self.say(evaluation_line(row) if row["kind"] == "evaluation" else training_line(row, self.last))

    def close(self) -> None:
        """Ends the trackers."""
        with redirect_stdout(sys.stderr):
            for tracker in self.trackers:
                tracker.close()


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def training_line(row: Mapping[str, Any], last: int) -> str:
    """One row of training as a line of text."""
    families = ", ".join(f"{name} {loss:.3f}" for name, loss in row["losses"].items() if loss is not None)
    text = f"step {row['step']:,}/{last:,}  loss {row['loss']:.4f} ({families})"
    if row.get("steps_per_second"):  # rows of earlier versions lack it
        text += f"  {row['steps_per_second']:.3g} steps/s  {row['tokens_per_second']:,.0f} tokens/s"
    if row.get("first_steps", {}).get("count"):
        text += f"  first steps: {row['first_steps']['count']:.0f}, {row['first_steps']['seconds']:.1f} s"
    if row["seconds_left"] is not None:
        text += f"  {duration(row['seconds_left'])} left"
    return f"{text}  {row['memory_gib']:.1f} GiB"


def evaluation_line(row: Mapping[str, Any]) -> str:
    """One row of evaluation as a line of text: loss, and correlation where responses are predicted."""
    parts = [
        f"{name.rpartition('/')[2]} {entry['loss']:.3f}"
        + (f" (r {entry['score']:.3f})" if entry["score"] is not None else "")
        for name, entry in row["scores"].items()
        if entry["loss"] is not None
    ]
    return f"step {row['step']:,}  evaluation: {'; '.join(parts) or 'no mask that these populations can serve'}"


def duration(seconds: float) -> str:
    """Time in words of a useful size."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 60 / 24:.1f} d"


def peak_memory() -> float:
    """Bytes this process has had in use at most: of the GPU if there is one, else of the machine's memory."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated())
    if resource is None:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) * (1 if sys.platform == "darwin" else 1024)
