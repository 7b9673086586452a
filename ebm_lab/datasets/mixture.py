"""A mixture of isotropic Gaussians with your own weights, in any dimension: does a method learn a mode's weight?

p(x) = sum_k w_k N(x; m_k, std^2 I)

Score matching is nearly blind to the weights of distant modes; likelihood is not. The default weights are 0.6, 0.3 and
0.1.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.mixture import GaussianMixture


@register("dataset", "mixture")
class Mixture(Synthetic):
    """`weights`: relative to their sum; `means`: one list of coordinates per weight; `std`: of every mode, in data
    units; `train` / `held_out`: sizes of the splits."""

    def __init__(
        self,
        *,
        weights: Annotated[list[PositiveFloat], Field(min_length=1)],
        means: Annotated[list[Annotated[list[float], Field(min_length=1)]], Field(min_length=1)],
        std: PositiveFloat,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        if len(means) != len(weights):
            raise UserError(f"dataset.means={means}: must be {len(weights)} points, one for each of dataset.weights")
        if len({len(m) for m in means}) > 1:
            raise UserError(f"dataset.means={means}: must all have the same number of coordinates")
        law = GaussianMixture(
            torch.tensor(weights, dtype=torch.float64),
            torch.tensor(means, dtype=torch.float64),
            stds=torch.tensor(std, dtype=torch.float64),
        )
        super().__init__(law, "mixture", train, held_out, seed)
