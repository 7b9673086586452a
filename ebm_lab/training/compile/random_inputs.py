"""Random numbers as inputs of a traced step.

A graph cannot contain a generator. So each call that draws random numbers is recorded when the step is first run, its
result is an input when the step is traced, and the call is repeated, in the same order and with the same generators,
before each run of the graph. A compiled step thus uses the same random numbers as the eager one, and objectives and
samplers need no special code.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode


class Untraceable(Exception):
    """Raised, with the reason, if a step cannot be one fixed graph."""


@dataclass
class Draw:
    """One call that draws random numbers. `out`: its last result; `in_place`: it fills its first argument."""

    call: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Tensor
    in_place: bool

    @torch.no_grad()
    def repeat(self) -> Tensor:
        """Draw again, from the same generator."""
        if self.in_place:
            return self.call(self.out, *self.args, **self.kwargs)
        self.out = self.call(*self.args, **self.kwargs)
        return self.out


def _draws(kwargs: dict[str, Any] | None) -> bool:
    return isinstance((kwargs or {}).get("generator"), Generator)


def _in_place(call: Callable[..., Any], args: Sequence[Any]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and call.__name__.endswith("_")


class _Recorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []
        self.initial_states: dict[Generator, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _draws(kwargs):
            return func(*args, **(kwargs or {}))
        self.initial_states.setdefault(kwargs["generator"], kwargs["generator"].get_state())
        out, in_place = func(*args, **kwargs), _in_place(func, args)
        copy = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=out.device).copy_(out.detach())
        self.draws.append(Draw(func, args[1:] if in_place else args, kwargs, copy, in_place))
        return out


class _Replay(TorchFunctionMode):
    def __init__(self, draws: Sequence[Draw], values: Sequence[Tensor]) -> None:
        super().__init__()
        self.remaining = list(zip(draws, values, strict=True))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _draws(kwargs):
            return func(*args, **(kwargs or {}))
        draw, value = self.remaining.pop(0)
        rest = args[1:] if draw.in_place else args
        if any(isinstance(a, Tensor) and a is not b for a, b in zip(rest, draw.args, strict=True)):
            raise Untraceable(f"the random numbers of {func.__name__} depend on the data")
        return args[0].copy_(value) if draw.in_place else value.clone()


@contextmanager
def recorded() -> Iterator[list[Draw]]:
    """Record the calls that draw random numbers within this context, and restore their generators after it."""
    with _Recorder() as mode:
        try:
            yield mode.draws
        finally:
            for generator, state in mode.initial_states.items():
                generator.set_state(state)


def replayed(draws: Sequence[Draw], values: Sequence[Tensor]) -> _Replay:
    """Return a context in which the calls that draw return these values instead of random numbers."""
    return _Replay(draws, values)
