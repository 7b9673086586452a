"""The Ising model with couplings to learn: spins u = 2 x - 1 of bits x.

    E(x) = -u'J u - b'u,    J symmetric with a zero diagonal,    log-odds of x_i = 1:  4 (J u)_i + 2 b_i

Each pair enters u'J u twice, so that a pair's weight is exp(2 J_ij u_i u_j).

`l1` is the weight of a penalty, l1 sum_ij |J_ij|, on every objective's loss. Where few pairs are coupled it finds them:
`auto` takes the l1 of GRID whose fit by pseudo-likelihood does best on the validation split, for pseudo-likelihood;
`auto_half` takes half of it, for objectives that follow the likelihood, whose curvature in a weak coupling is half as
large (4 against 8 at J = 0), so that the same penalty would shrink it twice as much. `support` learns only the
pairs whose |J_ij| exceeds it in that fit, without a penalty, which would shrink them. Both take some seconds, since the
logarithm of the pseudo-likelihood of an Ising model is concave and needs no sampler.

Julian Besag, Statistical Analysis of Non-Lattice Data, 1975 (pseudo-likelihood). Pradeep Ravikumar, Martin J.
Wainwright and John D. Lafferty, High-Dimensional Ising Model Selection Using l1-Regularized Logistic Regression, 2010.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import softplus

from ebm_lab.core.discrete import Draws
from ebm_lab.core.features import Need
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import subset
from ebm_lab.core.registry import register
from ebm_lab.energies._pairwise import Pairwise, pulls

GRID = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)
ROWS, FITTED = 10_000, 500
"""Rows that the search uses at most, and its steps of Adam for each l1."""


@register("energy", "ising")
class Ising(Pairwise):
    """Bits of any event shape, flattened. It starts at J = 0 and b = 0. `l1`: the penalty's weight, auto or auto_half;
    `support`: only pairs whose |J_ij| exceeds this in the fit by pseudo-likelihood are coupled, null for all."""

    needs = (Need("dataset", "binary"),)
    slope = 2.0
    notes: Sequence[str] = ()
    resolved: Mapping[str, Any] = {}

    def __init__(
        self, dataset: Dataset, *, l1: NonNegativeFloat | Literal["auto", "auto_half"], support: PositiveFloat | None
    ) -> None:
        given = None if isinstance(l1, str) else l1
        super().__init__(dataset, given or 0.0)
        if given is not None and support is None:
            return
        train, held_out = (self.code(subset(part, ROWS)).cpu() for part in (dataset.train, dataset.val))
        grid = GRID if given is None else (given,)
        fits = {weight: fit(train, weight) for weight in grid}
        losses = {weight: float(pseudo_loss(*found, held_out)) for weight, found in fits.items()}
        best = min(losses, key=losses.__getitem__)
        if given is None:
            self.l1 = best / 2 if l1 == "auto_half" else best
            self.resolved = {"l1": self.l1}
        if support is not None:
            self._keep(fits[best][0], support)

    def _keep(self, j: Tensor, support: float) -> None:
        """Learn only the pairs of |J_ij| above `support`, and leave the penalty off."""
        keep = (j.abs() > support).to(self.mask)
        if not bool(keep.any()):
            self.notes = [f"energy.support={support:g}: no pair of sites is coupled more than that, so all are learnt"]
            return
        self.l1 = 0.0
        self.mask.copy_(keep)
        pairs, every = int(keep.sum()) // 2, len(j) * (len(j) - 1) // 2
        self.notes = [f"energy.support={support:g}: {pairs} of {every} pairs of sites are coupled, and no l1 is used"]

    def code(self, x: Tensor) -> Tensor:
        return 2 * x.flatten(1) - 1

    def drawn(self, pull: Tensor, draws: Draws) -> Tensor:
        return 2 * draws.bits(2 * pull) - 1

    def decoded(self, u: Tensor) -> Tensor:
        return (u + 1) / 2


def pseudo_loss(j: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """Return -log pseudo-likelihood, the mean over spins u (n, d) of sum_i softplus(-2 u_i (2 J u + b)_i), 0-d."""
    return softplus(-2 * u * pulls(u, j, b)).sum(1).mean()


def fit(u: Tensor, l1: float) -> tuple[Tensor, Tensor]:
    """Return (J, b) that minimise pseudo_loss + l1 sum_ij |J_ij| over spins u (n, d), by Adam in full batches."""
    d = u.shape[1]
    raw, b = torch.zeros(d, d, requires_grad=True), torch.zeros(d, requires_grad=True)
    off = 1 - torch.eye(d)
    optimiser = torch.optim.Adam([raw, b], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, FITTED)
    for _ in range(FITTED):
        j = 0.5 * (raw + raw.T) * off
        optimiser.zero_grad()
        (pseudo_loss(j, b, u) + l1 * j.abs().sum()).backward()
        optimiser.step()
        schedule.step()
    return (0.5 * (raw + raw.T) * off).detach(), b.detach()
