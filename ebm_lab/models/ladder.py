"""The ladder of noise levels: sigma_1 = sigma_max > ... > sigma_L = sigma_min in geometric progression.

    sigma(u) = sigma_max^(1 - u) sigma_min^u,    u in [0, 1],    sigma_i = sigma((i - 1) / (L - 1))

Choose sigma_max near the largest distance between two data points, so that the data blurred by it are nearly Gaussian
and chains cross from any mode to any other, and sigma_min so small that its blur hardly shows.

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
        """Return the level at the fraction u of the way down, geometrically."""
        return self.sigma_max ** (1 - u) * self.sigma_min**u

    def rung(self, i: int) -> float:
        """Return sigma_{i+1}: i = 0 gives sigma_max, i = levels - 1 gives sigma_min."""
        return self.sigma(i / (self.levels - 1))

    def spread(self, u: Tensor) -> Tensor:
        """Compute sigma(u) for fractions u, any shape."""
        high, low = math.log(self.sigma_max), math.log(self.sigma_min)
        return torch.exp(high + (low - high) * u)

    def between(self, i: int, pieces: int) -> list[float]:
        """Return the levels from rung i to rung i + 1 in `pieces` geometric steps: pieces + 1 levels, including both
        ends."""
        return [self.sigma((i + k / pieces) / (self.levels - 1)) for k in range(pieces + 1)]

    def height(self, sigma: Tensor) -> Tensor:
        """Rescale log sigma to -1 at sigma_min and 1 at sigma_max, the form in which networks receive it."""
        return (sigma.log() - math.log(self.sigma_min)) * self.height_rate - 1

    @property
    def height_rate(self) -> float:
        """The derivative of the height in log sigma."""
        return 2 / math.log(self.sigma_max / self.sigma_min)


def largest_distance(x: Tensor, points: int = 4000) -> float:
    """Return the largest distance between two of `points` random rows of x (n, *shape)."""
    flat = subset(x, points).flatten(1)
    return max(float(torch.cdist(part, flat).max()) for part in flat.split(500))


def make_ladder(
    dataset: Dataset, sigma_min: Sigma, sigma_max: Sigma, levels: int, notes: list[str] | None = None
) -> tuple[Ladder, dict[str, float]]:
    """Build the ladder, and return it with the values that `auto` chose from the training data, to two digits.

    Notes for the user on these are added to `notes`.

    For `auto`, sigma_max is the largest distance. For points, sigma_min is the bandwidth that maximises the
    leave-one-out likelihood, or the level that costs 0.01 nats if that is lower (distributions/blur.py); for images,
    whose pixels are exact, it is a tenth of the data's scale.
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
