"""Which session, windows, mask and neurons at which step in which process: a pure function of (seed, step, process).

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
    """What one step of one process trains on.

    Attributes:
        session: key of the session.
        visit: how often the session was visited before.
    """

    session: str
    visit: int


def name_words(name: str) -> tuple[int, ...]:
    """Turns a name into words for a random key, the same on every machine."""
    digest = hashlib.sha256(name.encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))


def session_at(seed: int, step: int, process: int, visits: Mapping[str, int]) -> tuple[str, int]:
    """Returns the session of one step, and how often it was visited before.

    Args:
        seed: seed of the run.
        step: 0 for the first step.
        process: number of the process.
        visits: session of the process -> visits in each round.
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
    """Plans one step of one process; the same arguments always give the same plan.

    Args:
        seed: seed of the run.
        step: 0 for the first step.
        process: number of the process.
        session: see `session_at`.
        visit: see `session_at`.
        n_windows: windows of the session.
        batch_size: B.
        mask_weights: one weight for each mask of the run.
        usable_masks: the masks that the session's population can serve.
        n_neurons: neurons of the session.
        max_population: the most neurons a window is trained with.
    """
    return CorpusPlan(
        step=step,
        window_indices=window_indices(
            seed, visit, n_windows=n_windows, batch_size=batch_size, source=name_words(session)
        ),
        mask_index=mask_at(seed, step, mask_weights, usable_masks),
        neuron_ids=shuffled_neurons(batch_size, n_neurons, max_population, seed, STREAM_NEURONS, step, process),
        session=session,
        visit=visit,
    )


def step_seed(seed: int, step: int, process: int) -> int:
    """Returns the seed of whatever torch draws within one step (stochastic depth), in [0, 2**63)."""
    return int(random_words(1, seed, STREAM_TORCH, step, process)[0] >> np.uint64(1))
