"""Who owns which session, and which session, windows, mask and neurons come at which step: pure functions.

All depends on (seed, step, process) alone.

* Sessions: a process cycles through those it owns, in rounds; each round visits every session as often as its weight
  says (once by default), in an order of its own.
* Windows: those of a session's n-th visit, whichever process makes it. Every epoch visits every window once.
* Masks: one for all processes, a function of (seed, step). So all processes do about the same work in a step (they wait
  for the slowest), and the same recipe would serve a sharded core, where processes that skip different parts of the
  model hang. A session whose population cannot serve the mask takes the first of the draws that follow that it can
  serve, which keeps to the weights of the masks.
* Neurons: one shuffle per window, a function of (seed, step, process).

Shape letters: B windows of a batch, P neurons drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omnimouse.training.shared.data import (
    STREAM_MASK,
    STREAM_NEURONS,
    STREAM_SESSIONS,
    STREAM_TORCH,
    BatchPlan,
    draw,
    permutation,
    random_words,
    shuffled_neurons,
    window_indices,
)

_MASK_DRAWS = 64
"""Draws from all masks before a session draws from its own alone; only rare masks get so far."""


@dataclass(frozen=True)
class CorpusPlan(BatchPlan):
    """What one step of one process trains on: also which session, and how often it was visited before."""

    session: str
    visit: int


def name_words(name: str) -> tuple[int, ...]:
    """Turns a name into words for a random key, the same on every machine."""
    digest = hashlib.sha256(name.encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))


def assign_sessions(n_neurons: Mapping[str, int], n_processes: int) -> list[list[str]]:
    """Shares sessions (key -> neurons) out to processes: for each the keys it owns, sorted; with few sessions, none.

    Sessions are dealt in blocks of `n_processes`, from the one with most neurons on, the largest of a block to the
    process that has fewest neurons so far. So processes own equally many sessions or one more, which makes every
    session be visited about equally often, and their neurons differ by no more than those of the largest session.
    A run that is continued on another number of processes deals anew.

    Raises:
        ValueError: no process.
    """
    if n_processes < 1:
        raise ValueError(f"n_processes is {n_processes}; expected 1 or more.")
    owned: list[list[str]] = [[] for _ in range(n_processes)]
    loads = [0] * n_processes
    keys = sorted(n_neurons, key=lambda key: (-n_neurons[key], key))
    for start in range(0, len(keys), n_processes):
        # The loads before the block decide, so that no process gets two sessions of a block.
        by_load = sorted(range(n_processes), key=lambda process: (loads[process], process))
        for process, key in zip(by_load, keys[start : start + n_processes], strict=False):
            owned[process].append(key)
            loads[process] += n_neurons[key]
    return [sorted(keys) for keys in owned]


def session_at(seed: int, step: int, process: int, visits: Mapping[str, int]) -> tuple[str, int]:
    """Returns the session of one step, and how often it was visited before.

    `visits` says how often each session of the process is visited in a round.
    """
    entries = [key for key in sorted(visits) for _ in range(visits[key])]
    turn, position = divmod(step, len(entries))
    order = permutation(len(entries), seed, STREAM_SESSIONS, process, turn)
    key = entries[order[position]]
    earlier = sum(entries[index] == key for index in order[:position])
    return key, turn * visits[key] + earlier


def mask_at(seed: int, step: int, weights: Sequence[float], usable: Collection[int]) -> int:
    """Returns the mask of one step for a session that can serve the masks `usable` (at least one with weight)."""
    for attempt in range(_MASK_DRAWS):
        index = draw(weights, seed, STREAM_MASK, step, attempt)
        if index in usable:
            return index
    own = [weight if index in usable else 0.0 for index, weight in enumerate(weights)]
    return draw(own, seed, STREAM_MASK, step, _MASK_DRAWS)


def corpus_plan(
    seed: int,
    step: int,
    process: int,
    *,
    session: str,
    visit: int,
    n_windows: int,
    batch_size: int,
    mask_weights: Sequence[float],
    usable_masks: Collection[int],
    n_neurons: int,
    max_population: int,
) -> CorpusPlan:
    """Plans one step (0 for the first) of one process; the same arguments always give the same plan.

    Args:
        seed, step, process: of the run, and of what is planned.
        session, visit: see `session_at`.
        n_windows, n_neurons: of the session.
        batch_size: B.
        mask_weights, usable_masks: see `mask_at`.
        max_population: the most neurons a window is trained with.
    """
    source = name_words(session)
    return CorpusPlan(
        step=step,
        window_indices=window_indices(seed, visit, n_windows=n_windows, batch_size=batch_size, source=source),
        mask_index=mask_at(seed, step, mask_weights, usable_masks),
        neuron_ids=shuffled_neurons(batch_size, n_neurons, max_population, seed, STREAM_NEURONS, step, process),
        session=session,
        visit=visit,
    )


def step_seed(seed: int, step: int, process: int) -> int:
    """Returns the seed of whatever torch draws within one step (stochastic depth), in [0, 2**63)."""
    return int(random_words(1, seed, STREAM_TORCH, step, process)[0] >> np.uint64(1))
