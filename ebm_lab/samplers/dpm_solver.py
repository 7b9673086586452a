"""DPM-Solver++(2M): the probability-flow ODE in few steps, by a multistep method of second order on the denoiser.

    x_{i+1} = (sigma_{i+1} / sigma_i) x_i + (1 - sigma_{i+1} / sigma_i) D
    D = (1 + h_i / (2 h_{i-1})) D_i - h_i / (2 h_{i-1}) D_{i-1},    h_i = log(sigma_i / sigma_{i+1})

with D_i = x_i + sigma_i^2 s(x_i, sigma_i) the denoised states. The first step, and the last one, to 0, take D = D_i. A
step takes one score, half as many as Heun's method, and the error falls as the square of the step, too. The linear part
of the ODE is solved exactly. The final law is q_sigma_min up to the errors of the score and of the solver.

Cheng Lu et al., DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, 2022, algorithm 2, in
its form for alpha = 1, arXiv:2211.01095.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Generator, Tensor, zeros_like

from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.registry import register
from ebm_lab.models.levels import NoiseLevels, tweedie
from ebm_lab.samplers._sigma_grid import GridSampler


@register("sampler", "dpm_solver")
class DPMSolver(GridSampler):
    """`levels`, `rho`, `sigma_min`, `sigma_max`, `denoise`: the levels (_sigma_grid.py)."""

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        return super().begin(energy, x, generator) | {"denoised": zeros_like(x)}

    def descend(
        self,
        model: NoiseLevels,
        x: Tensor,
        sigmas: Sequence[float],
        i: int,
        state: Mapping[str, Tensor],
        generator: Generator,
    ) -> tuple[Tensor, dict[str, Tensor], int]:
        here, lower = sigmas[i], sigmas[i + 1]
        target = denoised = tweedie(model, x, here)
        if i > 0 and lower > 0:
            half = math.log(here / lower) / math.log(sigmas[i - 1] / here) / 2
            target = (1 + half) * denoised - half * state["denoised"]
        return lower / here * x + (1 - lower / here) * target, {"denoised": denoised}, 1
