"""Denoising score matching at many noise levels, for energies and for score networks.

    L = E_sigma E_x E_z  w(sigma) 1/2 | sigma s(x + sigma z, sigma) + z |^2,    z ~ N(0, I)

`levels`, the law of sigma: log sigma uniform over the ladder (continuous), over its rungs (discrete), or
N(log(scale) + log_mean, log_std^2) cut off at the ladder's ends (log_normal), with the scale of the data.
`weight`: w = 1 (sigma2, as |s - score|^2 then has the weight sigma^2, so that all levels contribute equally), or
w = 1 + sigma^2 / scale^2 (edm), with which the network F of a ScoreNetwork has unit weight at every level:
1/2 |F - F*|^2, F* = (v / scale) (sigma u / v - z), v^2 = sigma^2 + scale^2. The minimiser at each level is the score of
q_sigma = p * N(0, sigma^2 I), whatever the law and the weight. High levels determine the weights of separated modes, to
which a single low level is blind; the time term makes an energy consistent over the levels:

    L_t = E 1/2 (d - |z|^2 - dE(x + sigma z, sigma) / d log sigma)^2 / (2 d)

whose minimiser is -d log q_sigma / d log sigma = E[d - |z|^2 | x + sigma z], since log N(y; x, sigma^2 I) has the
derivative |z|^2 - d in log sigma. Together they leave one constant free in E(x, sigma), the same at every level and
point. 2 d is the variance of |z|^2.

Yang Song and Stefano Ermon, Generative Modeling by Estimating Gradients of the Data Distribution, 2019, equation 6,
arXiv:1907.05600.
Tero Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, table 1 and appendix B.6,
arXiv:2206.00364 (log-normal levels and edm).
Florentin Guth, Zahra Kadkhodaie and Eero P. Simoncelli, Learning normalized image densities via dual score matching,
2025 (time term, there in t = sigma^2).
"""

import math
from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from pydantic import FiniteFloat, NonNegativeFloat, PositiveFloat
from torch import Generator, Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.functional import flat_sum, per_sample
from ebm_lab.core.interfaces import Batch, Loss, Objective
from ebm_lab.core.registry import register
from ebm_lab.models.levels import NoiseEnergy, NoiseLevels
from ebm_lab.objectives._levels import draw_levels, draw_log_normal, shares


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

    `levels`, `log_mean`, `log_std`: the law of the levels. `weight`: of a level. `antithetic`: use each noise vector
    with both signs. `time_weight`: weight of the time term, for energies only.
    """

    headline = ("loss", "space", "time")
    validates = True
    needs = (Need("energy", "levels"), Need("dataset", "continuous"))

    def __init__(
        self,
        energy: NoiseLevels,
        generator: Generator,
        *,
        levels: Literal["continuous", "discrete", "log_normal"],
        log_mean: FiniteFloat,
        log_std: PositiveFloat,
        weight: Literal["sigma2", "edm"],
        antithetic: bool,
        time_weight: NonNegativeFloat,
    ) -> None:
        super().__init__(energy)
        self.generator, self.levels, self.weight = generator, levels, weight
        self.log_mean, self.log_std = log_mean, log_std
        self.antithetic, self.time_weight = antithetic, time_weight
        if levels == "log_normal":  # a law that misses the ladder is refused before training
            shares(energy.ladder, self.median(), log_std)

    @classmethod
    def needs_of(cls, *, time_weight: float = 0.0, **settings: Any) -> Iterable[Need]:
        needed = [Need("energy", "energy", f"objective.time_weight={time_weight:g}")] if time_weight else []
        return (*super().needs_of(**settings), *needed)

    def learnt_blur(self) -> float:
        return cast(NoiseLevels, self.energy).ladder.sigma_min

    def median(self) -> float:
        """Return the median level of `log_normal`, in data units."""
        return cast(NoiseLevels, self.energy).scale * math.exp(self.log_mean)

    def draw(self, x: Tensor) -> Tensor:
        """Draw a level for each of x (B, *shape), (B,)."""
        model = cast(NoiseLevels, self.energy)
        if self.levels == "log_normal":
            return draw_log_normal(model.ladder, len(x), self.median(), self.log_std, self.generator, x)
        return draw_levels(model.ladder, len(x), self.levels == "discrete", self.generator, x)

    def space(self, s: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
        """Return the mean space term of scores s, 0-d, weighted by level."""
        loss = space_loss(s, z, sigma)
        if self.weight == "edm":
            loss = loss * (1 + (sigma / cast(NoiseLevels, self.energy).scale) ** 2)
        return loss.mean()

    def forward(self, batch: Batch) -> Loss:
        x, model = batch.x, cast(NoiseLevels, self.energy)
        sigma = self.draw(x)
        z = torch.empty_like(x).normal_(generator=self.generator)
        if self.antithetic:
            x, z, sigma = torch.cat([x, x]), torch.cat([z, -z]), torch.cat([sigma, sigma])
        noisy = x + per_sample(sigma, x) * z
        metrics = {}
        if self.time_weight:
            _, grad, rate = cast(NoiseEnergy, model).level_gradients(noisy, sigma)
            space, time = self.space(-grad, z, sigma), time_loss(rate, z).mean()
            loss, metrics["time"] = space + self.time_weight * time, time.detach()
        else:
            loss = space = self.space(model.score(noisy, sigma, create_graph=True), z, sigma)
        metrics |= {"loss": loss.detach(), "space": space.detach()}
        return Loss(loss, metrics, grad_evals=2 * len(x))
