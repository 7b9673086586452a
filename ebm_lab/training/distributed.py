"""Data-parallel training: the processes that train one model together, and how they communicate.

Every process has the same parameters, its own part of each batch, its own random stream and its own share of the
replay buffer; gradients are averaged over all processes. Only the first process writes files. A single process is the
special case of rank 0 in a world of 1, where every operation here is trivial.

`torchrun` tells each process its position through RANK, WORLD_SIZE and LOCAL_RANK.
"""

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Objective

T = TypeVar("T")


class Processes:
    """The rank of this process among `world` processes, with the collective operations that training needs."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @staticmethod
    def join() -> "Processes":
        """Join the process group that torchrun started, or return a world of one process if there is none.

        CUDA tensors are sent by NCCL, all others by gloo.
        """
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return Processes()
        if not torch.distributed.is_initialized():
            cuda = torch.cuda.is_available()
            if cuda:
                torch.cuda.set_device(local_rank() % torch.cuda.device_count())
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
            atexit.register(_leave)
        return Processes(torch.distributed.get_rank(), world)

    @property
    def first(self) -> bool:
        """Whether this is the first process, the only one that writes files and prints."""
        return self.rank == 0

    def own(self, purpose: str) -> str:
        """Return the name of this process's random stream for `purpose`."""
        return purpose if self.first else f"{purpose}/process {self.rank}"

    def gather(self, what: T) -> list[T]:
        """Return every process's `what`, in the order of ranks: any object that pickles, with tensors on the CPU."""
        if self.world == 1:
            return [what]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, what)
        return found

    def broadcast(self, what: T) -> T:
        """Return the first process's `what` in every process."""
        if self.world == 1:
            return what
        box = [what]
        torch.distributed.broadcast_object_list(box, 0)
        return box[0]

    def on_first(self, act: Callable[[], T]) -> T:
        """Call `act` in the first process only; its result is returned, or its UserError or OSError raised, in all."""
        result: Any = None
        if self.first:
            try:
                result = act()
            except (UserError, OSError) as error:
                result = error
        result = self.broadcast(result)
        if isinstance(result, UserError | OSError):
            raise result
        return result

    def any_requested(self, what: T | None) -> T | None:
        """Return the `what` of the lowest rank at which it is not None; None if it is None in all processes."""
        if self.world == 1:
            return what
        flag = torch.tensor([what is not None], dtype=torch.float32)
        torch.distributed.all_reduce(flag)
        return next(each for each in self.gather(what) if each is not None) if flag else None

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over processes of a CPU tensor; with one process the same tensor, bit for bit."""
        if self.world > 1:
            torch.distributed.all_reduce(x)
            x /= self.world
        return x

    def total(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Return the sum of each number over processes, rounded to three decimals."""
        every = self.gather(dict(numbers))
        return {name: round(sum(each[name] for each in every), 3) for name in numbers}

    def join_rows(self, x: Tensor) -> Tensor:
        """Concatenate the rows of all processes in the order of ranks: (n, ...) -> (world n, ...)."""
        return torch.cat([part.to(x.device) for part in self.gather(x.cpu())]) if self.world > 1 else x

    def own_rows(self, x: Tensor) -> Tensor:
        """Return this process's rows: (world n, ...) -> (n, ...)."""
        return x.chunk(self.world)[self.rank].clone() if self.world > 1 else x

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each parameter's gradient by its mean over processes, in one message.

        If only some processes have a gradient for a parameter, it counts as zero in the others. A parameter without a
        gradient in any process keeps none: a score loss never reaches an energy's last bias, and an optimiser must not
        decay it.
        """
        if self.world == 1 or not parameters:
            return
        flags = torch.tensor([p.grad is not None for p in parameters]).to(parameters[0])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([flags, *(g.flatten() for g in grads)])
        torch.distributed.all_reduce(flat)
        known, *means = (flat / self.world).split([len(flags), *(g.numel() for g in grads)])
        for p, has, mean in zip(parameters, known.tolist(), means, strict=True):
            p.grad = mean.view_as(p).clone() if has else None

    def share(self, objective: Objective) -> None:
        """Copy the first process's parameters and buffers to all, and keep only this process's share of the chains."""
        if self.world == 1:
            return
        for tensor in (*objective.parameters(), *objective.buffers()):
            torch.distributed.broadcast(tensor.data, 0)
        for name in objective.rows:
            path, _, leaf = name.rpartition(".")
            owner, rows = objective.get_submodule(path), objective.get_buffer(name)
            setattr(owner, leaf, self.own_rows(rows))


def _leave() -> None:
    """Leave the process group after waiting for the others, so that no message is cut off."""
    with suppress(Exception):
        torch.distributed.monitored_barrier(timeout=timedelta(seconds=10))
    torch.distributed.destroy_process_group()


def local_rank() -> int:
    """Return this process's number on its own machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def all_equal(tensors: Sequence[Tensor], processes: Processes) -> bool:
    """Return whether all processes hold the same values, judged by each tensor's sum."""
    if processes.world == 1:
        return True
    sums = torch.stack([t.detach().double().sum() for t in tensors]).cpu()
    return all(torch.equal(sums, other) for other in processes.gather(sums))
