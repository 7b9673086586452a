"""Elementary distributions with `sample(n, generator)` and `log_prob(x)`, for chain starts and for noise."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from ebm_lab.core.functional import flat_sum
from ebm_lab.core.interfaces import Distribution as Distribution


@dataclass(frozen=True)
class IsotropicGaussian:
    """N(mean, std^2 I), mean (*shape), std in data units."""

    mean: Tensor
    std: float

    def sample(self, n: int, generator: Generator) -> Tensor:
        noise = torch.empty(n, *self.mean.shape, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise.normal_(generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        d = self.mean.numel()
        square = flat_sum(((x - self.mean) / self.std) ** 2)
        return -0.5 * square - d * (math.log(self.std) + 0.5 * math.log(2 * math.pi))


@dataclass(frozen=True)
class Gaussian:
    """N(mean, S), mean (*shape), S (d, d) over the d flattened coordinates, positive definite.

    log p(x) = -1/2 |L^-1 (x - mean)|^2 - log det L - d/2 log 2 pi,    L L' = S; draws are mean + L z, z ~ N(0, I)
    """

    mean: Tensor
    covariance: Tensor

    @cached_property
    def _factor(self) -> Tensor:
        return torch.linalg.cholesky(self.covariance)

    @cached_property
    def _whitener(self) -> Tensor:
        return inverse_factor(self._factor)

    @cached_property
    def _log_z(self) -> float:
        """log det L + d/2 log 2 pi."""
        log_det = float(self._factor.double().diagonal().log().sum())
        return log_det + 0.5 * len(self._factor) * math.log(2 * math.pi)

    def sample(self, n: int, generator: Generator) -> Tensor:
        z = torch.empty(n, len(self._factor), device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + (z.normal_(generator=generator) @ self._factor.mT).view(n, *self.mean.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x - self.mean).flatten(1) @ self._whitener.mT
        return -0.5 * flat_sum(z * z) - self._log_z


def inverse_factor(factors: Tensor) -> Tensor:
    """Return L^-1 of lower triangular L (..., d, d), solved in double precision.

    Multiplying points by it is cheaper than solving a triangular system for each.
    """
    eye = torch.eye(factors.shape[-1], dtype=torch.float64, device=factors.device)
    return torch.linalg.solve_triangular(factors.double(), eye, upper=False).to(factors.dtype)


@dataclass(frozen=True)
class UniformBox:
    """The uniform distribution on the box [low, high], both (*shape)."""

    low: Tensor
    high: Tensor

    def sample(self, n: int, generator: Generator) -> Tensor:
        u = torch.empty(n, *self.low.shape, device=self.low.device, dtype=self.low.dtype).uniform_(generator=generator)
        return self.low + (self.high - self.low) * u

    def log_prob(self, x: Tensor) -> Tensor:
        inside = ((x >= self.low) & (x <= self.high)).flatten(1).all(1)
        log_volume = (self.high - self.low).log().sum()
        return torch.where(inside, -log_volume, -torch.inf)
