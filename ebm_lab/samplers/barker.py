"""The Barker proposal: exact for exp(-E / T), and forgiving of a step size that is too large.

    s(x) = -grad E(x) / T;    for each coordinate i on its own:  z_i ~ N(0, eps^2)
    x'_i = x_i + z_i with probability 1 / (1 + exp(-z_i s_i(x))),  else x_i - z_i
    q(x' | x) = prod_i 2 N(d_i; 0, eps^2) / (1 + exp(-d_i s_i(x))),    d = x' - x
    accept with probability min(1, exp((E(x) - E(x')) / T) prod_i (1 + exp(-d_i s_i(x))) / (1 + exp(d_i s_i(x'))))

The gradient decides only to which side a coordinate moves, and not how far, so that a steep energy does not throw
chains away as it does with MALA, and a step size ten times too large still moves. k steps take k + 1 gradients.

Samuel Livingstone and Giacomo Zanella, The Barker Proposal: Combining Robustness and Efficiency in Gradient-based MCMC,
2022, algorithms 1 and 2, arXiv:1908.11812 (an acceptance of 0.4 is optimal in high dimension).
"""

from collections.abc import Callable

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor
from torch.nn.functional import softplus

from ebm_lab.core.functional import flat_sum
from ebm_lab.core.registry import register
from ebm_lab.samplers._adaptation import Mass
from ebm_lab.samplers._metropolis import Metropolis, Point, Target


def barker_move(x: Tensor, grad: Tensor, z: Tensor, u: Tensor) -> Tensor:
    """Propose x' from x with grad = grad E(x), noise z of the proposal's size and uniform u, all (B, *shape)."""
    return x + torch.where(u < torch.sigmoid(-z * grad), z, -z)


def barker_log_ratio(e: Tensor, grad: Tensor, x: Tensor, e_new: Tensor, grad_new: Tensor, x_new: Tensor) -> Tensor:
    """Compute log of the Metropolis-Hastings ratio of the move x -> x_new, (B,), for the law exp(-e)."""
    d = x_new - x
    return e - e_new + flat_sum(softplus(d * grad) - softplus(-d * grad_new))


@register("sampler", "barker")
class Barker(Metropolis):
    """`steps` proposals of size eps in each coordinate; the settings are those of _metropolis.py."""

    moves_differentiably = False

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
        self.reach = steps * step_size**2 if target_acceptance is None else None

    def propose(
        self, at: Callable[[Tensor], Point], now: Point, eps: Tensor, generator: Generator
    ) -> tuple[Point, Tensor]:
        z = torch.empty_like(now.x).normal_(generator=generator)
        u = torch.empty_like(now.x).uniform_(generator=generator)
        new = at(barker_move(now.x, now.grad, eps * z, u))
        return new, barker_log_ratio(now.e, now.grad, now.x, new.e, new.grad, new.x)
