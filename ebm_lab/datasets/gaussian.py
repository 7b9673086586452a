"""A Gaussian of any dimension, with unequal variances and a common correlation; everything about it is known.

x ~ N(m, S),    S_ij = std_i std_j (correlation + (1 - correlation) [i = j])
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import stream
from ebm_lab.core.registry import register
from ebm_lab.distributions import elementary as distributions


@register("dataset", "gaussian")
class Gaussian(Dataset):
    """`dim` dimensions; every mean is `mean`; stds are spaced evenly from `std_min` to `std_max`; `correlation` is
    common to all pairs. `train` / `held_out` are the sizes of the training and of each held-out split."""

    def __init__(
        self,
        *,
        dim: PositiveInt,
        mean: float,
        std_min: PositiveFloat,
        std_max: PositiveFloat,
        correlation: Annotated[float, Field(ge=0, lt=1)],
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        std = torch.linspace(std_min, std_max, dim, dtype=torch.float64)
        eye = torch.eye(dim, dtype=torch.float64)
        covariance = torch.outer(std, std) * (correlation + (1 - correlation) * eye)
        self.law = distributions.Gaussian(torch.full_like(std, mean), covariance)
        self._normal = torch.distributions.MultivariateNormal(
            self.law.mean, covariance
        )  # old runs recorded its last bits
        factor = torch.linalg.cholesky(covariance)

        def draw(n: int, split: str) -> Tensor:
            z = torch.randn(n, dim, dtype=torch.float64, generator=stream(seed, f"gaussian/{split}"))
            return mean + z @ factor.T

        self.precise = draw(train, "train"), draw(held_out, "val"), draw(held_out, "test")
        self.train, self.val, self.test = (split.float() for split in self.precise)

    def log_prob(self, x: Tensor) -> Tensor:
        return self._normal.log_prob(x.cpu().double()).to(x.device)
