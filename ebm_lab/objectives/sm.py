"""Score matching, in its implicit form, with the exact trace of the Hessian.

    J = E_x[ 1/2 |s|^2 + tr(grad_x s) ],    s = -grad_x E,  tr(grad_x s) = -Laplacian of E

J equals 1/2 E|s_data - s|^2 up to a constant, so the minimiser is the data's own score; no noise, sampler or Z is
needed. The only variance is that of the data, but the cost grows with the dimension d: about d / 2 to d times that of a
sliced step. The tutorial's equation 8 prints + for the Laplacian; the sign here is the one that matches D_F. The loss
is blind to the weights of modes that lie far apart, and needs a twice differentiable energy.

Aapo Hyvarinen, Estimation of Non-Normalized Statistical Models by Score Matching, 2005, theorem 1.
Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equation 8, arXiv:2101.03288.
"""

from pydantic import NonNegativeFloat, PositiveInt
from torch import Generator, Tensor, nn

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, flat_sum, score_and_trace
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register

COSTLY = 16
"""Dimension above which a step costs at least ten sliced ones (`python scripts/theory.py out=docs only=estimators`)."""


def implicit_score_matching(energy: EnergyFn, x: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, energy, score), (B,), (B,), (B, *shape), at the points x (B, *shape)."""
    e, s, trace = score_and_trace(energy, x, chunk)
    return 0.5 * flat_sum(s * s) + trace, e, s


@register("objective", "sm")
class SM(Objective):
    """Match the score with the exact trace of the Hessian.

    `chunk`: number of the d second derivatives that are computed at once; fewer than d limits the memory to that of one
    chunk and takes up to twice the time. `data_noise`: std of Gaussian noise added to the data, in units of the data's
    scale; for data that lie on a thin set, whose score is infinite.
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
        chunk: PositiveInt,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.generator, self.chunk, self.data_noise = generator, chunk, data_noise * dataset.scale
        self.dim = dataset.mean.numel()
        if self.dim > COSTLY:
            self.notes.append(
                f"objective=sm takes {self.dim} second derivatives a step, {self.dim // 2} to {self.dim} times the "
                f"cost of objective=ssm, which has the same minimiser"
            )

    def sees_within(self) -> float:
        return self.data_noise

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        values, e, s = implicit_score_matching(self.energy, x, self.chunk)
        loss = values.mean()
        metrics = {
            "loss": loss.detach(),
            "e_pos": e.detach().mean(),
            "score_norm": flat_sum(s.detach() ** 2).sqrt().mean(),
        }
        return Loss(loss, metrics, grad_evals=(2 + self.dim) * len(x))
