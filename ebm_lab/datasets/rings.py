"""Concentric circles with Gaussian noise, and their density in closed form.

    x = r_k (cos t, sin t) + noise z,  t ~ U[0, 2 pi], each ring k with equal odds
    p(x) = mean_k 1/(2 pi noise^2) exp(-(|x|^2 + r_k^2) / (2 noise^2)) I_0(|x| r_k / noise^2)

The Bessel function I_0 comes from the integral over t; its scaled form exp(-u) I_0(u) keeps the exponents small.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic


@dataclass(frozen=True)
class NoisyCircles:
    """Circles of these radii, (K,), each equally likely."""

    radii: Tensor
    std: float

    def sample(self, n: int, generator: Generator) -> Tensor:
        r = self.radii[torch.randint(len(self.radii), (n,), generator=generator)]
        t = 2 * math.pi * torch.rand(n, dtype=torch.float64, generator=generator)
        z = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        return torch.stack([r * t.cos(), r * t.sin()], 1) + self.std * z

    def log_prob(self, x: Tensor) -> Tensor:
        rho, variance = x.norm(dim=1, keepdim=True), self.std**2
        log_bessel = torch.special.i0e(rho * self.radii / variance).log()
        logs = log_bessel - (rho - self.radii).square() / (2 * variance)
        return torch.logsumexp(logs, 1) - math.log(len(self.radii) * 2 * math.pi * variance)


@register("dataset", "rings")
class Rings(Synthetic):
    """`radii` of the circles and `noise`, its std, in data units; `train` / `held_out`: sizes of the splits."""

    def __init__(
        self,
        *,
        radii: Annotated[list[PositiveFloat], Field(min_length=1)],
        noise: PositiveFloat,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        law = NoisyCircles(torch.tensor(radii, dtype=torch.float64), noise)
        super().__init__(law, "rings", train, held_out, seed)
