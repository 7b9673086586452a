"""Underdamped (kinetic) Langevin dynamics, BAOAB splitting, unadjusted.

    dx = v dt,    dv = -grad E(x) dt - gamma v dt + sqrt(2 gamma T) dW

    B: v -= (h / 2) grad E(x)    A: x += (h / 2) v    O: v <- c v + sqrt(T (1 - c^2)) z,  c = exp(-gamma h)    A    B

Its stationary law is near exp(-E / T) N(v; 0, T I), with an error of O(h^2), of O(h^4) for x as gamma grows. For a
Gaussian of precision P and h^2 P < 4 it is exactly N(0, T P^-1) in x, whatever h and gamma; v is independent of x with
covariance T (I - (h^2 / 4) P). Langevin dynamics with the same step is this with gamma = 0 and new velocities at each
step.

Velocities are passed from call to call in `state`, by position in the batch. If the chains of a batch change between
calls (a replay buffer), a chain gets the velocity of another. That is correct: under the stationary law x and v are
independent, so a velocity assigned without regard to x has the same law as its own, including the effect of the step.
New velocities from N(0, T I) at each call would not: they are too fast by the factor above and widen x by O(h^2), the
more so the shorter the calls. They are used only in the first call, or for a batch of another size.

Benedict Leimkuhler and Charles Matthews, Rational Construction of Stochastic Numerical Methods for Molecular Sampling,
2013, arXiv:1203.5428.
David A. Sivak, John D. Chodera and Gavin E. Crooks, Using Nonequilibrium Fluctuation Theorems to Understand and Correct
Errors in Equilibrium and Nonequilibrium Simulations of Discrete Langevin Dynamics, 2013, arXiv:1107.2967 (shadow work).
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, energy_and_grad, flat_sum, frozen, gradient_of
from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.core.registry import register


class Phase(NamedTuple):
    """Position x, velocity v and gradient grad = grad E(x), (B, *shape), energy e: (B,)."""

    x: Tensor
    v: Tensor
    e: Tensor
    grad: Tensor


def baoab(
    at: Callable[[Tensor], tuple[Tensor, Tensor]], now: Phase, z: Tensor, h: float, c: float, temperature: float
) -> tuple[Phase, Tensor]:
    """Take one step with standard normal z (B, *shape), and compute its shadow work (B,) in nats: the change of E +
    |v|^2 / 2 minus the heat of O, which is 0 for a step without error. at(x) returns (E, grad E)."""
    v = now.v - (h / 2) * now.grad
    x = now.x + (h / 2) * v
    v_hot = c * v + math.sqrt(temperature * (1 - c**2)) * z
    x = x + (h / 2) * v_hot
    e, grad = at(x)
    v_new = v_hot - (h / 2) * grad
    work = e - now.e + 0.5 * flat_sum(v_new**2 - now.v**2 - v_hot**2 + v**2)
    return Phase(x, v_new, e, grad), work


@register("sampler", "underdamped")
class Underdamped(Sampler):
    """`steps` BAOAB steps of size h = step_size * scale, with the data's `scale`, for exp(-E / T), T = `temperature`.

    `friction` is gamma * scale: a step multiplies velocities by exp(-friction * step_size) before it adds noise, so
    that they are forgotten after about 1 / (friction * step_size) steps. The metric `acceptance` is the probability
    that a Metropolis test would have accepted the last step, the mean of min(1, exp(-work / T)).
    """

    needs = (Need("energy", "energy"), Need("dataset", "continuous"))
    offers = frozenset({"stationary", "reparameterised"})

    def __init__(
        self,
        scale: float,
        *,
        steps: PositiveInt,
        step_size: PositiveFloat,
        friction: NonNegativeFloat,
        temperature: PositiveFloat,
    ) -> None:
        self.steps, self.h, self.temperature = steps, step_size * scale, temperature
        self.c = math.exp(-friction * step_size)

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Draw velocities from their law, N(0, T I)."""
        return {"v": math.sqrt(self.temperature) * torch.empty_like(x).normal_(generator=generator)}

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
            at = partial(energy_and_grad, energy, create_graph=True) if differentiable else gradient_of(energy)
            if not state or state["v"].shape != x.shape:  # the first call, or a batch of another size
                state = self.begin(energy, x, generator)
            now, work = Phase(x, state["v"], *at(x)), torch.zeros_like(x[:, 0])
            for _ in range(self.steps):
                z = torch.empty_like(x).normal_(generator=generator)
                now, work = baoab(at, now, z, self.h, self.c, self.temperature)
        acceptance = (-work.detach() / self.temperature).clamp_max(0).exp().mean()
        metrics = {"acceptance": acceptance, "chain_grad_norm": flat_sum(now.grad.detach() ** 2).sqrt().mean()}
        return Chain(now.x, {"v": now.v.detach()}, metrics, (self.steps + 1) * len(x))
