"""The Metropolis-adjusted Langevin algorithm: exact for exp(-E / T), at any step size.

    x' = x - (eps^2 / 2) grad E(x) / T + eps z,    z ~ N(0, I)
    q(x' | x) = N(x'; x - (eps^2 / 2) grad E(x) / T, eps^2 I)
    accept with probability min(1, exp((E(x) - E(x')) / T) q(x | x') / q(x' | x))

The energy and its gradient at the current state are carried from step to step: k steps take k + 1 gradients.

Gareth O. Roberts and Richard L. Tweedie, Exponential convergence of Langevin distributions, 1996.
Gareth O. Roberts and Jeffrey S. Rosenthal, Optimal scaling of discrete approximations to Langevin diffusions, 1998:
an acceptance of 0.574 is optimal in high dimension.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn, energy_and_grad, frozen
from ebm_lab.core.interfaces import Chain
from ebm_lab.core.metropolis import Point, StepSize, accept, choose
from ebm_lab.core.registry import register
from ebm_lab.samplers.langevin import log_acceptance

Target = Annotated[float, Field(gt=0, lt=1)]


@register("sampler", "mala")
class MALA:
    """`steps` steps of size eps, which begins at step_size * scale and, unless `target_acceptance` is null, follows the
    target by `adapt_rate` a step; T = `temperature`."""

    def __init__(
        self,
        scale: float,
        *,
        steps: PositiveInt,
        step_size: PositiveFloat,
        target_acceptance: Target | None,
        adapt_rate: NonNegativeFloat,
        temperature: PositiveFloat,
    ) -> None:
        self.steps, self.temperature = steps, temperature
        self.step_size = StepSize(step_size * scale, target_acceptance, adapt_rate)

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        with nullcontext() if differentiable else frozen(energy):
            log_eps, accepted = self.step_size.begin(state, x), []
            now = self._point(energy, x, differentiable)
            for _ in range(self.steps):
                eps = log_eps.exp()
                z = torch.empty_like(x).normal_(generator=generator)
                new = self._point(energy, now.x - (eps**2 / 2) * now.grad + eps * z, differentiable)
                log_ratio = log_acceptance(now.e, now.grad, now.x, new.e, new.grad, new.x, eps)
                yes = accept(log_ratio, generator)
                accepted.append(yes)
                now, log_eps = choose(yes, new, now), self.step_size.update(log_eps, log_ratio)
        metrics = {"acceptance": torch.stack(accepted).float().mean(), "step_size": log_eps.exp()}
        return Chain(now.x, {"log_eps": log_eps}, metrics, (self.steps + 1) * len(x))

    def _point(self, energy: EnergyFn, x: Tensor, differentiable: bool) -> Point:
        e, grad = energy_and_grad(energy, x, create_graph=differentiable)
        return Point(x, e / self.temperature, grad / self.temperature)
