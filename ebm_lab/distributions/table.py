"""A law over all points of a small discrete space, known point by point.

    p(x) = exp(w(x)) / Z,    Z = sum_x exp(w(x)),    entropy = -sum_x p(x) log p(x)

A sample is the first point, in the order of `Sites.every`, whose cumulative probability exceeds a uniform number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from ebm_lab.core.discrete import Sites, digits_of

MOST = 2**20
"""The most points of a space that is tabulated."""


@dataclass(frozen=True)
class TableLaw:
    """sites: the space; log_weights: w of its points, (states,) in float64, -inf for a point without mass."""

    sites: Sites
    log_weights: Tensor

    def __post_init__(self) -> None:
        if self.sites.states > MOST:
            raise ValueError(f"{self.sites.states} points; a table holds at most {MOST}")
        if self.log_weights.shape != (self.sites.states,):
            raise ValueError(f"{tuple(self.log_weights.shape)} weights for {self.sites.states} points")

    @cached_property
    def log_z(self) -> float:
        """log Z, in nats."""
        return float(torch.logsumexp(self.log_weights.double(), 0))

    @cached_property
    def probabilities(self) -> Tensor:
        """p of every point, (states,) in float64."""
        return self.log_weights.double().softmax(0)

    @property
    def entropy(self) -> float:
        """The entropy, in nats: the least that the mean of -log q(x) over points from p can be for any law q."""
        return float(torch.special.entr(self.probabilities).sum())

    def sample(self, n: int, generator: Generator) -> Tensor:
        """Draw n points, (n, *shape)."""
        u = torch.rand(n, dtype=torch.float64, generator=generator)
        return self.points(draw(self.probabilities.cumsum(0), u))

    def points(self, number: Tensor) -> Tensor:
        """Return the points of these numbers in the order of `Sites.every`, (n,) -> (n, *shape)."""
        return self.sites.encode(digits_of(number, self.sites.categories, self.sites.count))

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log p in nats, (B, *shape) -> (B,) in float64."""
        return self.log_weights.double()[self.sites.number(x)] - self.log_z


def draw(cumulative: Tensor, u: Tensor) -> Tensor:
    """Return the first index whose cumulative weight exceeds the share u of the whole: cumulative (k,) and u (n,), or
    (n, k) and (n, 1)."""
    return torch.searchsorted(cumulative, u * cumulative[..., -1:], right=True).clamp_max(cumulative.shape[-1] - 1)


def tabulated(sites: Sites, log_weight: Callable[[Tensor], Tensor]) -> TableLaw:
    """Return the law with the log weight of each point as computed by `log_weight`, (n, *shape) -> (n,), in float64."""
    like = torch.zeros((), dtype=torch.float64)
    return TableLaw(sites, torch.cat([log_weight(x) for x in sites.every(like)]))
