"""The ladder of noise levels: sigma_1 = sigma_max > ... > sigma_L = sigma_min in geometric progression.

    sigma(u) = sigma_max^(1 - u) sigma_min^u,    u in [0, 1],    sigma_i = sigma((i - 1) / (L - 1))

sigma_max about the largest distance between two data points, so that the data blurred by it is nearly a Gaussian and
chains cross from any mode to any other; sigma_min where the blur hardly shows.

Yang Song and Stefano Ermon, Improved Techniques for Training Score-Based Generative Models, 2020, techniques 1 and 2,
arXiv:2006.09011.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import subset
from ebm_lab.distributions.blur import noise_level, two_digits

Sigma = PositiveFloat | Literal["auto"]


@dataclass(frozen=True)
class Ladder:
    """`levels` noise levels from sigma_max down to sigma_min, in data units."""

    sigma_max: float
    sigma_min: float
    levels: int

    def sigma(self, u: float) -> float:
        """The level at the fraction u of the way down, geometrically."""
        return self.sigma_max ** (1 - u) * self.sigma_min**u

    def rung(self, i: int) -> float:
        """sigma_{i+1}: i = 0 is sigma_max, i = levels - 1 is sigma_min."""
        return self.sigma(i / (self.levels - 1))

    def spread(self, u: Tensor) -> Tensor:
        """sigma(u) for fractions u, any shape."""
        high, low = math.log(self.sigma_max), math.log(self.sigma_min)
        return torch.exp(high + (low - high) * u)

    def between(self, i: int, pieces: int) -> list[float]:
        """The levels from rung i to rung i + 1 in `pieces` geometric steps: pieces + 1 of them, both ends included."""
        return [self.sigma((i + k / pieces) / (self.levels - 1)) for k in range(pieces + 1)]

    def height(self, sigma: Tensor) -> Tensor:
        """log sigma on a scale of -1 at sigma_min to 1 at sigma_max: what networks are told."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return (sigma.log() - low) * (2 / (high - low)) - 1


def largest_distance(x: Tensor, points: int = 4000) -> float:
    """The largest distance between two of `points` rows of x (n, *shape), drawn at random."""
    flat = subset(x, points).flatten(1)
    return max(float(torch.cdist(part, flat).max()) for part in flat.split(500))


def make_ladder(
    dataset: Dataset, sigma_min: Sigma, sigma_max: Sigma, levels: int, notes: list[str] | None = None
) -> tuple[Ladder, dict[str, float]]:
    """The ladder, and the values that `auto` chose from the training data, to two digits; what there is to tell of them
    is added to `notes`.

    sigma_max: the largest distance; sigma_min: for points the bandwidth that maximises the leave-one-out likelihood, or
    what costs 0.01 nats if that is less (distributions/blur.py); for images, whose pixels are exact, a tenth of
    the data's scale.
    """
    chosen = {}
    if sigma_max == "auto":
        sigma_max = chosen["sigma_max"] = two_digits(largest_distance(dataset.train))
    if sigma_min == "auto" and dataset.bounds is not None:
        sigma_min = chosen["sigma_min"] = two_digits(dataset.scale / 10)
    elif sigma_min == "auto":
        sigma_min, told = noise_level(dataset, 1.0, "energy.sigma_min")
        chosen["sigma_min"] = sigma_min
        if notes is not None:
            notes += told
    if not sigma_min < sigma_max:
        raise UserError(f"energy.sigma_min={sigma_min:g}: must be less than energy.sigma_max={sigma_max:g}")
    return Ladder(sigma_max, sigma_min, levels), chosen
