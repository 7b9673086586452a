"""Neal's funnel: the width of the data varies by orders of magnitude along one axis.

    v ~ N(0, std^2),    x_j | v ~ N(0, e^v) for j = 1, .., dim - 1

The first coordinate is v. A turn by `angle` in the plane of v and x_1 keeps the density.

Radford M. Neal, Slice Sampling, 2003, section 8.
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
class FunnelLaw:
    """The law above in `dim` dimensions, turned by `angle` radians in the plane of its first two coordinates."""

    dim: int
    std: float
    angle: float

    def sample(self, n: int, generator: Generator) -> Tensor:
        z = torch.randn(n, self.dim, dtype=torch.float64, generator=generator)
        v = self.std * z[:, :1]
        return self._turned(torch.cat([v, (v / 2).exp() * z[:, 1:]], 1), self.angle)

    def log_prob(self, x: Tensor) -> Tensor:
        v, rest = self._turned(x, -self.angle).split([1, self.dim - 1], 1)
        square = (v / self.std).square().sum(1) + ((-v).exp() * rest.square()).sum(1)
        log_det = math.log(self.std) + 0.5 * (self.dim - 1) * v.squeeze(1)
        return -0.5 * square - log_det - 0.5 * self.dim * math.log(2 * math.pi)

    def _turned(self, x: Tensor, angle: float) -> Tensor:
        if angle == 0:
            return x
        c, s = math.cos(angle), math.sin(angle)
        return torch.cat([c * x[:, :1] - s * x[:, 1:2], s * x[:, :1] + c * x[:, 1:2], x[:, 2:]], 1)


@register("dataset", "funnel")
class Funnel(Synthetic):
    """`dim`: dimensions; `std`: of v, the logarithm of the variance of all others; `angle`: of the turn, in degrees;
    `train` / `held_out`: sizes of the splits."""

    def __init__(
        self,
        *,
        dim: Annotated[int, Field(ge=2)],
        std: PositiveFloat,
        angle: float,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(FunnelLaw(dim, std, math.radians(angle)), "funnel", train, held_out, seed)
