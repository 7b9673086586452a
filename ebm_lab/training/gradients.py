"""The gradient of an objective, accumulated over the parts of a batch and averaged over processes.

A loss is a mean over its batch, so the mean over equal parts of the batch is the loss of the whole batch: neither the
number of passes nor the number of processes changes what is estimated.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Objective, Turn
from ebm_lab.core.turns import loss_of
from ebm_lab.training.distributed import Processes
from ebm_lab.training.numerics import Precision, cast_to, precise


@contextmanager
def moving(objective: Objective, turn: Turn) -> Iterator[None]:
    """Freeze, within this context, the parameters of the players that do not move in `turn`."""
    movers = turn.movers
    frozen = [p for name, ps in objective.players().items() if movers is not None and name not in movers for p in ps]
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)


class Gradients:
    """Set `.grad` of the movers' parameters to the mean over the `parts` of a batch and over processes.

    compiled: adds a share of the gradients of one part, or returns None if the eager pass must be taken.
    """

    def __init__(self, objective: Objective, processes: Processes, precision: Precision) -> None:
        self.objective, self.processes = objective, processes
        self.precision: Precision = precision
        self.compiled: Callable[[Batch, Turn, float], tuple[dict[str, Tensor], int] | None] | None = None

    def __call__(self, parts: Sequence[Batch], turn: Turn = ALL_PLAYERS) -> tuple[dict[str, Tensor], int]:
        """Return the metrics, averaged over this process's parts, and the gradient evaluations of all processes."""
        metrics: list[dict[str, Tensor]] = []
        evals = 0
        held = moving(self.objective, turn) if turn.movers is not None else nullcontext()
        with precise(self.precision, parts[0].x.device), held:
            for batch in parts:
                done = self.compiled(batch, turn, 1 / len(parts)) if self.compiled is not None else None
                found, count = done or self._eager(batch, turn, len(parts))
                metrics.append(found)
                evals += count * self.processes.world
            if self.processes.world > 1:
                self.processes.average_gradients([p for p in self.objective.parameters() if p.requires_grad])
        if len(metrics) == 1:
            return metrics[0], evals
        return {name: torch.stack([m[name] for m in metrics]).mean(0) for name in metrics[0]}, evals

    def _eager(self, batch: Batch, turn: Turn, parts: int) -> tuple[dict[str, Tensor], int]:
        """Add the gradients of one of several parts."""
        with cast_to(self.precision, batch.x.device):
            loss = loss_of(self.objective, batch, turn)
        (loss.value / parts if parts > 1 else loss.value).backward()
        return loss.metrics, loss.grad_evals
