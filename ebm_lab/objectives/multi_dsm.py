"""Denoising score matching at many noise levels, for energies and for score networks.

    L = E_sigma E_x E_z 1/2 | sigma s(x + sigma z, sigma) + z |^2,    z ~ N(0, I),    log sigma uniform over the ladder

The weight sigma^2 lets all levels contribute equally. The minimiser at each level is the score of
q_sigma = p * N(0, sigma^2 I). High levels determine the weights of separated modes, to which a single low level is
blind; the time term makes an energy consistent over the levels:

    L_t = E 1/2 (d - |z|^2 - dE(x + sigma z, sigma) / d log sigma)^2 / (2 d)

whose minimiser is -d log q_sigma / d log sigma = E[d - |z|^2 | x + sigma z], since log N(y; x, sigma^2 I) has the
derivative |z|^2 - d in log sigma. Together they leave one constant free in E(x, sigma), the same at every level and
point. 2 d is the variance of |z|^2.

Yang Song and Stefano Ermon, Generative Modeling by Estimating Gradients of the Data Distribution, 2019, equation 6,
arXiv:1907.05600.
Florentin Guth, Zahra Kadkhodaie and Eero P. Simoncelli, Learning normalized image densities via dual score matching,
2025 (time term, there in t = sigma^2).
"""

from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from pydantic import NonNegativeFloat
from torch import Generator, Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.functional import flat_sum, level_gradients, per_sample
from ebm_lab.core.interfaces import Batch, Loss, Objective
from ebm_lab.core.registry import register
from ebm_lab.models.levels import NoiseEnergy, NoiseLevels
from ebm_lab.objectives._levels import draw_levels


def space_loss(s: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
    """Return 1/2 |sigma s + z|^2, (B,), for scores s at x + sigma z."""
    return 0.5 * flat_sum((per_sample(sigma, z) * s + z) ** 2)


def time_loss(rate: Tensor, z: Tensor) -> Tensor:
    """Return 1/2 (d - |z|^2 - rate)^2 / (2 d), (B,), for rate = dE / d log sigma at x + sigma z."""
    d = z[0].numel()
    return 0.5 * (d - flat_sum(z * z) - rate) ** 2 / (2 * d)


@register("objective", "multi_dsm")
class MultiDSM(Objective):
    """Denoise the data at all levels of the model's ladder.

    `levels`: draw continuous levels or the ladder's discrete ones. `antithetic`: use each noise vector with both signs.
    `time_weight`: weight of the time term, for energies only.
    """

    headline = ("loss", "space", "time")
    validates = True
    needs = (Need("energy", "levels"), Need("dataset", "continuous"))

    def __init__(
        self,
        energy: NoiseLevels,
        generator: Generator,
        *,
        levels: Literal["continuous", "discrete"],
        antithetic: bool,
        time_weight: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.generator, self.discrete = generator, levels == "discrete"
        self.antithetic, self.time_weight = antithetic, time_weight

    @classmethod
    def needs_of(cls, *, time_weight: float = 0.0, **settings: Any) -> Iterable[Need]:
        needed = [Need("energy", "energy", f"objective.time_weight={time_weight:g}")] if time_weight else []
        return (*super().needs_of(**settings), *needed)

    def learnt_blur(self) -> float:
        return cast(NoiseLevels, self.energy).ladder.sigma_min

    def forward(self, batch: Batch) -> Loss:
        x, model = batch.x, cast(NoiseLevels, self.energy)
        sigma = draw_levels(model.ladder, len(x), self.discrete, self.generator, x)
        z = torch.empty_like(x).normal_(generator=self.generator)
        if self.antithetic:
            x, z, sigma = torch.cat([x, x]), torch.cat([z, -z]), torch.cat([sigma, sigma])
        noisy = x + per_sample(sigma, x) * z
        metrics = {}
        if self.time_weight:
            _, grad, rate = level_gradients(cast(NoiseEnergy, model).energy, noisy, sigma)
            space, time = space_loss(-grad, z, sigma).mean(), time_loss(rate, z).mean()
            loss, metrics["time"] = space + self.time_weight * time, time.detach()
        else:
            loss = space = space_loss(model.score(noisy, sigma, create_graph=True), z, sigma).mean()
        metrics |= {"loss": loss.detach(), "space": space.detach()}
        return Loss(loss, metrics, grad_evals=2 * len(x))
