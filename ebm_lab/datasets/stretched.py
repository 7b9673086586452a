"""A mixture of round Gaussians, stretched along one axis and turned: data with two length scales.

    x = R(angle) diag(1, stretch) z,    z ~ sum_k w_k N(m_k, std^2 I) in the plane

The map is linear and known, so the law is a mixture of Gaussians with one common covariance, and every gap to the truth
is that of `z`.
"""

import math

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.mixture import GaussianMixture

WEIGHTS, MEANS = [0.6, 0.3, 0.1], [[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]


@register("dataset", "stretched")
class Stretched(Synthetic):
    """`std`: of each of the three modes before the stretch, whose means are (-2, 0), (2, 0) and (0, 2);
    `stretch`: factor along the second axis; `angle`: of the turn afterwards, in degrees; `train` / `held_out`: sizes of
    the splits."""

    def __init__(
        self,
        *,
        std: PositiveFloat,
        stretch: PositiveFloat,
        angle: float,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        linear = torch.tensor([[c, -s], [s, c]], dtype=torch.float64) * torch.tensor([1.0, stretch]).double()
        law = GaussianMixture(
            torch.tensor(WEIGHTS, dtype=torch.float64),
            torch.tensor(MEANS, dtype=torch.float64) @ linear.mT,
            covariances=(std**2 * linear @ linear.mT).expand(3, 2, 2),
        )
        super().__init__(law, "stretched", train, held_out, seed)
