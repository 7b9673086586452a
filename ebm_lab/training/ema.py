"""An exponential moving average of parameters.

avg <- avg + (1 - d_t) (theta - avg),    d_t = min(decay, (1 + t) / (10 + t))
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Averages `parameters` after each step; `decay` 0 follows them exactly."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.decay = decay
        self.average = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        torch._foreach_lerp_(self.average, self.parameters, self.rate(step))

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
        for mine, theirs in zip(self.average, state["average"], strict=True):
            mine.copy_(theirs)
