"""Stop when the loss on held-out points rises: in many dimensions a model learns its training points by heart.

At each evaluation the objective's own loss is computed with the averaged weights on the same validation batches and
with the same random numbers, so that two evaluations differ by their weights alone. With d_i the loss of batch i now
less that at the best step,

    t = mean(d) / (std(d) / sqrt(n))

is the rise in its own standard errors. Training stops after `PATIENCE` evaluations in a row with t > `RISE`, and a run
ends with the weights of the best step if t > `RISE` at its end.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ebm_lab.core.functional import frozen
from ebm_lab.core.interfaces import Batch, Dataset, Objective
from ebm_lab.core.random import seed_of, subset

ROWS = 4096
"""Validation points that are looked at, at most."""
BATCHES = 16
"""Batches that these are dealt to; each gives one value of the loss."""
PATIENCE = 3
RISE = 3.0


class EarlyStopping:
    """Watch the loss of `objective` on the validation split; `generator` is what the objective draws from."""

    def __init__(self, objective: Objective, dataset: Dataset, generator: torch.Generator, seed: int) -> None:
        self.objective, self.generator = objective, generator
        self.seed = seed_of(seed, "early_stopping")
        labels = None if dataset.labels is None else subset(dataset.labels["val"], ROWS)
        x = subset(dataset.val, ROWS)
        parts = min(BATCHES, len(x))
        ys = [None] * parts if labels is None else list(labels.tensor_split(parts))
        self.batches = [Batch(rows, y) for rows, y in zip(x.tensor_split(parts), ys, strict=True)]
        self.best: Tensor | None = None
        """The losses at the best step so far, (n,)."""
        self.rises = 0
        """Evaluations in a row, up to now, whose loss was above the best by more than RISE standard errors."""

    def losses(self) -> Tensor:
        """Compute the loss of each batch, (n,) in float64 on the CPU. The objective's random stream and all that it
        keeps stay as they are."""
        before = self.generator.get_state()
        kept = {name: value.clone() for name, value in self.objective.named_buffers()}
        self.generator.manual_seed(self.seed)
        try:
            with frozen(self.objective):
                values = [self.objective(batch).value.detach() for batch in self.batches]
        finally:
            self.generator.set_state(before)
            with torch.no_grad():
                for name, value in self.objective.named_buffers():
                    value.copy_(kept[name])
        return torch.stack(values).double().cpu()

    def rise(self, losses: Tensor) -> float:
        """Return t, the rise of these losses above the best in standard errors; 0 before there is a best."""
        if self.best is None or len(losses) < 2:
            return 0.0
        d = losses - self.best
        mean, error = float(d.mean()), float(d.std() / math.sqrt(len(d)))
        return 0.0 if mean == 0 else mean / error if error > 0 else math.copysign(math.inf, mean)

    def look(self) -> float:
        """Compute the mean loss, and remember whether it is the best so far, or rises."""
        losses = self.losses()
        self.rises = self.rises + 1 if self.rise(losses) > RISE else 0
        if self.best is None or float(losses.mean()) < float(self.best.mean()):
            self.best = losses
        return float(losses.mean())

    @property
    def over(self) -> bool:
        """Has the loss risen for so long that training should stop?"""
        return self.rises >= PATIENCE

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "rises": self.rises}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.rises = state["best"], state["rises"]
