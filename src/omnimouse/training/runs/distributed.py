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
    """The processes of a run, seen from one of them: its rank (0 for the main one), and where it exchanges tensors."""

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
    """What is read of a step: processes that trained, animals that any of them has a gradient for, the numbers beside,
    added up, and the norm of the core's mean gradient."""

    n_active: int
    animals: frozenset[str]
    extra: list[float]
    core_norm: float


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
        self.processes, self.animals, self.animal_ids = processes, dict(animals), list(animal_ids)
        n_animals, sizes = len(self.animal_ids), [parameter.numel() for parameter in core]
        kind = torch.float64 if core[0].device.type == "cpu" else torch.float32
        lengths = [*sizes, n_animals * identity_size, n_animals, 1, n_extra]
        self._flat = torch.zeros(sum(lengths), dtype=kind, device=core[0].device)
        *parts, vectors, self._counts, self._active, self._extra = self._flat.split(lengths)
        self._means, self._told = self._flat[: sum(sizes)], self._flat[-sum(lengths[-3:]) :]
        self._core = [(parameter, part.view_as(parameter)) for parameter, part in zip(core, parts, strict=True)]
        self._vectors = vectors.view(n_animals, identity_size)

    def fill(self, *, active: bool, animal: str | None) -> torch.Tensor:
        """Takes this process's gradients in, and returns a number that is finite if all of them are, yet unread.

        Args:
            active: whether this process has a session to train.
            animal: the animal of the session trained in this step; None without gradients.
        """
        self._flat.zero_()
        self._active.fill_(float(active))
        if animal is not None:
            given = [(part, parameter.grad) for parameter, part in self._core if parameter.grad is not None]
            torch._foreach_copy_([part for part, _ in given], [gradient for _, gradient in given])
            gradient = self.animals[animal].grad
            if gradient is not None:
                index = self.animal_ids.index(animal)
                self._vectors[index].copy_(gradient)
                self._counts[index].fill_(1.0)
        return self._flat.sum()

    def exchange(self, extra: Sequence[float | torch.Tensor]) -> None:
        """Adds up over processes and puts the means into `grad` of the core; `read` says the rest.

        Numbers beside may lie on the device: nothing is waited for.
        """
        told = torch.tensor([0.0 if isinstance(n, torch.Tensor) else n for n in extra], dtype=self._flat.dtype)
        self._extra.copy_(told, non_blocking=True)
        for place, number in zip(self._extra, extra, strict=True):
            if isinstance(number, torch.Tensor):
                place.copy_(number.detach())
        self.processes.add(self._flat)
        self._means.div_(self._active.clamp(min=1.0))
        for parameter, part in self._core:
            parameter.grad = part.to(parameter.dtype)

    def read(self, core_norm: torch.Tensor) -> Reduced:
        """Waits for the device, once, and puts the means into `grad` of the animals held here."""
        numbers: list[float] = torch.cat((self._told, core_norm.detach().to(self._told.dtype)[None])).tolist()
        n_animals = len(self.animal_ids)
        counts = dict(zip(self.animal_ids, numbers, strict=False))
        for total, (name, count) in zip(self._vectors, counts.items(), strict=True):
            if name in self.animals:
                vector = self.animals[name]
                vector.grad = (total / count).to(vector.dtype) if count else None
        animals = frozenset(name for name in counts if counts[name])
        return Reduced(round(numbers[n_animals]), animals, numbers[n_animals + 1 : -1], numbers[-1])
