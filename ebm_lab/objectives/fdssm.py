"""Finite-difference sliced score matching: three energies per point instead of derivatives in x.

    plain:             L = E_x E_v (d / eps^2) { [E(x+v) - E(x-v)]^2 / 8 - [E(x+v) + E(x-v) - 2 E(x)] }
    variance-reduced:  L = E_x E_v { 1/2 |s|^2 - (d / eps^2) [E(x+v) + E(x-v) - 2 E(x)] },    s = -grad_x E

with v uniform on the sphere |v| = eps. As eps -> 0 they tend, with an error of O(eps^2), to the two forms of sliced
score matching with v on the sphere of radius sqrt(d), whose minimiser is the data's own score. The plain form takes no
derivative in x, the variance-reduced form takes one.

Finite differences handle kinks (ReLU) correctly: the second difference is 0 unless the kink lies between x - v and
x + v, and is then of order 1 / eps, so that its mean over x is the kink's true share of E_x[v' (Hess E) v], which
second derivatives miss. So any activation can be used, but with kinks the variance grows as 1 / eps.

In float32 the rounding error of the second difference is about 1e-7 |E|, times d / eps^2; for narrow features the
truncation error is larger. For features a tenth of the data's scale wide and energies of 10 nats the two errors cross
near eps / sqrt(d) = 0.01 of the scale; rounding averages out, truncation does not, and 0.01 to 0.05 keeps both small
(`python scripts/theory.py out=docs only=estimators`).

Tianyu Pang, Kun Xu, Chongxuan Li, Yang Song, Stefano Ermon and Jun Zhu, Efficient Learning of Generative Models via
Finite-Difference Score Matching, 2020, arXiv:2007.03317.
"""

import math

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Generator, Tensor, nn

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, flat_sum, score, stacked
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register
from ebm_lab.objectives.ssm import projections


def finite_difference_ssm(energy: EnergyFn, x: Tensor, v: Tensor, variance_reduced: bool) -> tuple[Tensor, Tensor]:
    """Return (loss, energy), (B,) each, for one displacement v (B, *shape), |v| = eps, per point x (B, *shape)."""
    d, eps_2 = x[0].numel(), flat_sum(v * v)
    e, ahead, behind = stacked(energy, x, x + v, x - v)
    second_difference = ahead + behind - 2 * e
    if variance_reduced:
        return 0.5 * flat_sum(score(energy, x, create_graph=True) ** 2) - d / eps_2 * second_difference, e
    return d / eps_2 * ((ahead - behind) ** 2 / 8 - second_difference), e


@register("objective", "fdssm")
class FDSSM(Objective):
    """Match the score by finite differences along one random direction per point.

    `step`: displacement per coordinate, eps / sqrt(d), in units of the data's scale. `variance_reduced`: use the second
    form. `data_noise`: std of Gaussian noise added to the data, in units of the data's scale; for data that lie on a
    thin set, whose score is infinite.
    """

    headline = ("loss",)
    validates = True
    needs = (Need("energy", "energy"), Need("dataset", "continuous"))
    needs_float32 = "takes differences of energies over short steps"

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        *,
        step: PositiveFloat,
        variance_reduced: bool,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.generator, self.variance_reduced = generator, variance_reduced
        self.step, self.data_noise = step * dataset.scale, data_noise * dataset.scale

    def sees_within(self) -> float:
        return math.hypot(self.step, self.data_noise)

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        v = self.step * projections(x, "sphere", self.generator)
        values, e = finite_difference_ssm(self.energy, x, v, self.variance_reduced)
        loss = values.mean()
        metrics = {"loss": loss.detach(), "e_pos": e.detach().mean()}
        return Loss(loss, metrics, grad_evals=(5 if self.variance_reduced else 3) * len(x))
