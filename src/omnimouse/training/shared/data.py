"""Which windows, which mask and which neurons at which step: a pure function of (seed, step).

Nothing here has state, so a run resumed at step k sees exactly what the uninterrupted run would have seen, and a
checkpoint stores nothing of the data order but the step. Random numbers are raw words of the counter-based Philox
generator, whose stream NumPy guarantees across versions (it does not for `Generator.permutation` and its kin).

Shape letters: B windows of a batch, N neurons of the session, P neurons drawn (at most `max_population`).
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from omnimouse.evaluation.inputs import Needs
from omnimouse.model.configuration_omnimouse import OmniMouseConfig
from omnimouse.model.masking.mask_fitting import fit_masks
from omnimouse.model.masking.masks import TRAINING_MASKS, Mask, as_mask
from omnimouse.model.processing_omnimouse import OmniMouseProcessor
from omnimouse.recordings import Recording, Windows, mean_responses
from omnimouse.recordings.held_windows import HeldWindows, can_be_held, held_bytes
from omnimouse.support.spreading import listed

Masks = Mask | str | Sequence[Mask | str]
"""What callers pass for masks: one, or several, each also by its name."""

ARRAYS = ("responses", "video", "behavior")
"""What a window may consist of."""

HELD_SHARE = 0.25
"""Of the free memory of a GPU, what windows may take: the rest is for the model's activations."""

Item = TypeVar("Item")
Result = TypeVar("Result")

# One stream of random numbers per question, so that adding a question never changes the answers to the others.
STREAM_WINDOWS, STREAM_MASK, STREAM_NEURONS, STREAM_TORCH, STREAM_VALIDATION, STREAM_SESSIONS, STREAM_VECTORS = range(7)
STREAM_HELD_OUT = 7


@dataclass(frozen=True)
class BatchPlan:
    """What one step trains on.

    Attributes:
        step: 0 for the first step of the run.
        window_indices: int64 [B], positions in the `Windows`.
        mask_index: position in the list of masks.
        neuron_ids: int64 [B, P], for each window the neurons in the order the mask counts them.
    """

    step: int
    window_indices: np.ndarray
    mask_index: int
    neuron_ids: np.ndarray


def random_words(count: int, *key: int) -> np.ndarray:
    """Returns uint64 [count], a pure function of `key`."""
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)


def permutation(count: int, *key: int) -> np.ndarray:
    """Returns int64 [count], a permutation that is a pure function of `key` and `count`."""
    return np.argsort(random_words(count, *key), kind="stable")


_epoch_order = functools.lru_cache(maxsize=16)(permutation)
"""Cached because every step of an epoch asks for its order."""


def window_indices(
    seed: int, step: int, *, n_windows: int, batch_size: int, source: tuple[int, ...] = ()
) -> np.ndarray:
    """Returns int64 [B], the windows of one step.

    Every epoch visits every window once in an order of its own; a batch that reaches the end of an epoch goes on in the
    next one, so every step has `batch_size` windows. Different `source`s have orders that are independent.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, within = np.divmod(positions, n_windows)
    orders = [_epoch_order(n_windows, seed, STREAM_WINDOWS, int(epoch), *source) for epoch in epochs]
    return np.array([order[i] for order, i in zip(orders, within, strict=True)], dtype=np.int64)


def draw(weights: Sequence[float], *key: int) -> int:
    """Returns an index drawn with probabilities proportional to `weights`, a pure function of `key`."""
    cumulative = np.cumsum(np.asarray(weights, dtype=np.float64))
    # The top 53 bits of the word give a float64 in [0, 1), never 1, so the search cannot run off the end.
    uniform = float(random_words(1, *key)[0] >> np.uint64(11)) * 2.0**-53
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def shuffled_neurons(n_windows: int, n_neurons: int, max_population: int, *key: int) -> np.ndarray:
    """Returns int64 [n_windows, P], one shuffle of the population per window, cut to `max_population`."""
    words = random_words(n_windows * n_neurons, *key).reshape(n_windows, n_neurons)
    return np.argsort(words, axis=1, kind="stable")[:, :max_population].astype(np.int64)


def batch_plan(
    seed: int,
    step: int,
    *,
    n_windows: int,
    batch_size: int,
    mask_weights: Sequence[float],
    n_neurons: int,
    max_population: int,
) -> BatchPlan:
    """Plans one step, 0 for the first: B windows of `n_windows`, a mask drawn by weight, P = min(N, max_population)."""
    return BatchPlan(
        step=step,
        window_indices=window_indices(seed, step, n_windows=n_windows, batch_size=batch_size),
        mask_index=draw(mask_weights, seed, STREAM_MASK, step),
        neuron_ids=shuffled_neurons(batch_size, n_neurons, max_population, seed, STREAM_NEURONS, step),
    )


def validation_neuron_ids(seed: int, n_windows: int, *, n_neurons: int, max_population: int) -> np.ndarray:
    """Returns int64 [n_windows, P]: per validation window a shuffle that stays the same for the whole run."""
    return shuffled_neurons(n_windows, n_neurons, max_population, seed, STREAM_VALIDATION)


def torch_seed(seed: int, step: int) -> int:
    """Returns the seed of whatever torch draws within one step (stochastic depth), in [0, 2**63)."""
    return int(random_words(1, seed, STREAM_TORCH, step)[0] >> np.uint64(1))


@dataclass(frozen=True)
class MaskChoice:
    """The masks a run draws from.

    Attributes:
        names, masks: the masks that fit, see `fit_mask`, and what messages and the history call each.
        weights: their weights, as given (equal by default).
        left_out: name -> reason, for masks that do not fit this population or what was recorded.
        needs_of: for each mask which of "responses", "video" and "behavior" it takes in or is compared with.
    """

    names: tuple[str, ...]
    masks: tuple[Mask, ...]
    weights: tuple[float, ...]
    left_out: dict[str, str]
    needs_of: tuple[tuple[str, ...], ...]

    @property
    def needs(self) -> tuple[str, ...]:
        """What any of the masks needs."""
        return tuple(name for name in ARRAYS if any(name in needs for needs in self.needs_of))


def as_list(masks: Masks) -> Sequence[Mask | str]:
    """Masks and task names as a list, also where there is one by itself."""
    return [masks] if isinstance(masks, Mask | str) else masks


def named_masks(masks: Masks | None, config: OmniMouseConfig) -> tuple[list[str], list[Mask]]:
    """Returns what messages call each mask, and the masks; None stands for the 120 training masks.

    Raises:
        ValueError: when there is none, or a name is unknown.
    """
    wanted: Sequence[Mask | str] = TRAINING_MASKS if masks is None else as_list(masks)
    if not wanted:
        raise ValueError("masks is empty; pass masks or task names, or leave it out for the training masks.")
    prefix = "training" if masks is None else "mask"
    names = [entry if isinstance(entry, str) else f"{prefix}/{i}" for i, entry in enumerate(wanted)]
    return names, [as_mask(entry, config) for entry in wanted]


def choose_masks(
    masks: Masks | None,
    mask_weights: Sequence[float] | None,
    *,
    n_neurons: int,
    config: OmniMouseConfig,
    missing: Sequence[str] = (),
    go_without: bool = True,
) -> MaskChoice:
    """Picks the masks that fit a population of `n_neurons` and what was recorded.

    Args:
        masks: masks or task names; None for the 120 training masks.
        mask_weights: one weight of at least 0 per entry of `masks`; None weighs them equally.
        n_neurons: neurons of a training window, already cut to the largest population.
        config: the model's configuration.
        missing: of "video" and "behavior" what the recording lacks.
        go_without: whether masks that show what is missing go without; else they are left out. See `fit_mask`.

    Raises:
        ValueError: when weights and masks do not match, a name is unknown, or no mask with weight is left.
    """
    names, resolved = named_masks(masks, config)
    weights = [1.0] * len(resolved) if mask_weights is None else [float(weight) for weight in mask_weights]
    if len(weights) != len(resolved):
        raise ValueError(f"mask_weights has {len(weights)} entries for {len(resolved)} masks; give one per mask.")
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"mask_weights must be finite and at least 0; got {weights}.")
    fitted, reasons = fit_masks(dict(enumerate(resolved)), n_neurons, config, missing, go_without=go_without)
    kept = [index for index in fitted if weights[index] > 0]
    left_out = {names[index]: reason for index, reason in reasons.items()}
    if not kept:
        examples = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
        raise ValueError(
            f"None of the {len(resolved)} masks can train a population of {n_neurons} neurons"
            + (f" without {' and '.join(missing)}" if missing else "")
            + (f" ({examples})" if examples else " (all masks have weight 0)")
            + ". Pass masks=[...] with task names or masks that fit it, and a weight above 0 for one."
        )
    return MaskChoice(
        names=tuple(names[i] for i in kept),
        masks=tuple(fitted[i] for i in kept),
        weights=tuple(weights[i] for i in kept),
        left_out=left_out,
        needs_of=tuple(needed_arrays([fitted[i]], n_neurons, config) for i in kept),
    )


def needed_arrays(masks: Sequence[Mask], n_neurons: int, config: OmniMouseConfig) -> tuple[str, ...]:
    """Returns which of "responses", "video" and "behavior" the masks take in or are compared with."""
    needed = {name for mask in masks for name in Needs.of(mask.resolve(n_neurons, config)).passed}
    return tuple(name for name in ARRAYS if name in needed)


def open_windows(
    recording: Recording, tiers: Sequence[str], stride: int, include_blanks: bool, processor: OmniMouseProcessor
) -> Windows:
    """Returns the windows of some tiers.

    Raises:
        ValueError: there is none.
    """
    windows = Windows(recording, tiers, stride=stride, include_blanks=include_blanks, processor=processor)
    if len(windows) == 0:
        raise ValueError(
            f"Recording {recording.path} has no window in {', '.join(windows.tiers)}: {windows.explain()}. Choose "
            "other tiers, or run `omnimouse check` to see what is wrong with them."
        )
    return windows


def choose_holding(on_device: bool | str, windows: Iterable[Windows], device: torch.device) -> tuple[bool, int]:
    """Whether windows are held on a device, and how many bytes they take there, about.

    Args:
        on_device: True, False, or "auto": on CUDA where they take at most `HELD_SHARE` of the memory that is free. On
            a CPU a core takes longer than cutting windows beside it, so that it is left to those who ask for it.
        windows: all that would be held.
        device: where to.
    """
    if on_device == "auto" and device.type != "cuda":
        return False, 0
    n_bytes = sum(held_bytes(part) for part in windows if can_be_held(part)) if on_device else 0
    if on_device != "auto":
        return bool(on_device), n_bytes
    return n_bytes <= HELD_SHARE * torch.cuda.mem_get_info(device)[0], n_bytes


def finite_means(recording: Recording, processor: OmniMouseProcessor, tiers: tuple[str, ...]) -> np.ndarray:
    """Returns the mean response of every neuron over the windows of some tiers, `[N]`, for its bias to start at.

    Raises:
        ValueError: neurons have no finite response there.
    """
    means = mean_responses(recording, processor, tiers=tiers)
    silent = np.flatnonzero(~np.isfinite(means))
    if len(silent):
        named = listed(silent, 10)
        raise ValueError(
            f"Recording {recording.path} has no finite response in tiers {', '.join(tiers)} for {len(silent)} of "
            f"its {recording.n_neurons} neurons: neurons {named} (counted from 0). Leave these neurons out of the "
            "recording, or run `omnimouse check` to see what is wrong with them."
        )
    return means


def cut_batch(
    windows: Windows | HeldWindows,
    indices: Sequence[int] | np.ndarray,
    *,
    needs: Sequence[str],
    device: torch.device | None = None,
) -> dict[str, torch.Tensor]:
    """Cuts windows and refuses values no loss is defined for.

    Args:
        windows: what to cut; held windows stay on their device.
        indices: which, [B].
        needs: of responses [B, 60, N], video [B, 1, 60, 36, 64] and behavior [B, 5, 40] those to cut; the others are
            neither cut nor checked.
        device: where they go; for a CUDA device they lie in memory from which they are copied without waiting.

    Raises:
        ValueError: when an array holds NaN or infinity; it names the array and the start of each window concerned.
    """
    positions = [int(index) for index in indices]
    batch = windows.batch(positions, needs)
    for name, array in batch.items():
        if isinstance(windows, HeldWindows):
            finite = windows.finite(name, positions)
        else:
            finite = _finite_windows(array, windows.missing_channels if name == "behavior" else ())
        if finite.all():
            continue
        bad = np.flatnonzero(~finite)
        starts = ", ".join(f"{windows.starts[positions[i]]:.3f} s" for i in bad)
        raise ValueError(
            f"{name} of the window(s) starting at {starts} (indices {[positions[i] for i in bad]}) "
            "hold NaN or infinity where finite numbers were expected. Run `omnimouse check` on the recording to see "
            "where they are, then repair the array or use the processor profile 'strict', which leaves out windows "
            "with missing behavior or INVALID trials; masks=[...] that do not use the array train without it."
        )
    if device is not None and device.type == "cuda" and not isinstance(windows, HeldWindows):
        return {name: array.pin_memory() for name, array in batch.items()}
    return batch


def _finite_windows(array: torch.Tensor, unrecorded: Sequence[int]) -> np.ndarray:
    """Which windows [B] hold finite values, channels that were not recorded aside."""
    if unrecorded:
        array = array[:, [row for row in range(array.shape[1]) if row not in unrecorded]]
    # A sum is not finite when any term is not, and needs no second array; in float64 it would, twice as large. That of
    # large but finite values is beyond float32.
    if torch.isfinite(array.sum()):
        return np.ones(len(array), dtype=bool)
    return torch.isfinite(array.flatten(1)).all(dim=1).numpy()


def planned_batches(
    windows: Windows | HeldWindows,
    plans: Iterable[BatchPlan],
    *,
    needs: Sequence[Sequence[str]],
    num_workers: int = 0,
    device: torch.device | None = None,
) -> Generator[tuple[BatchPlan, dict[str, torch.Tensor]], None, None]:
    """Yields each plan with its windows, see `cut_batch`; of them, what its mask needs (one entry of `needs` a mask).

    With one worker, the next batch is cut in a thread meanwhile, which alone uses `windows`; the result is the same.

    Raises:
        ValueError: see `cut_batch`; or num_workers is neither 0 nor 1.
    """
    if num_workers not in (0, 1):
        raise ValueError(f"num_workers is {num_workers!r}; expected 0 (cut when asked) or 1 (one thread cuts ahead).")

    def cut(plan: BatchPlan) -> tuple[BatchPlan, dict[str, torch.Tensor]]:
        return plan, cut_batch(windows, plan.window_indices, needs=needs[plan.mask_index], device=device)

    yield from ahead(cut, plans, workers=num_workers)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Generator[Result, None, None]:
    """Yields `function(item)` of every item in order, computed in threads while the caller is busy with earlier ones.

    What the function raises is raised where its result would have been yielded. At most `workers` items are taken in
    advance, so they may be endless; without workers the function is called when its result is asked for.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="omnimouse-windows")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
