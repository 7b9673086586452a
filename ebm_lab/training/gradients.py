"""The gradient of an objective: over all processes, in several passes where a batch is too large for one.

A loss is a mean over its batch, so the mean over the batch's parts is the loss of the whole: neither how many passes
nor how many processes share a batch changes what is estimated.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from ebm_lab.core.interfaces import Batch, Objective
from ebm_lab.training.distributed import Processes, without_sync

Precision = Literal["float32", "bfloat16"]


class Gradients:
    """Leaves in `.grad` of the objective's parameters the mean over `parts` of a batch and over processes."""

    def __init__(self, objective: Objective, processes: Processes, precision: Precision) -> None:
        self.module, self.world, self.precision = processes.wrap(objective), processes.world, precision

    def __call__(self, parts: Sequence[Batch]) -> tuple[dict[str, Tensor], int]:
        """The metrics, means over this process's parts, and the gradient evaluations of all processes."""
        metrics: list[dict[str, Tensor]] = []
        evals = 0
        for i, batch in enumerate(parts):
            with nullcontext() if i == len(parts) - 1 else without_sync(self.module):
                with self._cast(batch.x.device):
                    loss = self.module(batch)
                (loss.value / len(parts) if len(parts) > 1 else loss.value).backward()
            metrics.append(loss.metrics)
            evals += loss.grad_evals * self.world
        if len(metrics) == 1:
            return metrics[0], evals
        return {name: torch.stack([m[name] for m in metrics]).mean(0) for name in metrics[0]}, evals

    def _cast(self, device: torch.device) -> AbstractContextManager[Any]:
        """bfloat16 where autocast puts it (matrix products and convolutions); parameters and losses stay float32."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)
