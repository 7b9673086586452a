"""Twenty-five equal Gaussians on a 5 x 5 grid centred at the origin: are all modes found, with the right weights?

p(x) = 1/25 sum_{i,j} N(x; spacing (i, j), std^2 I),    i, j in {-2, -1, 0, 1, 2}
"""

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.mixture import GaussianMixture


@register("dataset", "twenty_five_gaussians")
class TwentyFiveGaussians(Synthetic):
    """`spacing` of the grid and `std` of each mode, in data units; `train` / `held_out`: sizes of the splits."""

    def __init__(
        self,
        *,
        spacing: PositiveFloat,
        std: PositiveFloat,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        axis = spacing * torch.arange(-2, 3, dtype=torch.float64)
        law = GaussianMixture(
            torch.ones(25, dtype=torch.float64),
            torch.cartesian_prod(axis, axis),
            stds=torch.tensor(std, dtype=torch.float64),
        )
        super().__init__(law, "twenty_five_gaussians", train, held_out, seed)
