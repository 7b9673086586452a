"""What Ising and Potts energies share: a quadratic form in a code u of the sites, and its l1 penalty.

    E(x) = -u'J u - b'u,    J symmetric, without a site's couplings to itself

Each pair enters twice, so that a pair's weight is exp(2 u_i J_ij u_j).
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ebm_lab.core.discrete import Draws, sites_of
from ebm_lab.core.functional import GradientFn
from ebm_lab.core.interfaces import Dataset, Energy


def pulls(u: Tensor, j: Tensor, b: Tensor) -> Tensor:
    """Return 2 J u + b, (B, M), the derivative of -E in u, for codes u (B, M)."""
    return torch.addmm(b, u, j, alpha=2)


class Pairwise(Energy):
    """couplings: the raw J (M, M), of which the symmetric part counts; field: b (M,); `mask`: which entries of J are
    learnt, 1 or 0, and symmetric. l1: weight of the penalty sum_ij |J_ij|."""

    offers = Energy.offers | {"conditionals"}
    mask: Tensor

    def __init__(self, dataset: Dataset, l1: float) -> None:
        super().__init__()
        self.sites, self.l1 = sites_of(dataset), l1
        m = self.sites.changes
        self.couplings, self.field = nn.Parameter(torch.zeros(m, m)), nn.Parameter(torch.zeros(m))
        site = torch.arange(m) % self.sites.count
        self.register_buffer("mask", (site[:, None] != site).to(self.field.dtype))

    @property
    def matrix(self) -> Tensor:
        """J: symmetric, and 0 where the mask is."""
        return 0.5 * (self.couplings + self.couplings.T) * self.mask

    @abstractmethod
    def code(self, x: Tensor) -> Tensor:
        """Return u of points x (B, *shape), (B, M)."""

    def forward(self, x: Tensor) -> Tensor:
        u = self.code(x)
        return -(u * torch.addmm(self.field, u, self.matrix)).sum(1)

    def penalty(self) -> Tensor | None:
        """Return l1 sum_ij |J_ij|, or None if l1 is 0."""
        return self.l1 * self.matrix.abs().sum() if self.l1 else None

    slope: float
    """du / dx."""

    def gradient(self) -> GradientFn | None:
        j, b = self.matrix.detach(), self.field.detach()

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            u = self.code(x.detach())
            pull = pulls(u, j, b)
            return -0.5 * (u * (pull + b)).sum(1), (-self.slope * pull).view(x.shape)

        return at

    def log_odds(self, x: Tensor) -> Tensor:
        """The pull on each site: exact, since E is linear in the code of each site."""
        return self.sites.guessed_odds(x, (-self.slope * pulls(self.code(x), self.matrix, self.field)).view(x.shape))

    def sweep(self, x: Tensor, draws: Draws) -> Tensor:
        u, j = self.code(x).clone(), self.matrix
        pull, d = pulls(u, j, self.field), self.sites.count
        for site in range(d):
            own = slice(site, None, d)
            new = self.drawn(pull[:, own], draws)
            pull = pull + 2 * (new - u[:, own]) @ j[own]
            u[:, own] = new
        return self.decoded(u).view(x.shape)

    @abstractmethod
    def drawn(self, pull: Tensor, draws: Draws) -> Tensor:
        """Draw the code of one site, (B, K) or (B, 1), from its pull, of the same shape."""

    @abstractmethod
    def decoded(self, u: Tensor) -> Tensor:
        """Return x from its code."""
