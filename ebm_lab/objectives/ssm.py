"""Sliced score matching.

    plain:             L = E_x E_v [ 1/2 (v . s)^2 + v' (grad_x s) v ]
    variance-reduced:  L = E_x E_v [ 1/2 |s|^2     + v' (grad_x s) v ]        s = -grad_x E,  grad_x s = -Hess E

with projections v of E[v v'] = I: standard normal, Rademacher (+-1), or uniform on the sphere of radius sqrt(d). Both
equal implicit score matching in the mean over v, hence 1/2 E|s_data - s|^2 up to a constant: the minimiser is the
data's own score, with no noise and no Z. The published equations 15 and 17 print + v' (Hess E) v; the sign here is the
one that matches D_F. Blind to the weights of modes that lie far apart; needs a twice differentiable energy.

Yang Song, Sahaj Garg, Jiaxin Shi and Stefano Ermon, Sliced Score Matching, 2019, equations 7 and 8, arXiv:1905.07088.
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equations 15 and 17, arXiv:2101.03288.
"""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, flat_sum, per_sample, score_and_curvature
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register

Projection = Literal["gaussian", "rademacher", "sphere"]


def sliced_score_matching(
    energy: EnergyFn, x: Tensor, v: Tensor, variance_reduced: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, energy, score), (B,), (B,), (B, *shape), for one projection v (B, *shape) per point x (B, *shape), or the
    mean loss over K of them, v (K, B, *shape)."""
    v = v if v.ndim > x.ndim else v[None]
    e, s, curvature = score_and_curvature(energy, x, v)
    square = flat_sum(s * s) if variance_reduced else (v * s).flatten(2).sum(2).square().mean(0)
    return 0.5 * square + curvature / len(v), e, s


def projections(like: Tensor, law: Projection, generator: Generator) -> Tensor:
    """Random directions v with E[v v'] = I, one for each sample of `like` (B, *shape)."""
    v = torch.empty_like(like)
    if law == "rademacher":
        return v.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    v.normal_(generator=generator)
    if law == "gaussian":
        return v
    radius = v[0].numel() ** 0.5
    return v * per_sample(radius / flat_sum(v * v).sqrt(), v)


@register("objective", "ssm")
class SSM(Objective):
    """Settings: `projection`, the law of v; `variance_reduced`: the second form (never plain with Rademacher in one
    dimension, where both agree); `projections`: how many v per point, all in one batch; `data_noise`: std of Gaussian
    noise added to the data, in units of its scale, for data that lie on a thin set, whose score is infinite."""

    headline = ("loss", "score_norm")
    needs = (Need("energy", "energy"), Need("energy", "smooth"), Need("dataset", "continuous"))

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        *,
        projection: Projection,
        variance_reduced: bool,
        projections: PositiveInt,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.generator, self.count = generator, projections
        self.law: Projection = projection
        self.variance_reduced, self.data_noise = variance_reduced, data_noise * dataset.scale

    def sees_within(self) -> float:
        return self.data_noise

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        v = projections(x.repeat(self.count, *[1] * (x.ndim - 1)), self.law, self.generator)
        v = v.view(self.count, *x.shape)
        values, e, s = sliced_score_matching(self.energy, x, v, self.variance_reduced)
        loss = values.mean()
        metrics = {
            "loss": loss.detach(),
            "e_pos": e.detach().mean(),
            "score_norm": flat_sum(s.detach() ** 2).sqrt().mean(),
        }
        return Loss(loss, metrics, grad_evals=3 * self.count * len(x))
