"""The Metropolis-adjusted Langevin algorithm: exact for exp(-E / T), at any step size.

    x' = x - (eps^2 / 2) grad E(x) / T + eps z,    z ~ N(0, I)
    q(x' | x) = N(x'; x - (eps^2 / 2) grad E(x) / T, eps^2 I)
    accept with probability min(1, exp((E(x) - E(x')) / T) q(x | x') / q(x' | x))

The energy and its gradient at the current state are carried from step to step: k steps take k + 1 gradients.

Gareth O. Roberts and Richard L. Tweedie, Exponential convergence of Langevin distributions, 1996.
Gareth O. Roberts and Jeffrey S. Rosenthal, Optimal scaling of discrete approximations to Langevin diffusions, 1998:
an acceptance of 0.574 is optimal in high dimension.
"""

from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.registry import register
from ebm_lab.samplers._adaptation import Mass
from ebm_lab.samplers._metropolis import Metropolis, Point, Target
from ebm_lab.samplers.langevin import log_acceptance


@register("sampler", "mala")
class MALA(Metropolis):
    """`steps` steps of size eps; the settings are those of _metropolis.py."""

    def __init__(
        self,
        scale: float,
        *,
        steps: PositiveInt,
        step_size: PositiveFloat,
        target_acceptance: Target | None,
        adapt_rate: NonNegativeFloat,
        temperature: PositiveFloat,
        mass: Mass,
        warmup: PositiveInt | None,
    ) -> None:
        super().__init__(scale, steps, step_size, target_acceptance, adapt_rate, temperature, mass, warmup)

    def propose(
        self, at: Callable[[Tensor], Point], now: Point, eps: Tensor, generator: Generator
    ) -> tuple[Point, Tensor]:
        z = torch.empty_like(now.x).normal_(generator=generator)
        new = at(now.x - (eps**2 / 2) * now.grad + eps * z)
        return new, log_acceptance(now.e, now.grad, now.x, new.e, new.grad, new.x, eps)
