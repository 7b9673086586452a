"""Metropolis-adjusted microcanonical Hamiltonian Monte Carlo: exact for exp(-E / T).

    u uniform on the sphere;  `leapfrog` steps B A B of mclmc.py, of length eps;  dH: the sum of their energy errors
    accept with probability min(1, exp(-dH))

The map is its own inverse if the direction is reversed at its end, and dK is the logarithm of the volume that it takes
up in the directions, so that exp(-dH) is the Metropolis-Hastings ratio. n proposals of L steps take n L + 1 gradients.

Jakob Robnik, Reuben Cohn-Gordon and Uros Seljak, Metropolis Adjusted Microcanonical Hamiltonian Monte Carlo, 2025,
arXiv:2503.01707. The steps: mclmc.py.
"""

from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.registry import register
from ebm_lab.samplers._adaptation import Mass
from ebm_lab.samplers._metropolis import Metropolis, Point, Target
from ebm_lab.samplers.mclmc import check_dimension, microcanonical_step, unit


@register("sampler", "adjusted_mclmc")
class AdjustedMCLMC(Metropolis):
    """`steps` proposals of `leapfrog` steps of length eps = step_size scale sqrt(d), which is step_size scale in each
    coordinate; the other settings are those of _metropolis.py."""

    moves_differentiably = False

    def __init__(
        self,
        scale: float,
        *,
        steps: PositiveInt,
        leapfrog: PositiveInt,
        step_size: PositiveFloat,
        target_acceptance: Target | None,
        adapt_rate: NonNegativeFloat,
        temperature: PositiveFloat,
        mass: Mass,
        warmup: PositiveInt | None,
    ) -> None:
        super().__init__(scale, steps, step_size, target_acceptance, adapt_rate, temperature, mass, warmup)
        self.leapfrog = leapfrog

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        check_dimension(x, "adjusted_mclmc")
        return super().begin(energy, x, generator)

    def propose(
        self, at: Callable[[Tensor], Point], now: Point, eps: Tensor, generator: Generator
    ) -> tuple[Point, Tensor]:
        u = unit(torch.empty_like(now.x).normal_(generator=generator))
        new, length, change = now, eps * now.x[0].numel() ** 0.5, torch.zeros_like(now.e)
        for _ in range(self.leapfrog):
            new, u, error = microcanonical_step(at, new, u, length)
            change = change + error
        return new, -change
