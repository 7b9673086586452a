"""Minimum velocity learning, with its control variate.

    L = E_x E_z [ 1/2 |grad E(x)|^2 - (2 / e^2) (E(x + e z) - E(x) - e z' grad E(x)) ],    z ~ N(0, I)

The data's law that follows the Langevin dynamics of the model starts to move with the velocity s - s_p, s = -grad E, in
the Wasserstein metric. The loss is half its mean square, up to a constant: implicit score matching, J, with the
Laplacian from one difference of energies over a random step. Its mean over z is J with an error of O(e^2), so the
minimiser tends to the data's law; nothing is differentiated twice in x.

e z' grad E(x) is the control variate: its mean is 0, and without it the variance of the value grows as 1 / e^2. For
E = a x^2 / 2 in one dimension it is 2 a^2, and without the control variate 2 a^2 + 4 a^2 x^2 / e^2. A step with both
signs, 1/2 |grad E|^2 - (E(x + e z) + E(x - e z) - 2 E(x)) / e^2, cancels the same term: with z on a sphere this is the
variance-reduced form of `fdssm`.

`dsm_cv` has a control variate of the same origin and another loss: z' grad E(x) is subtracted from the score at the
NOISY point, two gradients per point, and the minimiser is the score of the data blurred by sigma exactly.

Ziyu Wang, Shuyu Cheng, Yueru Li, Jun Zhu and Bo Zhang, A Wasserstein Minimum Velocity Approach to Learning Unnormalized
Models, 2020, section 3, arXiv:2002.07501.
"""

import math

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Generator, Tensor, nn

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, energy_and_grad, evaluate, flat_sum
from ebm_lab.core.interfaces import Batch, Dataset, Loss, Objective
from ebm_lab.core.random import with_noise
from ebm_lab.core.registry import register


def minimum_velocity(
    energy: EnergyFn, x: Tensor, z: Tensor, step: float, control_variate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, E(x), score), (B,), (B,) and (B, *shape), at the points x with displacements e z, both (B, *shape);
    `step` is e."""
    e, grad = energy_and_grad(energy, x, create_graph=True)
    rise = evaluate(energy, x + step * z) - e
    if control_variate:
        rise = rise - step * flat_sum(z * grad)
    return 0.5 * flat_sum(grad * grad) - 2 / step**2 * rise, e, -grad


@register("objective", "min_velocity")
class MinimumVelocity(Objective):
    """Minimise the velocity at which the model's Langevin dynamics begins to move the data's law.

    `step`: e, in units of the data's scale. `control_variate`: subtract e z' grad E(x). `data_noise`: std of Gaussian
    noise added to the data, in units of the data's scale; for data that lie on a thin set, whose score is infinite.
    """

    headline = ("loss", "score_norm")
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
        control_variate: bool,
        data_noise: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.generator, self.control_variate = generator, control_variate
        self.step, self.data_noise = step * dataset.scale, data_noise * dataset.scale

    def sees_within(self) -> float:
        return math.hypot(self.step, self.data_noise)

    def forward(self, batch: Batch) -> Loss:
        x = with_noise(batch.x, self.data_noise, self.generator)
        z = torch.empty_like(x).normal_(generator=self.generator)
        values, e, s = minimum_velocity(self.energy, x, z, self.step, self.control_variate)
        loss = values.mean()
        metrics = {
            "loss": loss.detach(),
            "e_pos": e.detach().mean(),
            "score_norm": flat_sum(s.detach() ** 2).sqrt().mean(),
        }
        return Loss(loss, metrics, grad_evals=3 * len(x))
