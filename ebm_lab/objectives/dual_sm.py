"""Dual score matching: the gradients of log p(y, t) in space and in time, and thereby a normalised log-density.

    y = x + sqrt(t) z,    U(y, t) = -log p_t(y) up to one constant,    t = sigma^2, log t uniform over the ladder
    L = E |x - (y - t grad U)|^2 / (d t)  +  w E (1/2 (1 - |y - x|^2 / (d t)) - t dU/dt / d)^2

The minimiser of the first term is grad U = E[(y - x) / t | y] = -grad log p_t (Tweedie), that of the second
dU/dt = E[d / (2 t) - |y - x|^2 / (2 t^2) | y] = -d log p_t / dt. The score in space is nearly blind to the weights of
separated modes, and that in time is not: the two tie the energies of all points at all levels to one another, and leave
one constant free. It is known at the top, where p_t is nearly the model's Gaussian: log Z of U(y, t_max) is a mean over
draws of that Gaussian, with almost no variance (models/levels.py), and the time term carries it down to the data. So
log p needs neither annealed importance sampling nor quadrature; its error is what the time term leaves of regression
error between t_max and t_min. With w = 1 the two terms have equal weight, as published; 2 L / d of `multi_dsm` with
time_weight=0.5 is this loss.

Florentin Guth, Zahra Kadkhodaie and Eero P. Simoncelli, Learning normalized image densities via dual score matching,
2025, arXiv:2506.05310.
"""

from typing import cast

import torch
from pydantic import PositiveFloat
from torch import Generator, Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.functional import flat_sum, per_sample
from ebm_lab.core.interfaces import Batch, Loss, Objective
from ebm_lab.core.registry import register
from ebm_lab.models.levels import NoiseEnergy, log_z_at_the_top
from ebm_lab.objectives._levels import draw_levels


def dual_scores(grad: Tensor, rate: Tensor, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the space and the time term, (B,) each, for grad U (B, *shape) and rate = t dU/dt (B,) at (y, t)."""
    d, t_ = x[0].numel(), per_sample(t, x)
    space = flat_sum((x - (y - t_ * grad)) ** 2) / (d * t)
    time = (0.5 * (1 - flat_sum((y - x) ** 2) / (d * t)) - rate / d) ** 2
    return space, time


@register("objective", "dual_sm")
class DualSM(Objective):
    """Match the scores in space and in time at all levels of the model's ladder, and normalise at the highest.

    `antithetic`: use each noise vector with both signs. `time_weight`: w.
    """

    headline = ("loss", "space", "time")
    validates = True
    needs = (
        Need("energy", "energy"),
        Need("energy", "levels"),
        Need("energy", "smooth"),
        Need("dataset", "continuous"),
    )

    def __init__(
        self, energy: NoiseEnergy, generator: Generator, *, antithetic: bool, time_weight: PositiveFloat
    ) -> None:
        super().__init__(energy)
        self.generator, self.antithetic, self.time_weight = generator, antithetic, time_weight

    def learnt_blur(self) -> float:
        return cast(NoiseEnergy, self.energy).ladder.sigma_min

    def learnt_log_z(self) -> Tensor:
        return log_z_at_the_top(cast(NoiseEnergy, self.energy))

    def forward(self, batch: Batch) -> Loss:
        x, model = batch.x, cast(NoiseEnergy, self.energy)
        sigma = draw_levels(model.ladder, len(x), False, self.generator, x)
        z = torch.empty_like(x).normal_(generator=self.generator)
        if self.antithetic:
            x, z, sigma = torch.cat([x, x]), torch.cat([z, -z]), torch.cat([sigma, sigma])
        y = x + per_sample(sigma, x) * z
        _, grad, rate = model.level_gradients(y, sigma)
        space, time = dual_scores(grad, 0.5 * rate, x, y, sigma**2)  # dU / d log sigma = 2 t dU/dt
        space, time = space.mean(), time.mean()
        loss = space + self.time_weight * time
        metrics = {"loss": loss.detach(), "space": space.detach(), "time": time.detach()}
        return Loss(loss, metrics, grad_evals=2 * len(x))
