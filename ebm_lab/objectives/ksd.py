"""Kernel Stein discrepancy of the data from the model, as a loss.

    KSD^2 = E_x E_x' h(x, x')
    h(x, y) = s(x)'s(y) k + s(x)' grad_y k + grad_x k' s(y) + tr(grad_x grad_y' k),    s = -grad_x E

with x, x' independent data and k a kernel, the RBF or the IMQ (statistics/stein.py). With delta the data's score minus
the model's, KSD^2 = E delta(x)' k(x, x') delta(x'): it is 0 where the scores agree, so the minimiser is the data's own
law, and no Laplacian, noise, sampler or Z is needed. The estimate is the U-statistic, the mean of h over the pairs
i != j of a batch: unbiased, at most a little below 0 at the truth, and with a noise of order 1 / sqrt(batch size) in
its gradient. The kernels' widths stay fixed in a run, for a width that follows the batch changes the objective. At a
fixed width the signal falls exponentially in the dimension; widths near the median distance keep it.

For data N(0, s I), E = a |x|^2 / 2 and the RBF of width h, it is (1/s - a)^2 d (s^2 / h^2) (1 + 2 s / h^2)^-(d/2 + 1).
Like every loss of the score alone it hardly sees the weights of modes that lie far apart.

Qiang Liu, Jason Lee and Michael Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, 2016, definition 3.2,
theorem 3.6 and equation 14, arXiv:1602.03253. Alessandro Barp, Francois-Xavier Briol, Andrew Duncan, Mark Girolami and
Lester Mackey, Minimum Stein Discrepancy Estimators, 2019, section 2, arXiv:1906.08283 (as a loss).
"""

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
from ebm_lab.statistics.prdc import median_distance
from ebm_lab.statistics.stein import imq_stein_kernel, rbf_stein_kernel, u_statistic

Kernel = Literal["imq", "rbf"]
KERNELS = {"imq": imq_stein_kernel, "rbf": rbf_stein_kernel}
ROWS = 1000
"""Training points whose median distance is the unit of the widths."""


def kernel_stein_discrepancy(
    energy: EnergyFn, x: Tensor, kernel: Kernel, widths: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (KSD^2, E(x), s(x)), 0-d, (B,) and (B, *shape), for data x (B, *shape).

    KSD^2 is the mean over the widths, in data units, of the U-statistic.
    """
    e, grad = energy_and_grad(energy, x, create_graph=True)
    points, s = x.flatten(1), -grad.flatten(1)
    return torch.stack([u_statistic(KERNELS[kernel](points, s, c)) for c in widths]).mean(), e, -grad


@register("objective", "ksd")
class KSD(Objective):
    """Minimise the kernel Stein discrepancy between the model and the pairs of points of a batch.

    `kernel`: imq or rbf. `widths`: of the kernels, over which the loss is averaged, in units of the median distance
    between training points. `data_noise`: std of Gaussian noise added to the data, in units of the data's scale.
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
        self.not_separable = "objective=ksd compares all pairs of points of a batch"

    def sees_within(self) -> float:
        return self.data_noise

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        loss, e, s = kernel_stein_discrepancy(self.energy, x, self.kernel, self.widths)
        metrics = {
            "loss": loss.detach(),
            "e_pos": e.detach().mean(),
            "score_norm": flat_sum(s.detach() ** 2).sqrt().mean(),
        }
        return Loss(loss, metrics, grad_evals=2 * len(x))
