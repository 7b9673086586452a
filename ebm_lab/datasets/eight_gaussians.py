"""Eight equal Gaussians around a circle: well separated modes.

p(x) = 1/8 sum_k N(x; radius (cos 2 pi k/8, sin 2 pi k/8), std^2 I)

While the modes don't touch, the expected log-likelihood is -(log 8 + 1 + log 2 pi std^2): -1.698 nats at std 0.2.
"""

import math

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.mixture import GaussianMixture


@register("dataset", "eight_gaussians")
class EightGaussians(Synthetic):
    """`radius` of the circle and `std` of each mode, in data units; `train` / `held_out`: sizes of the splits."""

    def __init__(
        self,
        *,
        radius: PositiveFloat,
        std: PositiveFloat,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        angle = 2 * math.pi / 8 * torch.arange(8, dtype=torch.float64)
        means = radius * torch.stack([angle.cos(), angle.sin()], 1)
        law = GaussianMixture(torch.ones(8, dtype=torch.float64), means, stds=torch.tensor(std, dtype=torch.float64))
        super().__init__(law, "eight_gaussians", train, held_out, seed)
