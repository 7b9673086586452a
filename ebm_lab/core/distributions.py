"""Distributions with `sample(n, generator)` and `log_prob(x)`: where chains start, and what noise is drawn from."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from ebm_lab.core.functional import flat_sum


class Distribution(Protocol):
    """A law on (*shape) tensors."""

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n draws, (n, *shape)."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """log density in nats, (B, *shape) -> (B,)."""
        ...


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
class UniformBox:
    """Uniform on the box [low, high], both (*shape)."""

    low: Tensor
    high: Tensor

    def sample(self, n: int, generator: Generator) -> Tensor:
        u = torch.empty(n, *self.low.shape, device=self.low.device, dtype=self.low.dtype).uniform_(generator=generator)
        return self.low + (self.high - self.low) * u

    def log_prob(self, x: Tensor) -> Tensor:
        inside = ((x >= self.low) & (x <= self.high)).flatten(1).all(1)
        log_volume = (self.high - self.low).log().sum()
        return torch.where(inside, -log_volume, -torch.inf)
