"""Losses that compare each discrete datum with its neighbours, the points that one change of a site leads to.

    L = E_p sum_m phi(D_m(x)),    D_m(x) = E(x) - E(x^m) = log p_theta(x^m) / p_theta(x)

The sum is over the changes m of one site. If phi'(D) = e^D phi'(-D) and phi' > 0, the terms of each pair of neighbours
x, y are least where E(y) - E(x) is that of the data's law: p(x) phi'(D) = p(y) phi'(-D) at e^D = p(y) / p(x). So L has
its minimum at the data's law, on every set of points that single changes connect, and it needs neither Z, nor a
sampler, nor a gradient in x, but d(K - 1) + 1 energies, or the energy's formula for D. The five losses of this kind:

    phi(D)                                  name                    D -> -inf     D -> +inf
    log(1 + e^D)                            pseudo_likelihood       0             D
    sigmoid(D)^2                            ratio_matching          0             1
    e^(D/2)                                 mpf                     0             e^(D/2)
    e^D + D - 1                             score_entropy           D             e^D
    (e^D - 1)^2 / 2 + e^D - e^-D            concrete_score          -e^-D         e^2D / 2

Where phi grows exponentially it continues linearly beyond |D| = CAP, with its slope there: a hard limit would have no
gradient, and such a point would never come back. The metric `capped` is the share of such changes.

Weights of points that no single changes connect are not seen: two patterns that differ in two bits, with nothing but
noise between them, may have any ratio. `unseen_groups` counts such groups in the training data.

Julian Besag, Statistical Analysis of Non-Lattice Data, 1975. Aapo Hyvarinen, Some Extensions of Score Matching, 2007.
Jascha Sohl-Dickstein, Peter Battaglino and Michael R. DeWeese, Minimum Probability Flow Learning, 2011,
arXiv:0906.4779. Aaron Lou, Chenlin Meng and Stefano Ermon, Discrete Diffusion Modeling by Estimating the Ratios of the
Data Distribution, 2023, arXiv:2310.16834 (score entropy). Chenlin Meng, Kristy Choi, Jiaming Song and Stefano Ermon,
Concrete Score Matching: Generalized Score Matching for Discrete Data, 2022, arXiv:2211.00802.
"""

from collections.abc import Callable

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from ebm_lab.core.discrete import Sites, log_odds, sites_of
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.metrics import Metric

CAP = 15.0
"""|D| beyond which the exponential losses continue linearly."""
Phi = Callable[[Tensor], Tensor]


def continued(phi: Phi, slope: Phi) -> Phi:
    """Return phi, continued linearly beyond |D| = CAP; `slope` is its derivative."""

    def at(odds: Tensor) -> Tensor:
        near = odds.clamp(-CAP, CAP)
        return phi(near) + slope(near.detach()) * (odds - near)

    return at


def pseudo_likelihood(odds: Tensor) -> Tensor:
    """log(1 + e^D): for bits, minus the log of the conditional probability of the site's own value."""
    return softplus(odds)


def ratio_matching(odds: Tensor) -> Tensor:
    """sigmoid(D)^2."""
    return odds.sigmoid().square()


probability_flow = continued(lambda d: (d / 2).exp(), lambda d: (d / 2).exp() / 2)
"""e^(D/2)."""
score_entropy = continued(lambda d: d.expm1() + d, lambda d: d.exp() + 1)
"""e^D + D - 1."""
concrete_score = continued(
    lambda d: d.expm1().square() / 2 + d.exp() - (-d).exp(), lambda d: (2 * d).exp() + (-d).exp()
)
"""(e^D - 1)^2 / 2 + e^D - e^-D."""


def compare_neighbours(phi: Phi, odds: Tensor, moves: Tensor) -> Tensor:
    """Return sum_m phi(D_m) over the changes that lead elsewhere, (B,), of log odds and `moves`, (B, M) each."""
    return torch.where(moves, phi(odds), 0.0).sum(1)


def log_pseudo_likelihood(odds: Tensor, sites: Sites, count: int) -> Tensor:
    """Return -sum_i log p(x_i | the others), (B,), over `count` sites with log odds (B, M): for categories
    sum_i log sum_c e^{D_ci}, in which the present category has D = 0."""
    if not sites.one_hot:
        return pseudo_likelihood(odds).sum(1)
    return odds.view(len(odds), sites.categories, count).logsumexp(1).sum(1)


def some_changes(sites: Sites, n: int, generator: Generator) -> Tensor:
    """Draw n different sites and return all their changes, (n,) or (K n,), those of one category in a row."""
    drawn = torch.randperm(sites.count, generator=generator, device=generator.device)[:n]
    if not sites.one_hot:
        return drawn
    first = sites.count * torch.arange(sites.categories, device=drawn.device)
    return (first[:, None] + drawn).flatten()


class Neighbours(Objective):
    """Compare each datum with its neighbours. `sites`: the number of sites to change, drawn anew at each step, whose
    terms are scaled up to the sum over all; null: all."""

    needs = (Need("energy", "energy"), Need("dataset", "discrete"))
    metrics = (
        *Objective.metrics,
        Metric("capped", "capped changes", "share", "lower", "changes whose log odds the loss continues linearly."),
    )
    headline = ("loss", "accuracy")
    validates = True
    needs_float32 = "compares the energies of neighbours"
    phi: Phi
    exponential = False
    """Whether phi is capped."""

    def __init__(self, energy: nn.Module, dataset: Dataset, generator: Generator, *, sites: PositiveInt | None) -> None:
        super().__init__(energy)
        self.sites, self.generator = sites_of(dataset), generator
        self.drawn = None if sites is None or sites >= self.sites.count else sites
        self.notes += unseen(dataset, self.sites)

    def forward(self, batch: Batch) -> Loss:
        which = None if self.drawn is None else some_changes(self.sites, self.drawn, self.generator)
        return neighbour_loss(self.energy, batch.x, self.sites, self.values, self.exponential, which)

    def values(self, odds: Tensor, moves: Tensor) -> Tensor:
        """Return the loss of each datum over the changes at hand, (B,)."""
        return compare_neighbours(type(self).phi, odds, moves)


def neighbour_loss(
    energy: EnergyFn,
    x: Tensor,
    sites: Sites,
    values: Callable[[Tensor, Tensor], Tensor],
    exponential: bool,
    which: Tensor | None = None,
) -> Loss:
    """Return the mean over points x (B, *shape) of values(D, moves), (B,).

    which: all changes of some sites, whose terms are scaled up to the sum over all sites; None: all changes.
    """
    odds, moves = log_odds(energy, x, sites, which), sites.moves(x)
    moves = moves if which is None else moves[:, which]
    value = sites.changes / odds.shape[1] * values(odds, moves).mean()
    known = odds.detach()
    metrics = {"loss": value.detach(), "accuracy": ((known < 0) & moves).sum() / moves.sum()}
    if exponential:
        metrics["capped"] = (known.abs() > CAP).float().mean()
    return Loss(value, metrics, grad_evals=len(x) * (1 + odds.shape[1]))


def unseen(dataset: Dataset, sites: Sites) -> list[str]:
    """Return a line for the user if the training data are few points, many times over, in groups between which no
    single change leads; else nothing."""
    groups, n = unseen_groups(dataset.train, sites)
    if groups < 2:
        return []
    return [
        f"the training data are {n} different points in {groups} groups, and no change of one site leads from one to "
        f"another: this loss does not see how much weight each group has; nce and ed do, and so do the chains of pcd"
    ]


def unseen_groups(x: Tensor, sites: Sites, most: int = 2000) -> tuple[int, int]:
    """Return the number of groups of different points in x (n, *shape) that single changes connect, and the number of
    different points; 0 groups if there are more than `most` points, or most of them occur once."""
    points = x.flatten(1).unique(dim=0)
    n = len(points)
    if n > most or 4 * n > len(x):
        return 0, n
    apart = torch.cdist(points, points, p=1) / (2 if sites.one_hot else 1)
    group = torch.arange(n, device=x.device)
    linked = apart < 1.5
    while True:
        new = torch.where(linked, group, n).amin(1)
        if torch.equal(new, group):
            return len(group.unique()), n
        group = new
