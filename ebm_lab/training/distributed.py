"""The processes that train one model together, and what they agree on.

Each has the same parameters, its own part of every batch, its own random stream and its own share of the replay
buffer; gradients are averages over all. The first alone writes. What follows holds for one process too, where each
is a matter of course: a rank of 0 among 1.

`torchrun` tells a process its place by RANK, WORLD_SIZE and LOCAL_RANK.
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
    """This process's place among `world`; what is one line with one process is a message to all with more."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @staticmethod
    def join() -> "Processes":
        """Meet the other processes that torchrun has begun; alone where there are none. CUDA tensors travel by NCCL,
        all else by gloo."""
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
        """The one that writes and speaks."""
        return self.rank == 0

    def own(self, purpose: str) -> str:
        """The name of this process's random stream for `purpose`."""
        return purpose if self.first else f"{purpose}/process {self.rank}"

    def gather(self, what: T) -> list[T]:
        """What each process has, by rank; anything that pickles, tensors on the CPU."""
        if self.world == 1:
            return [what]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, what)
        return found

    def broadcast(self, what: T) -> T:
        """What the first process has."""
        if self.world == 1:
            return what
        box = [what]
        torch.distributed.broadcast_object_list(box, 0)
        return box[0]

    def on_first(self, act: Callable[[], T]) -> T:
        """What `act`, done by the first process alone, returned; its UserError or OSError is raised in all."""
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
        """What one of them asks for, the first in the order of ranks; None where none does."""
        if self.world == 1:
            return what
        flag = torch.tensor([what is not None], dtype=torch.float32)
        torch.distributed.all_reduce(flag)
        return next(each for each in self.gather(what) if each is not None) if flag else None

    def mean(self, x: Tensor) -> Tensor:
        """The mean over processes of a CPU tensor of one shape; itself, bit for bit, where there is one."""
        if self.world > 1:
            torch.distributed.all_reduce(x)
            x /= self.world
        return x

    def total(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sums over processes, to three decimals."""
        every = self.gather(dict(numbers))
        return {name: round(sum(each[name] for each in every), 3) for name in numbers}

    def join_rows(self, x: Tensor) -> Tensor:
        """(n, ...) of each -> (world n, ...), in the order of ranks."""
        return torch.cat([part.to(x.device) for part in self.gather(x.cpu())]) if self.world > 1 else x

    def own_rows(self, x: Tensor) -> Tensor:
        """(world n, ...) -> this process's (n, ...)."""
        return x.chunk(self.world)[self.rank].clone() if self.world > 1 else x

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make each parameter's gradient the mean over processes, in one message.

        A parameter that has a gradient in some processes counts as zero in the others; one that has none anywhere keeps
        none: a score loss never reaches an energy's last bias, and an optimiser must not decay it.
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
        """Make the objective's parameters and buffers those of the first process, and leave it this process's share of
        the chains."""
        if self.world == 1:
            return
        for tensor in (*objective.parameters(), *objective.buffers()):
            torch.distributed.broadcast(tensor.data, 0)
        for name in objective.rows:
            path, _, leaf = name.rpartition(".")
            owner, rows = objective.get_submodule(path), objective.get_buffer(name)
            setattr(owner, leaf, self.own_rows(rows))


def _leave() -> None:
    """Part with the others once all have come here, or will not: none is cut off in the middle of a message."""
    with suppress(Exception):
        torch.distributed.monitored_barrier(timeout=timedelta(seconds=10))
    torch.distributed.destroy_process_group()


def local_rank() -> int:
    """This process's number on its own machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def all_equal(tensors: Sequence[Tensor], processes: Processes) -> bool:
    """Have the processes the same bits?"""
    if processes.world == 1:
        return True
    sums = torch.stack([t.detach().double().sum() for t in tensors]).cpu()
    return all(torch.equal(sums, other) for other in processes.gather(sums))
