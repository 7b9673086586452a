"""The gradient of an objective, accumulated over the parts of a batch and averaged over processes.

A loss is a mean over its batch, so the mean over equal parts of the batch is the loss of the whole batch: neither the
number of passes nor the number of processes changes what is estimated.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from ebm_lab.core.interfaces import ALL_PLAYERS, Batch, Objective, Turn
from ebm_lab.core.turns import loss_of
from ebm_lab.training.distributed import Processes

Precision = Literal["float32", "bfloat16"]


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
    """Set `.grad` of the movers' parameters to the mean over the `parts` of a batch and over processes."""

    def __init__(self, objective: Objective, processes: Processes, precision: Precision) -> None:
        self.objective, self.processes, self.precision = objective, processes, precision

    def __call__(self, parts: Sequence[Batch], turn: Turn = ALL_PLAYERS) -> tuple[dict[str, Tensor], int]:
        """Return the metrics, averaged over this process's parts, and the gradient evaluations of all processes."""
        metrics: list[dict[str, Tensor]] = []
        evals = 0
        with moving(self.objective, turn) if turn.movers is not None else nullcontext():
            for batch in parts:
                with self._cast(batch.x.device):
                    loss = loss_of(self.objective, batch, turn)
                (loss.value / len(parts) if len(parts) > 1 else loss.value).backward()
                metrics.append(loss.metrics)
                evals += loss.grad_evals * self.processes.world
            if self.processes.world > 1:
                self.processes.average_gradients([p for p in self.objective.parameters() if p.requires_grad])
        if len(metrics) == 1:
            return metrics[0], evals
        return {name: torch.stack([m[name] for m in metrics]).mean(0) for name in metrics[0]}, evals

    def _cast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context for `precision`. In bfloat16, autocast converts matrix products and convolutions only;
        parameters and losses stay float32."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)
