"""Score matching, in its implicit form, with the exact trace of the Hessian.

    J = E_x[ 1/2 |s|^2 + tr(grad_x s) ],    s = -grad_x E,  tr(grad_x s) = -Laplacian of E

equals 1/2 E|s_data - s|^2 up to a constant: the minimiser is the data's own score, with no noise, no sampler and no Z.
No variance but the data's, at a cost that grows with the dimension d: about d / 2 to d times that of a sliced step. The
tutorial's equation 8 prints + for the Laplacian; the sign here is the one that matches D_F. Blind to the weights of
modes that lie far apart; needs a twice differentiable energy.

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
"""Above this dimension a step costs ten sliced ones or more (`python scripts/theory.py out=docs only=estimators`)."""


def implicit_score_matching(energy: EnergyFn, x: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, energy, score), (B,), (B,), (B, *shape), at the points x (B, *shape)."""
    e, s, trace = score_and_trace(energy, x, chunk)
    return 0.5 * flat_sum(s * s) + trace, e, s


@register("objective", "sm")
class SM(Objective):
    """Settings: `chunk`: how many of the d second derivatives are taken at once; fewer than d bounds the memory to that
    of one chunk and costs up to twice the time. `data_noise`: std of Gaussian noise added to the data, in units of its
    scale, for data that lie on a thin set, whose score is infinite."""

    headline = ("loss", "score_norm")
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
