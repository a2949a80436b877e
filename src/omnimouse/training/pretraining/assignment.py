"""Which process owns which session: as many sessions each, as balanced by neurons as that allows."""

from __future__ import annotations

from collections.abc import Mapping


def assign_sessions(n_neurons: Mapping[str, int], n_processes: int) -> list[list[str]]:
    """Shares sessions out to processes.

    Sessions are dealt in blocks of `n_processes`, from the one with most neurons on, the largest of a block to the
    process that has fewest neurons so far. So processes own equally many sessions or one more, which makes every
    session be visited about equally often, and their neurons differ by no more than those of the largest session.

    The result depends on nothing but the arguments: all processes work it out alike, and a run that is continued on
    another number of processes deals anew.

    Args:
        n_neurons: session key -> neurons.
        n_processes: at least 1; with more processes than sessions, the last ones get none.

    Returns:
        For each process the keys it owns, sorted.

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
