"""Stop when a loss on held-out points rises: in many dimensions a model learns its training points by heart.

Where the energy corrects a base, E = -log base + f, the loss is that of telling held-out points from draws x' of the
base by f, with the best constant c, which serves every objective: it is least for the law of the data alone, sees the
weights of modes that a score does not see, and at f = 0, where training begins, it is that of the base itself.

    L = min_c  E_data[ softplus(f(x) + c) ] + E_base[ softplus(-f(x') - c) ]

An objective that learns more than a density, such as p(y | x), adds its loss of that. Without a base, the loss is the
objective's own. It is computed at each checkpoint with the averaged weights, on the same validation batches and with
the same random numbers, so that two values differ by the weights alone. With d_i the loss of batch i now less that at
the best step,

    t = mean(d) / (std(d) / sqrt(n))

is the rise in its own standard errors. Training stops after `PATIENCE` values in a row with t > `RISE`, unless the last
of these lies more than `END` such errors below the highest: a score does not see the weights of separated modes, which
then wander and come back, whereas a model that learns its training points by heart becomes worse and worse. A run ends
with the weights of the best step if t > `END` at its end. The base itself, f = 0, is given up only for a step that is
better by more than `SURE` standard errors: the least of many losses is lower than that of the base by chance alone.

Michael U. Gutmann and Aapo Hyvarinen, Noise-Contrastive Estimation of Unnormalized Statistical Models, 2012, eq. 8.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ebm_lab.core.functional import evaluate, frozen
from ebm_lab.core.interfaces import Batch, Dataset, Distribution, Objective
from ebm_lab.core.random import seed_of, stream, subset
from ebm_lab.distributions.base import base_of

ROWS = 10_000
"""Validation points that are looked at, at most."""
BATCHES = 16
"""Batches that these are dealt to; each gives one value of the loss."""
PATIENCE = 4
RISE = 3.0
END = 1.0
SURE = 2.0


def contrast_with_base(f_data: Tensor, f_base: Tensor, parts: int) -> Tensor:
    """Compute L for f at data (N,) and at draws of the base (M,), in each of `parts` parts of both, (parts,), with the
    c that is best for all; float64."""
    f_data, f_base = f_data.double(), f_base.double()
    low, high = (-x for x in torch.cat([f_data, f_base]).aminmax()[::-1])
    low, high = low - 50, high + 50
    for _ in range(60):  # dL / dc rises with c
        c = (low + high) / 2
        rising = (f_data + c).sigmoid().mean() > (-f_base - c).sigmoid().mean()
        low, high = torch.where(rising, low, c), torch.where(rising, c, high)
    pairs = zip(f_data.tensor_split(parts), f_base.tensor_split(parts), strict=True)
    return torch.stack([softplus(d + c).mean() + softplus(-n - c).mean() for d, n in pairs])


class EarlyStopping:
    """Watch a loss of `objective` on the validation split; `generator` is what the objective draws from."""

    def __init__(self, objective: Objective, dataset: Dataset, generator: torch.Generator, seed: int) -> None:
        self.objective, self.generator = objective, generator
        self.seed = seed_of(seed, "early_stopping")
        labels = None if dataset.labels is None else subset(dataset.labels["val"], ROWS)
        x = subset(dataset.val, ROWS)
        parts = min(BATCHES, len(x))
        ys = [None] * parts if labels is None else list(labels.tensor_split(parts))
        self.batches = [Batch(rows, y) for rows, y in zip(x.tensor_split(parts), ys, strict=True)]
        self.base: Distribution | None = base_of(objective.model())
        self.metric = "loss" if self.base is None else "base_contrast"
        """The name of the loss among the metrics of the run."""
        self.held_out, self.draws = x, stream(seed, "early_stopping/base", 0, x.device)
        self.drawn: Tensor | None = None
        """Draws of the base, as many as held-out points; made when first used, when a checkpoint has brought it."""
        self.best: Tensor | None = None
        """The losses at the best step so far, (n,)."""
        self.first: Tensor | None = None
        """The losses at the first step that was looked at, which is the base itself where there is one, (n,)."""
        self.is_best = False
        """Is the step that was looked at last the best so far?"""
        self.rises = 0
        """Values in a row, up to now, that were above the best by more than RISE standard errors."""
        self.highest: Tensor | None = None
        """The losses at the highest of these, (n,)."""
        self.falls = False
        """Has the loss turned back from the highest of these?"""

    def losses(self) -> Tensor:
        """Compute the loss of each batch, (n,) in float64 on the CPU. The objective's random stream and all that it
        keeps stay as they are."""
        return (self._own() if self.base is None else self._against(self.base)).double().cpu()

    def _against(self, base: Distribution) -> Tensor:
        model = self.objective.model()
        if self.drawn is None:
            self.drawn = base.sample(len(self.held_out), self.draws)
        with frozen(model), torch.no_grad():
            f_data, f_base = (evaluate(model, x) + base.log_prob(x) for x in (self.held_out, self.drawn))
            further = [self.objective.beyond_density(batch) for batch in self.batches]
        values = contrast_with_base(f_data, f_base, len(self.batches))
        return (
            values + torch.stack([t.to(values) for t in further if t is not None]) if further[0] is not None else values
        )

    def _own(self) -> Tensor:
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
        return torch.stack(values)

    def rise(self, losses: Tensor) -> float:
        """Return t, the rise of these losses above the best in standard errors; 0 before there is a best."""
        return self._rise_from(self.best, losses)

    @staticmethod
    def _rise_from(before: Tensor | None, losses: Tensor) -> float:
        if before is None or len(losses) < 2:
            return 0.0
        d = losses - before
        mean, error = float(d.mean()), float(d.std() / math.sqrt(len(d)))
        return 0.0 if mean == 0 else mean / error if error > 0 else math.copysign(math.inf, mean)

    def look(self) -> float:
        """Compute the mean loss, and remember whether it is the best so far, or rises."""
        losses = self.losses()
        mean = float(losses.mean())
        self.rises = self.rises + 1 if self.rise(losses) > RISE else 0
        if self.rises <= 1 or self.highest is None or mean > float(self.highest.mean()):
            self.highest = losses
        self.falls = self._rise_from(self.highest, losses) < -END
        if self.first is None:
            self.first = losses if self.best is None else self.best
        self.is_best = self.best is None or (mean < float(self.best.mean()) and self.beats_base(losses))
        if self.is_best:
            self.best = losses
        return mean

    def beats_base(self, losses: Tensor) -> bool:
        """Are these losses surely lower than those of the base, or is there no base?"""
        return self.base is None or self._rise_from(self.first, losses) < -SURE

    @property
    def over(self) -> bool:
        """Has the loss risen for so long, without turning back, that training should stop?"""
        return self.rises >= PATIENCE and not self.falls

    def state_dict(self) -> dict[str, Any]:
        turn = {"highest": self.highest, "falls": self.falls, "first": self.first}
        return {"best": self.best, "rises": self.rises, "metric": self.metric, **turn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("metric", "loss") == self.metric:  # older runs of energies with a base watched the objective's own
            self.rises, self.falls = state["rises"], state.get("falls", False)
            kept = (state["best"], state.get("highest"), state.get("first"))
            # they are read to the run's device, and the losses lie on the CPU
            self.best, self.highest, self.first = (None if t is None else t.cpu() for t in kept)
