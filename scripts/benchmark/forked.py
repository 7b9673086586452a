"""Contestants in processes of their own, which work one at a time.

What a library does to its process (what becomes of freed memory, how many threads wait, what a compiler has loaded)
then helps or hurts it alone. Python's fork server starts them: a process that has imported the lab and done nothing
else. A fork of this process would not do. Threads do not live through a fork, and torch 2.11 refuses every backward
pass in the child of a process that has traced one.
"""

import gc
import multiprocessing
import pkgutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch

import ebm_lab
from ebm_lab.core.errors import UserError
from scripts.benchmark.timing import Work, timed

Task = Callable[[Work | None], Any]
"""What a process is asked to do with its work; a function of a module, for it is sent by name."""


class Apart:
    """A process that makes its work at its start; called with a number of units, the (CPU, wall) seconds of each.

    `make` returns the work, or None where there is none, and what is to be told of it. It is a function of a module, or
    a `partial` of one, for it is sent by name.
    """

    def __init__(self, make: Callable[[], tuple[Work | None, Any]]) -> None:
        if "forkserver" not in multiprocessing.get_all_start_methods():
            raise UserError("this system starts no process by fork, which a race needs: run it on Linux")
        context = multiprocessing.get_context("forkserver")
        lab = [m.name for m in pkgutil.walk_packages(ebm_lab.__path__, "ebm_lab.")]
        own = [f"{__package__}.{m.name}" for m in pkgutil.iter_modules([str(Path(__file__).parent)])]
        context.set_forkserver_preload([*lab, *own])
        self._here, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, make))
        self.process.start()
        there.close()

    def told(self) -> Any:
        """What `make` told; to be asked once, first, and waits until it is done."""
        return self._answer()

    def ask(self, task: Task) -> Any:
        self._here.send(task)
        return self._answer()

    def __call__(self, repeats: int) -> tuple[float, float]:
        return self.ask(partial(timed, repeats=repeats))

    def _answer(self) -> Any:
        try:
            good, answer = self._here.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"a process of the benchmark ended with status {self.process.exitcode}") from None
        if not good:
            raise answer
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self._here.close()
        self.process.join()


@contextmanager
def side_by_side(
    makers: Mapping[str, Callable[[], tuple[Work | None, Any]]],
) -> Iterator[tuple[dict[str, Apart], dict[str, Any]]]:
    """Contestants apart, begun together: the processes that have work, and what each told, by name."""
    with ExitStack() as stack:
        every = {name: stack.enter_context(Apart(make)) for name, make in makers.items()}
        told = {name: process.told() for name, process in every.items()}
        yield {name: process for name, process in every.items() if process.ask(_works)}, told


def _works(work: Work | None) -> bool:
    return work is not None


def alone(function: Callable[[], Any]) -> Any:
    """What `function` returns, called in a process of its own."""
    with Apart(partial(_only_told, function)) as process:
        return process.told()


def _only_told(function: Callable[[], Any]) -> tuple[None, Any]:
    return None, function()


def _serve(there: Connection, make: Callable[[], tuple[Work | None, Any]]) -> None:
    """Until the other end closes. No collection of garbage happens within a task, where it would be charged to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group; the first process ends the others
    torch.set_num_threads(1)  # a contestant asks for the threads that it wants
    try:
        work, told = make()
        gc.freeze()
        gc.disable()
        there.send((True, told))
        while True:
            task: Task = there.recv()
            gc.collect()
            there.send((True, task(work)))
    except (EOFError, BrokenPipeError):
        return
    except Exception as problem:
        there.send((False, problem))
