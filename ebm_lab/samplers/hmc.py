"""Hamiltonian Monte Carlo: exact for exp(-E / T).

    v ~ N(0, I);  leapfrog, `leapfrog` times:  v -= (h / 2) grad U(x);  x += h v;  v -= (h / 2) grad U(x),  U = E / T
    accept with probability min(1, exp(H_old - H_new)),  H = U(x) + |v|^2 / 2

The sum runs over all coordinates of a sample, whatever its shape. Adjacent half steps share their gradient, and the
last gradient is carried over to the next proposal, so that n proposals of L leapfrog steps take n L + 1 gradients.

Radford M. Neal, MCMC using Hamiltonian dynamics, 2011, section 3, arXiv:1206.1901.
"""

from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.functional import flat_sum
from ebm_lab.core.registry import register
from ebm_lab.samplers._adaptation import Mass
from ebm_lab.samplers._metropolis import Metropolis, Point, Target


@register("sampler", "hmc")
class HMC(Metropolis):
    """`steps` proposals of `leapfrog` leapfrog steps of size h; the other settings are those of _metropolis.py."""

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

    def propose(
        self, at: Callable[[Tensor], Point], now: Point, eps: Tensor, generator: Generator
    ) -> tuple[Point, Tensor]:
        v = torch.empty_like(now.x).normal_(generator=generator)
        new, v_new = now, v
        for _ in range(self.leapfrog):
            v_new = v_new - (eps / 2) * new.grad
            new = at(new.x + eps * v_new)
            v_new = v_new - (eps / 2) * new.grad
        return new, now.e - new.e + 0.5 * (flat_sum(v**2) - flat_sum(v_new**2))
