"""What processes tell each other: one flat sum per step, and a few words before and after.

Core gradients are averaged by one all-reduce over a flat copy of them rather than by DistributedDataParallel, which
rebuilds its buckets after the first step, so that a resumed run adds in another order (seen at four processes). A
parameter that no process has a gradient for gets zeros: its moments decay and weight decay acts on it. On CPUs the sum
is taken in float64: float32 gradients then add up to the same float32 numbers in whatever order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn


class Processes:
    """The processes of a run, seen from one of them.

    Args:
        accelerator: of this process.

    Attributes:
        rank: number of this process, 0 for the main one.
        count: how many there are.
        device: where tensors have to be to be exchanged.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.rank: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        self.device: torch.device = accelerator.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds a tensor up over processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def add_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Adds numbers up over processes."""
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        return self.add(torch.tensor(list(numbers), dtype=kind, device=self.device)).tolist()

    def from_main(self, number: int) -> int:
        """The whole number (below 2**53 in size) that the main process gives."""
        return int(self.add_numbers([number if self.is_main else 0])[0])

    def wait(self) -> None:
        """Waits until all processes are here."""
        self.add_numbers([0.0])

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Makes an error in one process an error in all, instead of leaving the others waiting; ends with all here.

        The block may not exchange anything with other processes.

        Raises:
            ValueError: another process failed; its own message says why.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        failed = self.add_numbers([float(error is not None)])[0]
        if error is not None:
            raise error
        if failed:
            raise ValueError(f"{int(failed)} of {self.count} processes failed to {what}; their messages say why.")

    def agree(self, words: Sequence[int]) -> bool:
        """Whether all processes give the same whole numbers in [0, 2**16)."""
        rows = torch.zeros(self.count, len(words), dtype=torch.int64, device=self.device)
        rows[self.rank] = torch.tensor(list(words), device=self.device)
        self.add(rows)
        return bool((rows == rows[0]).all())


@dataclass(frozen=True)
class Reduced:
    """What a step's sum brings.

    Attributes:
        n_active: processes that trained on a session.
        animals: ids of the animals that any process has a gradient for.
        extra: the numbers given by each process, added up.
    """

    n_active: int
    animals: frozenset[str]
    extra: list[float]


class GradientSum:
    """Averages the gradients of core and animal vectors over processes, with whatever else a step has to say.

    The core's gradient is the mean over the processes that own a session (weights 1; a process without one has weight
    0). An animal's gradient is the mean over the processes that trained one of its sessions in this step: all that hold
    its vector get that mean, step alike, and so stay in step.

    Args:
        processes: of the run.
        core: parameters that all processes hold.
        animals: animal id -> vector, of the animals that this process holds.
        animal_ids: all animals of the run, in one order for all processes.
        identity_size: length of an animal vector.
        n_extra: numbers that are added up beside.
    """

    def __init__(
        self,
        processes: Processes,
        core: Sequence[nn.Parameter],
        animals: Mapping[str, nn.Parameter],
        animal_ids: Sequence[str],
        *,
        identity_size: int,
        n_extra: int,
    ) -> None:
        self.processes, self.core, self.animals = processes, list(core), dict(animals)
        self.animal_ids = list(animal_ids)
        kind = torch.float64 if core[0].device.type == "cpu" else torch.float32
        n_core = sum(parameter.numel() for parameter in core)
        n_animals = len(self.animal_ids)
        self._flat = torch.zeros(
            n_core + n_animals * (identity_size + 1) + 1 + n_extra, dtype=kind, device=core[0].device
        )
        ends = [n_core, n_animals * identity_size, n_animals, 1, n_extra]
        self._core, vectors, self._counts, self._active, self._extra = self._flat.split(ends)
        self._vectors = vectors.view(n_animals, identity_size)

    def fill(self, *, active: bool, animal: str | None) -> bool:
        """Takes this process's gradients in.

        Args:
            active: whether this process has a session to train.
            animal: the animal of the session trained in this step; None without gradients.

        Returns:
            Whether all of them are finite.
        """
        self._flat.zero_()
        if active:
            self._active.fill_(1.0)
        if animal is None:
            return True
        parts = self._core.split([parameter.numel() for parameter in self.core])
        for parameter, part in zip(self.core, parts, strict=True):
            if parameter.grad is not None:
                part.copy_(parameter.grad.flatten())
        gradient = self.animals[animal].grad
        if gradient is not None:
            index = self.animal_ids.index(animal)
            self._vectors[index].copy_(gradient)
            self._counts[index] = 1.0
        # A sum is not finite when any term is not.
        return bool(torch.isfinite(self._flat.sum()))

    def exchange(self, extra: Sequence[float]) -> Reduced:
        """Adds up over processes and puts the means into `grad` of the core and of the animals held here."""
        self._extra.copy_(torch.tensor(list(extra), dtype=self._flat.dtype))
        self.processes.add(self._flat)
        n_active = round(float(self._active))
        counts = self._counts.tolist()
        parts = self._core.split([parameter.numel() for parameter in self.core])
        for parameter, part in zip(self.core, parts, strict=True):
            parameter.grad = (part / max(n_active, 1)).to(parameter.dtype).view_as(parameter)
        for index, name in enumerate(self.animal_ids):
            if name in self.animals:
                vector = self.animals[name]
                mean = self._vectors[index] / max(counts[index], 1.0)
                vector.grad = mean.to(vector.dtype) if counts[index] else None
        touched = frozenset(name for name, count in zip(self.animal_ids, counts, strict=True) if count)
        return Reduced(n_active, touched, self._extra.tolist())
