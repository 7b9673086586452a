"""Annealed Langevin dynamics: Langevin steps at each noise level, from sigma_max down to sigma_min.

    x <- x + (e_i^2 / 2) s(x, sigma_i) + e_i z,    e_i = step_size * sigma_i,    `steps` times at each level i

This is the project's convention, with score s = -grad E; the paper's alpha_i = eps sigma_i^2 / sigma_L^2 is e_i^2, and
its eps is (step_size * sigma_L)^2. Each level starts where the level above ended, so that the weights of the modes are
passed down. A step of fixed size biases each level's law a little, and too few steps do not reach it.

Yang Song and Stefano Ermon, Generative Modeling by Estimating Gradients of the Data Distribution, 2019, algorithm 1,
arXiv:1907.05600. Alexia Jolicoeur-Martineau et al., Adversarial Score Matching and Improved Sampling for Image
Generation, 2020 (the final denoising), arXiv:2009.05475.
"""

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, empty_like

from ebm_lab.core.registry import register
from ebm_lab.models.levels import NoiseLevels
from ebm_lab.samplers._annealing import LevelSampler
from ebm_lab.samplers.langevin import langevin_step


@register("sampler", "annealed_langevin")
class AnnealedLangevin(LevelSampler):
    """`steps` per level; `step_size`: e_i in units of sigma_i; `noise_scale`: multiplies z, 1 is exact; `denoise`: end
    with Tweedie's formula."""

    def __init__(
        self, *, steps: PositiveInt, step_size: PositiveFloat, noise_scale: NonNegativeFloat, denoise: bool
    ) -> None:
        super().__init__(steps, denoise)
        self.step_size, self.noise_scale = step_size, noise_scale

    def descend(self, model: NoiseLevels, x: Tensor, rung: int, generator: Generator) -> tuple[Tensor, int]:
        sigma = model.ladder.rung(rung)
        for _ in range(self.steps):
            z = empty_like(x).normal_(generator=generator)
            x = langevin_step(x, -model.score(x, sigma), z, self.step_size * sigma, self.noise_scale)
        return x, self.steps
