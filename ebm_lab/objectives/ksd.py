"""Kernel Stein discrepancy of the data from the model, as a loss.

    KSD^2 = E_x E_x' h(x, x')
    h(x, y) = s(x)'s(y) k + s(x)' grad_y k + grad_x k' s(y) + tr(grad_x grad_y' k),    s = -grad_x E

with x, x' independent data and k a kernel, the RBF or the IMQ (statistics/stein.py). With delta the data's score minus
the model's, KSD^2 = E delta(x)' k(x, x') delta(x'): it is 0 where the scores agree, so the minimiser is the data's own
law, and no Laplacian, noise, sampler or Z is needed. The estimate is the U-statistic, the mean of h over the pairs
i != j of a batch: unbiased, so that it can be negative near the truth, and with a noise of order 1 / sqrt(batch size)
in its gradient. The kernels' widths stay fixed in a run, for a width that follows the batch changes the objective. At a
fixed width the signal falls exponentially in the dimension; widths near the median distance keep it.

A narrow kernel weighs delta by p^2, so that little is learnt where the density is low: between modes, which decides
their weights, and in tails. The kernel m(x) k(x, x') m(x'), for any m > 0, weighs it by p^2 m^2 and has

    m(x) m(y) h(x, y)  with  s + grad log m  in the place of s

as its h (a diffusion Stein discrepancy). Here m = (q + q_0)^-tilt, scaled to 1 at the median point, with q a mixture
fitted to the data and q_0 its density at the least likely thousandth of them; tilt = 1/2 gives the weight p of score
matching.

For data N(0, s I), E = a |x|^2 / 2 and the RBF of width h, it is (1/s - a)^2 d (s^2 / h^2) (1 + 2 s / h^2)^-(d/2 + 1);
with m(x) = exp(b |x|^2 / 2), the same with 1/t = 1/s - b for 1/s in all but the first factor, times (t / s)^d.
Like every loss of the score alone it hardly sees the weights of modes that lie far apart.

Qiang Liu, Jason Lee and Michael Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, 2016, theorem 3.6,
arXiv:1602.03253. Alessandro Barp, Francois-Xavier Briol, Andrew Duncan, Mark Girolami and Lester Mackey, Minimum Stein
Discrepancy Estimators, 2019, arXiv:1906.08283 (as a loss; with m).
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Generator, Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, energy_and_grad, flat_sum
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.random import subset, with_noise
from ebm_lab.core.registry import register
from ebm_lab.distributions.base import Base
from ebm_lab.distributions.fitting import are_images, fit_base
from ebm_lab.statistics.prdc import median_distance
from ebm_lab.statistics.stein import imq_stein_kernel, rbf_stein_kernel, u_statistic

Kernel = Literal["imq", "rbf"]
KERNELS = {"imq": imq_stein_kernel, "rbf": rbf_stein_kernel}
ROWS = 1000
"""Training points whose median distance is the unit of the widths."""
FITTED = 10_000
"""Training points that set the scale and the floor of q, at most."""


Weight = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x (B, *shape) -> (m(x) (B,), grad log m(x) (B, *shape))."""


class Tilt(nn.Module):
    """m(x) = ((q(x) + q_0) / (q_m + q_0))^-tilt, with q_0 and q_m the densities of q at the least likely thousandth and
    at the median of the points x (n, *shape)."""

    log_floor: Tensor
    log_median: Tensor

    def __init__(self, law: Base, x: Tensor, tilt: float) -> None:
        super().__init__()
        self.law, self.tilt = law, tilt
        floor, median = (-law(x)).quantile(torch.tensor([0.001, 0.5]).to(x))
        self.register_buffer("log_floor", floor)
        self.register_buffer("log_median", torch.logaddexp(median, floor))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        minus, grad = self.law.with_gradient(x)
        log_m = self.tilt * (self.log_median - torch.logaddexp(-minus, self.log_floor))
        share = torch.sigmoid(-minus - self.log_floor).view(-1, *[1] * (x.ndim - 1))
        return log_m.exp(), self.tilt * share * grad


def kernel_stein_discrepancy(
    energy: EnergyFn, x: Tensor, kernel: Kernel, widths: list[float], weight: Weight | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (KSD^2, E(x), s(x)), 0-d, (B,) and (B, *shape), for data x (B, *shape).

    KSD^2 is the mean over the widths, in data units, of the U-statistic. weight: m; None: 1.
    """
    e, grad = energy_and_grad(energy, x, create_graph=True)
    points, s = x.flatten(1), -grad.flatten(1)
    if weight is None:
        pairs = [KERNELS[kernel](points, s, c) for c in widths]
    else:
        with torch.no_grad():
            m, pull = weight(x)
        s, both = s + pull.flatten(1), torch.outer(m, m)
        pairs = [both * KERNELS[kernel](points, s, c) for c in widths]
    return torch.stack([u_statistic(h) for h in pairs]).mean(), e, -grad


@register("objective", "ksd")
class KSD(Objective):
    """Minimise the kernel Stein discrepancy between the model and the pairs of points of a batch.

    `kernel`: imq or rbf. `widths`: of the kernels, over which the loss is averaged, in units of the median distance
    between training points. `data_noise`: std of Gaussian noise added to the data, in units of the data's scale.
    `tilt`: the power by which low density is weighed up, 0 for none, 1/2 for the weight of score matching; for points.
    """

    headline = ("loss", "score_norm")
    validates = True
    needs = (Need("energy", "energy"), Need("dataset", "continuous"))
    needs_float32 = "takes differences of the scores of near points"

    def __init__(
        self,
        energy: nn.Module,
        dataset: Dataset,
        generator: Generator,
        batch_size: int,
        *,
        kernel: Kernel,
        widths: Annotated[list[PositiveFloat], Field(min_length=1)],
        data_noise: NonNegativeFloat,
        tilt: Annotated[float, Field(ge=0, le=1)],
    ) -> None:
        super().__init__(energy)
        if batch_size < 2:
            raise UserError(f"batch_size={batch_size}: must be at least 2, for objective=ksd compares pairs of points")
        unit = median_distance(subset(dataset.train, ROWS))
        if not unit:
            raise UserError("objective=ksd: most training points are equal: their distances give the kernels no width")
        self.kernel: Kernel = kernel
        self.generator, self.widths = generator, [w * unit for w in widths]
        self.data_noise = data_noise * dataset.scale
        self.weight = self._tilted(dataset, tilt) if tilt else None
        self.not_separable = "objective=ksd compares all pairs of points of a batch"

    def _tilted(self, dataset: Dataset, tilt: float) -> Tilt:
        """Fit q to the data."""
        if are_images(dataset):
            raise UserError(f"objective.tilt={tilt:g}: is for points; for images choose objective.tilt=0")
        law, _, _ = fit_base(dataset, "mixture", levels=False)
        assert law is not None, "a mixture is a law"
        self.notes.append(f"objective.tilt={tilt:g}: low density is weighed up by {law.in_words()}")
        return Tilt(law, subset(dataset.train, FITTED), tilt)

    def sees_within(self) -> float:
        return self.data_noise

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        loss, e, s = kernel_stein_discrepancy(self.energy, x, self.kernel, self.widths, self.weight)
        metrics = {
            "loss": loss.detach(),
            "e_pos": e.detach().mean(),
            "score_norm": flat_sum(s.detach() ** 2).sqrt().mean(),
        }
        return Loss(loss, metrics, grad_evals=2 * len(x))
