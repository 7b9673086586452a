"""Hamiltonian Monte Carlo: exact for exp(-E / T).

    v ~ N(0, I);  leapfrog, `leapfrog` times:  v -= (h / 2) grad U(x);  x += h v;  v -= (h / 2) grad U(x),  U = E / T
    accept with probability min(1, exp(H_old - H_new)),  H = U(x) + |v|^2 / 2

The sum runs over all coordinates of a sample, whatever its shape. Adjoining half steps share their gradient and the
last one is carried over, so that n steps of L leapfrogs take n L + 1 gradients.

Radford M. Neal, MCMC using Hamiltonian dynamics, 2011, section 3, arXiv:1206.1901.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn, energy_and_grad, flat_sum, frozen
from ebm_lab.core.interfaces import Chain
from ebm_lab.core.metropolis import Point, StepSize, accept, choose
from ebm_lab.core.registry import register

Target = Annotated[float, Field(gt=0, lt=1)]


@register("sampler", "hmc")
class HMC:
    """`steps` proposals of `leapfrog` leapfrog steps of size h, which begins at step_size * scale and, unless
    `target_acceptance` is null, follows the target by `adapt_rate` a proposal; T = `temperature`."""

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
    ) -> None:
        self.steps, self.leapfrog, self.temperature = steps, leapfrog, temperature
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
            log_h, accepted = self.step_size.begin(state, x), []
            now = self._point(energy, x, differentiable)
            for _ in range(self.steps):
                v = torch.empty_like(x).normal_(generator=generator)
                new, v_new = self._leapfrog(energy, now, v, log_h.exp(), differentiable)
                log_ratio = now.e - new.e + 0.5 * (flat_sum(v**2) - flat_sum(v_new**2))
                yes = accept(log_ratio, generator)
                accepted.append(yes)
                now, log_h = choose(yes, new, now), self.step_size.update(log_h, log_ratio)
        metrics = {"acceptance": torch.stack(accepted).float().mean(), "step_size": log_h.exp()}
        return Chain(now.x, {"log_eps": log_h}, metrics, (self.steps * self.leapfrog + 1) * len(x))

    def _leapfrog(
        self, energy: EnergyFn, at: Point, v: Tensor, h: Tensor, differentiable: bool
    ) -> tuple[Point, Tensor]:
        for _ in range(self.leapfrog):
            v = v - (h / 2) * at.grad
            at = self._point(energy, at.x + h * v, differentiable)
            v = v - (h / 2) * at.grad
        return at, v

    def _point(self, energy: EnergyFn, x: Tensor, differentiable: bool) -> Point:
        e, grad = energy_and_grad(energy, x, create_graph=differentiable)
        return Point(x, e / self.temperature, grad / self.temperature)
