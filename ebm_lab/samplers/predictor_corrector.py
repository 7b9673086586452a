"""Predictor and corrector: a step of the reverse diffusion to the next lower level, then Langevin steps at that level.

    predict:  x <- x + (sigma^2 - tau^2) s(x, sigma) + sqrt(sigma^2 - tau^2) z,    tau the level below sigma
    correct:  x <- x + (e^2 / 2) s(x, tau) + e z,    e^2 / 2 = 2 (snr |z| / |s|)^2,  norms averaged over the chains

There are `steps` predictions, geometrically spaced, between neighbouring levels of the ladder. The predictor's error
falls with the number of levels; the corrector brings the law back to q_tau, up to the bias of its own step.

Yang Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021, equation 46 and
algorithms 2 and 4, arXiv:2011.13456.
"""

from itertools import pairwise

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.functional import flat_sum
from ebm_lab.core.registry import register
from ebm_lab.models.levels import NoiseLevels
from ebm_lab.samplers._annealing import LevelSampler


def reverse_diffusion(x: Tensor, s: Tensor, z: Tensor, sigma: float, tau: float) -> Tensor:
    """Step from level sigma down to tau, with the score s at (x, sigma) and standard normal z, all (B, *shape)."""
    drop = sigma**2 - tau**2
    return x + drop * s + drop**0.5 * z


def corrector_step(s: Tensor, z: Tensor, snr: float) -> Tensor:
    """Return e, 0-d, of the Langevin step x + (e^2 / 2) s + e z whose signal-to-noise ratio is `snr`."""
    norms = [flat_sum(t**2).sqrt().mean() for t in (z, s)]
    return 2 * snr * norms[0] / norms[1]


@register("sampler", "predictor_corrector")
class PredictorCorrector(LevelSampler):
    """`steps` predictions between neighbouring levels, each followed by `corrections` Langevin steps of this `snr`;
    `denoise`: end with Tweedie's formula."""

    def __init__(self, *, steps: PositiveInt, corrections: NonNegativeInt, snr: PositiveFloat, denoise: bool) -> None:
        super().__init__(steps, denoise)
        self.corrections, self.snr = corrections, snr

    def rungs(self, model: NoiseLevels) -> int:
        return model.ladder.levels - 1

    def descend(self, model: NoiseLevels, x: Tensor, rung: int, generator: Generator) -> tuple[Tensor, int]:
        for sigma, tau in pairwise(model.ladder.between(rung, self.steps)):
            z = torch.empty_like(x).normal_(generator=generator)
            x = reverse_diffusion(x, model.score(x, sigma), z, sigma, tau)
            for _ in range(self.corrections):
                s, z = model.score(x, tau), torch.empty_like(x).normal_(generator=generator)
                e = corrector_step(s, z, self.snr)
                x = x + e**2 / 2 * s + e * z
        return x, self.steps * (1 + self.corrections)
