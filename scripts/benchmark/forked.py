"""Run contestants in processes of their own, which work one at a time.

A library's effect on its process (freed memory, waiting threads, a loaded compiler) then helps or hurts only itself.
Python's fork server, a process that has only imported the lab, starts them. A fork of this process would not work:
threads do not survive a fork, and torch 2.11 rejects every backward pass in the child of a process that has traced one.
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
"""What a process does with its work; a module-level function, because it is pickled by name."""


class Apart:
    """A process that makes its work at its start; a call runs units of it and returns (CPU, wall) seconds of each.

    `make` returns the work, or None if there is none, and a description of it. It is a module-level function or a
    `partial` of one, because it is pickled by name.
    """

    def __init__(self, make: Callable[[], tuple[Work | None, Any]]) -> None:
        if "forkserver" not in multiprocessing.get_all_start_methods():
            raise UserError("this system can't fork processes, which a race needs: run it on Linux")
        context = multiprocessing.get_context("forkserver")
        lab = [m.name for m in pkgutil.walk_packages(ebm_lab.__path__, "ebm_lab.")]
        own = [f"{__package__}.{m.name}" for m in pkgutil.iter_modules([str(Path(__file__).parent)])]
        context.set_forkserver_preload([*lab, *own])
        self._here, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, make))
        self.process.start()
        there.close()

    def told(self) -> Any:
        """Wait for `make` and return its description; call this once, before any task."""
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
    """Call `function` in a process of its own and return its result."""
    with Apart(partial(_only_told, function)) as process:
        return process.told()


def _only_told(function: Callable[[], Any]) -> tuple[None, Any]:
    return None, function()


def _serve(there: Connection, make: Callable[[], tuple[Work | None, Any]]) -> None:
    """Serve tasks until the other end closes; garbage is collected only between tasks, so that it is not timed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the others
    torch.set_num_threads(1)  # each contestant sets its own number of threads
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
