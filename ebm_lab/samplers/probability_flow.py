"""The probability-flow ODE as a sampler: noise at sigma_max is carried down to sigma_min, without further noise.

    dx / d log sigma = -sigma^2 s(x, sigma)

Heun's method takes `steps` steps, evenly spaced in log sigma, between neighbouring levels of the ladder. The final law
is q_sigma_min up to the errors of the score and of the solver; the latter falls as the square of the step. The same
noise always gives the same sample.

Yang Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021, equation 13,
arXiv:2011.13456. Tero Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022,
algorithm 1, arXiv:2206.00364 (Heun's method).
"""

import math
from itertools import pairwise

from pydantic import PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.registry import register
from ebm_lab.models.levels import NoiseLevels
from ebm_lab.models.probability_flow import flow, heun_step
from ebm_lab.samplers._annealing import LevelSampler


@register("sampler", "probability_flow")
class ProbabilityFlow(LevelSampler):
    """`steps` between neighbouring levels; `denoise`: end with Tweedie's formula."""

    def __init__(self, *, steps: PositiveInt, denoise: bool) -> None:
        super().__init__(steps, denoise)

    def rungs(self, model: NoiseLevels) -> int:
        return model.ladder.levels - 1

    def descend(self, model: NoiseLevels, x: Tensor, rung: int, generator: Generator) -> tuple[Tensor, int]:
        field = flow(model)
        for sigma, lower in pairwise(map(math.log, model.ladder.between(rung, self.steps))):
            (x,) = heun_step(field, (x,), sigma, lower - sigma)
        return x, 2 * self.steps
