"""A mixture of Gaussians on the line, where quadrature gives every integral.

p(x) = sum_k w_k N(x; m_k, std_k^2)
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.mixture import GaussianMixture


@register("dataset", "mixture_1d")
class Mixture1D(Synthetic):
    """`weights`: relative to their sum; `means` and `stds`: one per weight, in data units; `train` / `held_out`: sizes
    of the splits, of shape (n, 1)."""

    def __init__(
        self,
        *,
        weights: Annotated[list[PositiveFloat], Field(min_length=1)],
        means: Annotated[list[float], Field(min_length=1)],
        stds: Annotated[list[PositiveFloat], Field(min_length=1)],
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        for key, values in (("means", means), ("stds", stds)):
            if len(values) != len(weights):
                raise UserError(
                    f"dataset.{key}={values}: must be {len(weights)} numbers, one for each of dataset.weights"
                )
        w, m, s = (torch.tensor(values, dtype=torch.float64) for values in (weights, means, stds))
        law = GaussianMixture(w, m.unsqueeze(1), stds=s.unsqueeze(1))
        super().__init__(law, "mixture_1d", train, held_out, seed)
