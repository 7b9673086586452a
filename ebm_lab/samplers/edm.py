"""EDM's stochastic sampler: noise is added and removed again on the way down, by Heun's method.

    t = sigma_i (1 + gamma),    x <- x + sqrt(t^2 - sigma_i^2) z,    gamma = min(churn / N, sqrt(2) - 1)
    dx / d sigma = -sigma s(x, sigma)    from t down to sigma_{i+1}, by one step of Heun's method

with gamma = 0 outside churn_min < sigma_i / scale < churn_max; N is the number of steps. The last step, to 0, is one of
Euler's method. With churn 0 it is the probability-flow ODE, whose final law is q_sigma_min up to the errors of the
score and of the solver. Fresh noise forgets earlier errors and makes new ones.

Tero Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, algorithm 2,
arXiv:2206.00364 (with S_noise = 1).
"""

import math
from collections.abc import Mapping, Sequence

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Generator, Tensor, empty_like, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.registry import register
from ebm_lab.models.ladder import Sigma
from ebm_lab.models.levels import NoiseLevels
from ebm_lab.samplers._sigma_grid import GridSampler, Levels, Rho


def heun_to(model: NoiseLevels, x: Tensor, sigma: float, lower: float) -> tuple[Tensor, int]:
    """Return x (B, *shape) carried from `sigma` down to `lower`, and the number of scores taken: 2, or 1 if `lower` is
    0, where the ODE has no right-hand side."""
    slope = -sigma * model.score(x, sigma)
    end = x + (lower - sigma) * slope
    if lower == 0:
        return end, 1
    return x + (lower - sigma) / 2 * (slope - lower * model.score(end, lower)), 2


@register("sampler", "edm")
class EDM(GridSampler):
    """`levels`, `rho`, `sigma_min`, `sigma_max`, `denoise`: the levels (_sigma_grid.py); `churn`: noise added and
    removed, 0 for none, and no higher than the model's ladder; `churn_min`, `churn_max`: where it is, in units of the
    data's scale."""

    def __init__(
        self,
        energy: nn.Module | None = None,
        *,
        levels: Levels,
        rho: Rho,
        sigma_min: Sigma,
        sigma_max: Sigma,
        churn: NonNegativeFloat,
        churn_min: NonNegativeFloat,
        churn_max: PositiveFloat,
        denoise: bool,
    ) -> None:
        if not churn_min < churn_max:
            raise UserError(f"sampler.churn_min={churn_min:g}: must be less than sampler.churn_max={churn_max:g}")
        super().__init__(energy, levels=levels, rho=rho, sigma_min=sigma_min, sigma_max=sigma_max, denoise=denoise)
        self.churn, self.churn_min, self.churn_max = churn, churn_min, churn_max

    def raised(self, sigma: float, steps: int, scale: float) -> float:
        """Return the level t to which noise lifts the chains at `sigma`, of `steps` steps in all."""
        inside = self.churn_min < sigma / scale < self.churn_max
        return sigma * (1 + min(self.churn / steps, math.sqrt(2) - 1)) if inside else sigma

    def descend(
        self,
        model: NoiseLevels,
        x: Tensor,
        sigmas: Sequence[float],
        i: int,
        state: Mapping[str, Tensor],
        generator: Generator,
    ) -> tuple[Tensor, dict[str, Tensor], int]:
        t = min(self.raised(sigmas[i], len(sigmas) - 1, model.scale), max(sigmas[i], model.ladder.sigma_max))
        if t > sigmas[i]:
            x = x + math.sqrt(t**2 - sigmas[i] ** 2) * empty_like(x).normal_(generator=generator)
        x, taken = heun_to(model, x, t, sigmas[i + 1])
        return x, {}, taken
