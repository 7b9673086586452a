"""Pinwheel: Gaussian arms twisted around the origin, and their density by an area-preserving change of variables.

    v ~ 1/arms sum_k N(R(2 pi k/arms) (radius, 0)', R diag(radial_std^2, tangential_std^2) R'),   R = R(2 pi k/arms)
    x = R(twist |v|/radius) v,    p(x) = p_v(R(-twist |x|/radius) x)

The rotation angle depends only on the distance from the origin, which the rotation preserves. In polar coordinates it
is a shift of the angle, so its Jacobian determinant is 1. The shape is similar to the pinwheel of Johnson et al.,
Composing graphical models with neural networks for structured representations and fast inference, 2016,
https://arxiv.org/abs/1603.06277, whose density has no formula.
"""

import math
from dataclasses import dataclass

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.registry import register
from ebm_lab.datasets._synthetic import Synthetic
from ebm_lab.distributions.mixture import GaussianMixture


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate each row of x (n, 2) by its own angle (n,), counter-clockwise."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], 1)


@dataclass(frozen=True)
class Twisted:
    """`base` with each point rotated by `rate` radians per unit of distance from the origin."""

    base: GaussianMixture
    rate: float

    def sample(self, n: int, generator: Generator) -> Tensor:
        v = self.base.sample(n, generator)
        return rotate(v, self.rate * v.norm(dim=1))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.base.log_prob(rotate(x, -self.rate * x.norm(dim=1)))


@register("dataset", "pinwheel")
class Pinwheel(Synthetic):
    """`arms`: number of arms; `radius`: distance of their centres from the origin; `radial_std` and `tangential_std`:
    their length and width before the twist, in data units; `twist`: radians at the radius; `train` / `held_out`: sizes
    of the splits."""

    def __init__(
        self,
        *,
        arms: PositiveInt,
        radius: PositiveFloat,
        radial_std: PositiveFloat,
        tangential_std: PositiveFloat,
        twist: float,
        train: PositiveInt,
        held_out: PositiveInt,
        seed: NonNegativeInt,
    ) -> None:
        angle = 2 * math.pi / arms * torch.arange(arms, dtype=torch.float64)
        out, along = torch.stack([angle.cos(), angle.sin()], 1), torch.stack([-angle.sin(), angle.cos()], 1)
        covariances = radial_std**2 * out.unsqueeze(2) * out.unsqueeze(1)
        covariances = covariances + tangential_std**2 * along.unsqueeze(2) * along.unsqueeze(1)
        base = GaussianMixture(torch.ones_like(angle), radius * out, covariances=covariances)
        super().__init__(Twisted(base, twist / radius), "pinwheel", train, held_out, seed)
