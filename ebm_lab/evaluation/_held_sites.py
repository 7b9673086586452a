"""The conditional law of some bits, given the others, as an energy of all of them.

    E_u(x) = E(x_u, k),    k: the known bits

The known bits of x do not enter E_u: its law has the conditional law of x_u, and the known bits of x are independent of
it, each 0 or 1 with equal odds. So samplers of all bits draw from p(x_u | k) by it, and what they do to the known bits
is of no account.
"""

import torch
from torch import Tensor

from ebm_lab.core.discrete import Sites, log_odds
from ebm_lab.core.functional import EnergyFn, GradientFn, KnowsDerivatives, gradient_of


class HeldSites(KnowsDerivatives):
    """E_u, with the known bits taken from x (B, *shape). `unknown`: booleans of one point's shape."""

    def __init__(self, energy: EnergyFn, x: Tensor, unknown: Tensor) -> None:
        super().__init__()
        self.energy, self.x, self.unknown = energy, x, unknown
        self.sites = Sites(tuple(x.shape[1:]))

    def completed(self, u: Tensor) -> Tensor:
        """Return u with its known bits set, (B, *shape); u may hold several replicas of the B rows."""
        return torch.where(self.unknown, u, self.x.repeat(len(u) // len(self.x), *[1] * (self.x.ndim - 1)))

    def forward(self, u: Tensor) -> Tensor:
        return self.energy(self.completed(u))

    def gradient(self) -> GradientFn:
        slope = gradient_of(self.energy)

        def at(u: Tensor) -> tuple[Tensor, Tensor]:
            e, grad = slope(self.completed(u))
            return e, grad * self.unknown

        return at

    def log_odds(self, x: Tensor) -> Tensor:
        return log_odds(self.energy, self.completed(x), self.sites) * self.unknown.flatten()
