"""Sliced score matching.

    plain:             L = E_x E_v [ 1/2 (v . s)^2 + v' (grad_x s) v ]
    variance-reduced:  L = E_x E_v [ 1/2 |s|^2     + v' (grad_x s) v ]        s = -grad_x E,  grad_x s = -Hess E

with random projections v with E[v v'] = I: standard normal, Rademacher (+-1), or uniform on the sphere of radius
sqrt(d). In the mean over v both equal implicit score matching, hence 1/2 E|s_data - s|^2 up to a constant, so the
minimiser is the data's own score; no noise or Z is needed. The published equations 15 and 17 print + v' (Hess E) v; the
sign here is the one that matches D_F. The loss is blind to the weights of modes that lie far apart, and needs a twice
differentiable energy.

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
    """Return (loss, energy, score), (B,), (B,), (B, *shape), at the points x (B, *shape).

    v holds one projection per point, (B, *shape), or K of them, (K, B, *shape), over which the loss is averaged.
    """
    v = v if v.ndim > x.ndim else v[None]
    e, s, curvature = score_and_curvature(energy, x, v)
    square = flat_sum(s * s) if variance_reduced else (v * s).flatten(2).sum(2).square().mean(0)
    return 0.5 * square + curvature / len(v), e, s


def projections(like: Tensor, law: Projection, generator: Generator) -> Tensor:
    """Draw directions v with E[v v'] = I, one for each sample of `like` (B, *shape)."""
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
    """Match the score along random projections.

    `projection`: law of v. `variance_reduced`: use the second form (with Rademacher in one dimension both are the
    same). `projections`: number of v per point, all in one batch. `data_noise`: std of Gaussian noise added to the
    data, in units of the data's scale; for data that lie on a thin set, whose score is infinite.
    """

    headline = ("loss", "score_norm")
    validates = True
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
