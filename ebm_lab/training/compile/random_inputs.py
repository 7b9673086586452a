"""Random numbers as inputs of a traced step.

A graph can't hold a generator. So each call that draws from one is noted where a step is first run, is an input where
that step is traced, and is made again, in the same order and with the same generators, before each run of the graph: a
compiled step consumes the random numbers of the eager one. No objective or sampler has to know.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode


class Untraceable(Exception):
    """A step that is no fixed graph; says why."""


@dataclass
class Draw:
    """One call that draws: `out` holds what it drew last; `place`: it fills a tensor that it was given."""

    call: Callable[..., Tensor]
    args: tuple[Any, ...]
    settings: dict[str, Any]
    out: Tensor
    place: bool

    @torch.no_grad()
    def again(self) -> Tensor:
        if self.place:
            return self.call(self.out, *self.args, **self.settings)
        self.out = self.call(*self.args, **self.settings)
        return self.out


def _draws(settings: dict[str, Any] | None) -> bool:
    return isinstance((settings or {}).get("generator"), Generator)


def _in_place(call: Callable[..., Any], args: Sequence[Any]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and call.__name__.endswith("_")


class _Noting(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []
        self.before: dict[Generator, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _draws(kwargs):
            return func(*args, **(kwargs or {}))
        self.before.setdefault(kwargs["generator"], kwargs["generator"].get_state())
        out, place = func(*args, **kwargs), _in_place(func, args)
        kept = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=out.device).copy_(out.detach())
        self.draws.append(Draw(func, args[1:] if place else args, kwargs, kept, place))
        return out


class _Given(TorchFunctionMode):
    def __init__(self, draws: Sequence[Draw], values: Sequence[Tensor]) -> None:
        super().__init__()
        self.left = list(zip(draws, values, strict=True))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _draws(kwargs):
            return func(*args, **(kwargs or {}))
        draw, value = self.left.pop(0)
        rest = args[1:] if draw.place else args
        if any(isinstance(a, Tensor) and a is not b for a, b in zip(rest, draw.args, strict=True)):
            raise Untraceable(f"what {func.__name__} draws depends on the data")
        return args[0].copy_(value) if draw.place else value.clone()


@contextmanager
def noted() -> Iterator[list[Draw]]:
    """Within, calls that draw are noted; after it, their generators are as they were before."""
    with _Noting() as mode:
        try:
            yield mode.draws
        finally:
            for generator, state in mode.before.items():
                generator.set_state(state)


def given(draws: Sequence[Draw], values: Sequence[Tensor]) -> _Given:
    """Within, calls that draw get these values instead of random ones."""
    return _Given(draws, values)
