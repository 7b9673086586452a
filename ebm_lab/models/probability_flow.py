"""The probability-flow ODE of a model of many noise levels, and its likelihood.

    dx / d log sigma = -sigma^2 s(x, sigma)
    log q_sigma_min(x) = log prior(x(sigma_max)) + int over log sigma of div(-sigma^2 s) along the path from x

The ODE carries the law q_sigma from level to level without noise (g^2 = d sigma^2 / dt, drift -g^2 s / 2). In log sigma
the field has about one time scale at all levels, so fixed Runge-Kutta steps suffice. Double them to see their error.

Yang Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021, equations 13 and 39,
arXiv:2011.13456.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ebm_lab.core.functional import divergence, frozen
from ebm_lab.models.levels import NoiseLevels

Field = Callable[[tuple[Tensor, ...], float], tuple[Tensor, ...]]


def heun_step(field: Field, y: tuple[Tensor, ...], t: float, h: float) -> tuple[Tensor, ...]:
    """Take one step of Heun's second-order method for dy/dt = field(y, t)."""
    k1 = field(y, t)
    k2 = field(tuple(a + h * k for a, k in zip(y, k1, strict=True)), t + h)
    return tuple(a + h / 2 * (p + q) for a, p, q in zip(y, k1, k2, strict=True))


def rk4_step(field: Field, y: tuple[Tensor, ...], t: float, h: float) -> tuple[Tensor, ...]:
    """Take one step of the classical fourth-order Runge-Kutta method for dy/dt = field(y, t)."""
    k1 = field(y, t)
    k2 = field(tuple(a + h / 2 * k for a, k in zip(y, k1, strict=True)), t + h / 2)
    k3 = field(tuple(a + h / 2 * k for a, k in zip(y, k2, strict=True)), t + h / 2)
    k4 = field(tuple(a + h * k for a, k in zip(y, k3, strict=True)), t + h)
    weighted = zip(y, k1, k2, k3, k4, strict=True)
    return tuple(a + h / 6 * (p + 2 * q + 2 * r + s) for a, p, q, r, s in weighted)


def flow(model: NoiseLevels) -> Field:
    """Return dx / d log sigma as a field of the state (x,)."""

    def field(y: tuple[Tensor, ...], log_sigma: float) -> tuple[Tensor, ...]:
        sigma = math.exp(log_sigma)
        return (-(sigma**2) * model.score(y[0], sigma),)

    return field


def flow_log_prob(model: NoiseLevels, x: Tensor, steps: int, v: Tensor | None = None) -> Tensor:
    """Compute log q_sigma_min(x) in nats, (B, *shape) -> (B,), by `steps` Runge-Kutta steps in log sigma.

    Without v the divergence is exact, in d backward passes. With v (B, *shape), E[v v'] = I, it is Hutchinson's
    unbiased estimate, with one v along each path.
    """

    def field(y: tuple[Tensor, ...], log_sigma: float) -> tuple[Tensor, ...]:
        sigma = math.exp(log_sigma)
        s, trace = divergence(lambda z: model.score(z, sigma, create_graph=True), y[0], v)
        return -(sigma**2) * s, -(sigma**2) * trace

    low, high = math.log(model.ladder.sigma_min), math.log(model.ladder.sigma_max)
    times = [low + (high - low) * i / steps for i in range(steps + 1)]
    with frozen(model):
        y = (x, torch.zeros(len(x), dtype=x.dtype, device=x.device))
        for t, after in pairwise(times):
            y = rk4_step(field, y, t, after - t)
    return model.prior().log_prob(y[0]) + y[1]
