"""Student's t: data with heavy tails, in independent coordinates or around a centre.

    independent:   p(x) = prod_j t_nu(x_j)
    multivariate:  p(x) = Gamma((nu + d) / 2) / (Gamma(nu / 2) (nu pi)^(d / 2)) (1 + |x|^2 / nu)^(-(nu + d) / 2)

with x in units of `scale`. Both have the same marginal laws; their tails point along the axes, or in all directions.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic

Tails = Literal["independent", "multivariate"]


@dataclass(frozen=True)
class StudentT:
    """The laws above in `dim` dimensions. A draw is scale z / sqrt(w), z ~ N(0, I) and nu w ~ chi^2_nu, with one w for
    each coordinate or for each point."""

    dim: int
    nu: float
    scale: float
    tails: Tails

    def sample(self, n: int, generator: Generator) -> Tensor:
        z = torch.randn(n, self.dim, dtype=torch.float64, generator=generator)
        own = self.dim if self.tails == "independent" else 1
        shape = torch.full((n, own), self.nu / 2, dtype=torch.float64)
        w = torch._standard_gamma(shape, generator=generator) / (self.nu / 2)
        return self.scale * z / w.sqrt()

    def log_prob(self, x: Tensor) -> Tensor:
        square = (x / self.scale).square()
        d = 1 if self.tails == "independent" else self.dim
        if d > 1:
            square = square.sum(1, keepdim=True)
        log_norm = math.lgamma((self.nu + d) / 2) - math.lgamma(self.nu / 2) - 0.5 * d * math.log(self.nu * math.pi)
        each = log_norm - 0.5 * (self.nu + d) * torch.log1p(square / self.nu)
        return each.sum(1) - self.dim * math.log(self.scale)


@register("dataset", "student_t")
class Student(Synthetic):
    """`dim`: dimensions; `nu`: degrees of freedom, the data have a variance above 2; `scale`: in data units; `tails`:
    independent or multivariate; `train` / `held_out`: sizes of the splits."""

    def __init__(
        self,
        *,
        dim: PositiveInt,
        nu: PositiveFloat,
        scale: PositiveFloat,
        tails: Tails,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        super().__init__(StudentT(dim, nu, scale, tails), "student_t", train, held_out, seed)
