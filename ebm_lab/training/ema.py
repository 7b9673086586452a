"""An exponential moving average of parameters.

avg <- avg + (1 - d_t) (theta - avg),    d_t = min(decay, (1 + t) / (10 + t))
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Averages `parameters` after each step; `decay` 0 follows them exactly."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.decay = decay
        self.average = [p.detach().clone() for p in parameters]
        self._place = {p: i for i, p in enumerate(self.parameters)}

    @torch.no_grad()
    def update(self, step: int, moved: Sequence[Tensor] | None = None) -> None:
        """Average once more: all parameters, or those that have `moved`."""
        parameters = self.parameters if moved is None else list(moved)
        torch._foreach_lerp_(self.averages(moved), parameters, self.rate(step))

    def averages(self, of: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the averages of some parameters, or of all in their order."""
        return self.average if of is None else [self.average[self._place[p]] for p in of]

    def rate(self, step: int) -> float:
        """1 - d_t."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within: the parameters hold their averages; after: the bits that they had."""
        raw = [p.detach().clone() for p in self.parameters]
        torch._foreach_copy_(self.parameters, self.average)
        try:
            yield
        finally:
            torch._foreach_copy_(self.parameters, raw)

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Take averages of the same shapes, in the same order; `copy_` alone would stretch one that does not fit."""
        shapes = [[tuple(t.shape) for t in average] for average in (self.average, state["average"])]
        if shapes[0] != shapes[1]:
            raise ValueError(f"averages of shapes {shapes[1]} for parameters of shapes {shapes[0]}")
        for mine, theirs in zip(self.average, state["average"], strict=True):
            mine.copy_(theirs)
