"""Annealed importance sampling of discrete data: independent sites as the base, in the sites' own values.

    p_b(x) ~ r(x)^(1 - b) exp(-b E(x)),    r independent sites with about the data's frequencies (product.py)
    log odds of a change m under p_b:  b D_m(x) + (1 - b) log r(x^m) / r(x)

The log odds of r are linear, so that kernels which look at all changes of a site cost no more than at the model itself.

An energy with hidden units has a path of its own, on which the inputs of the hidden units are b times those of the
model, and all of a layer's units can be drawn at once given the other layer's (Energy.annealed). Its log density is not
linear in b.

Ruslan Salakhutdinov and Iain Murray, On the Quantitative Analysis of Deep Belief Networks, 2008, section 4.1.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from ebm_lab.core.derived import Annealed
from ebm_lab.core.discrete import Draws, Sites, log_odds, sites_in
from ebm_lab.core.functional import EnergyFn, GradientFn, KnowsDerivatives, evaluate, gradient_of
from ebm_lab.core.interfaces import Energy
from ebm_lab.distributions.base import BaseLaw
from ebm_lab.distributions.product import ProductBase
from ebm_lab.evaluation._annealed_importance import Family, Geometric


class AnnealedSites(Geometric, Annealed):
    """The energy of p_b, with the formulas of both ends; `base`: a law of independent sites."""

    def __init__(self, energy: EnergyFn, base: BaseLaw, b: float) -> None:
        super().__init__(base.base, energy, b)
        self.product = cast(ProductBase, base.base)
        self.sites = sites_in(self.product.shape, self.product.one_hot)

    def gradient(self) -> GradientFn:
        slope = gradient_of(self.energy)

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            (e, grad), (e_0, grad_0) = slope(x), self.product.with_gradient(x)
            return self.b * e + (1 - self.b) * e_0, self.b * grad + (1 - self.b) * grad_0

        return at

    def log_odds(self, x: Tensor) -> Tensor:
        return self.b * log_odds(self.energy, x, self.sites) + (1 - self.b) * self.product.log_odds(x)


class AnnealedHidden(nn.Module):
    """The energy of p_b on the path of an energy with hidden units."""

    def __init__(self, energy: "AtSites", base: BaseLaw, b: float) -> None:
        super().__init__()
        self.at: Any = cast(Energy, energy.energy).annealed(cast(ProductBase, base.base).logits, b)

    def forward(self, x: Tensor) -> Tensor:
        return self.at(x)

    def sweep(self, x: Tensor, draws: Draws) -> Tensor:
        return self.at.sweep(x, draws)

    @classmethod
    @torch.no_grad()
    def rise(cls, energy: "AtSites", base: BaseLaw, x: Tensor, a: float, b: float) -> Tensor:
        """Return E_a(x) - E_b(x), (B,), in float64."""
        below, above = (evaluate(cls(energy, base, at), x).double() for at in (a, b))
        return below - above


class AtSites(KnowsDerivatives):
    """The energy of discrete x as it is, (B, *shape), and its base: the counterpart of Whitened. `hidden`: take the
    path of an energy with hidden units."""

    def __init__(self, energy: EnergyFn, sites: Sites, base: BaseLaw, hidden: bool = False) -> None:
        super().__init__()
        self.energy, self.sites, self.base = energy, sites, base
        self.family: Family = AnnealedHidden if hidden else AnnealedSites

    def forward(self, x: Tensor) -> Tensor:
        return self.energy(x)

    def gradient(self) -> GradientFn:
        return gradient_of(self.energy)

    def log_odds(self, x: Tensor) -> Tensor:
        return log_odds(self.energy, x, self.sites)

    def y(self, x: Tensor) -> Tensor:
        """Return x itself."""
        return x

    def base_log_prob(self, x: Tensor) -> Tensor:
        """Return log r(x), (B, *shape) -> (B,)."""
        return self.base.log_prob(x)
