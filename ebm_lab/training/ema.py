"""An exponential moving average of parameters.

avg <- avg + (1 - d_t) (theta - avg),    d_t = min(decay, (1 + t) / (10 + t))
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Average `parameters` after each step; with `decay` 0 the averages equal the parameters."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.decay = decay
        self.average = [p.detach().clone() for p in parameters]
        self._index = {p: i for i, p in enumerate(self.parameters)}

    @torch.no_grad()
    def update(self, step: int, moved: Sequence[Tensor] | None = None) -> None:
        """Update the averages of all parameters, or only of those that `moved`."""
        parameters = self.parameters if moved is None else list(moved)
        torch._foreach_lerp_(self.averages(moved), parameters, self.rate(step))

    def averages(self, of: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return the averages of the parameters `of`, or of all parameters in their order."""
        return self.average if of is None else [self.average[self._index[p]] for p in of]

    def rate(self, step: int) -> float:
        """Return 1 - d_t."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Set the parameters to their averages within this context, and restore their exact values after it."""
        raw = [p.detach().clone() for p in self.parameters]
        torch._foreach_copy_(self.parameters, self.average)
        try:
            yield
        finally:
            torch._foreach_copy_(self.parameters, raw)

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Load averages of the same shapes in the same order.

        The shapes are compared first, because `copy_` would silently broadcast an average that does not fit.
        """
        shapes = [[tuple(t.shape) for t in average] for average in (self.average, state["average"])]
        if shapes[0] != shapes[1]:
            raise ValueError(f"averages of shapes {shapes[1]} for parameters of shapes {shapes[0]}")
        for average, loaded in zip(self.average, state["average"], strict=True):
            average.copy_(loaded)
