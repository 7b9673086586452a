"""Independent sites: the base of energies of discrete data, and the noise where their chains begin.

    bits:        base(x) = prod_i p_i^x_i (1 - p_i)^(1 - x_i)
    categories:  base(x) = prod_i p_{c_i i},  x one-hot along its first axis

-log base is linear in each entry of x, and this is how it continues between the points.
"""

import torch
from torch import Generator, Tensor

from ebm_lab.core.dataset import Dataset
from ebm_lab.core.discrete import Draws, sites_of
from ebm_lab.distributions.base import Base, BaseLaw, Sigma

LEAST = 0.01
"""The least probability of a bit's value; that of a category is 2 LEAST / K. A bit that never changes in the data would
otherwise never change in a chain."""


class ProductBase(Base):
    """Independent bits with these `logits` (*shape), or categories with log probabilities `logits` (K, *sites)."""

    blurs = False
    logits: Tensor

    def __init__(self, logits: Tensor, one_hot: bool) -> None:
        super().__init__(tuple(logits.shape))
        self.one_hot = one_hot
        self.register_buffer("logits", logits.log_softmax(0) if one_hot else logits)

    def _log_z(self) -> Tensor | float:
        return 0.0 if self.one_hot else torch.nn.functional.softplus(self.logits).sum()

    def forward(self, x: Tensor, sigma: Sigma | None = None) -> Tensor:
        return self._log_z() - x.flatten(1) @ self.logits.flatten()

    def with_gradient(self, x: Tensor, sigma: Sigma | None = None) -> tuple[Tensor, Tensor]:
        return self(x), (-self.logits).expand_as(x)

    def curvature(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :1].flatten(1)[:, 0])

    def log_odds(self, x: Tensor) -> Tensor:
        """log base(x^m) - log base(x), (B, M) (core/discrete.py)."""
        if not self.one_hot:
            return ((1 - 2 * x) * self.logits).flatten(1)
        return (self.logits - (x * self.logits).sum(1, keepdim=True)).flatten(1)

    def sample(self, n: int, generator: Generator, sigma: float | None = None) -> Tensor:
        logits, draws = self.logits.expand(n, *self.shape), Draws(generator)
        return draws.categories(logits) if self.one_hot else draws.bits(logits)

    def in_words(self) -> str:
        return "independent categories" if self.one_hot else "independent bits"


def fit_product(dataset: Dataset) -> ProductBase:
    """Fit independent sites to the training data: each value's frequency, but no less than LEAST."""
    sites = sites_of(dataset)
    p = dataset.mean.double().clamp_min(2 * LEAST / sites.categories).clamp_max(1 - LEAST)
    logits = p.log() if sites.one_hot else p.logit()
    return ProductBase(logits.to(dataset.mean), sites.one_hot)


def product_law(dataset: Dataset) -> BaseLaw:
    """Return independent sites with the data's frequencies as a plain law."""
    return BaseLaw(fit_product(dataset).to(dataset.mean.device))
