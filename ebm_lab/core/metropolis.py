"""Metropolis-Hastings: accept a proposal so that exp(-E / T) stays exactly invariant, and tune its step size.

    accept x -> x' with probability min(1, exp(log_ratio)),
    log_ratio = (E(x) - E(x')) / T + log q(x | x') - log q(x' | x)

W. K. Hastings, Monte Carlo Sampling Methods Using Markov Chains and Their Applications, 1970.
Christophe Andrieu and Johannes Thoms, A tutorial on adaptive MCMC, 2008, algorithm 4 (step size).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebm_lab.core.distributions import Distribution
from ebm_lab.core.functional import EnergyFn, evaluate


class Point(NamedTuple):
    """x: (B, *shape) with its energy e: (B,) and gradient grad: (B, *shape), carried from step to step."""

    x: Tensor
    e: Tensor
    grad: Tensor


def accept(log_ratio: Tensor, generator: Generator) -> Tensor:
    """(B,) booleans, true with probability min(1, exp(log_ratio)); a ratio that is nan is refused."""
    u = torch.empty_like(log_ratio).uniform_(generator=generator)
    return u.log() < log_ratio.detach()


def choose(accepted: Tensor, new: Point, old: Point) -> Point:
    """Per sample the new point where accepted, else the old one."""
    wide = accepted.view(-1, *[1] * (old.x.ndim - 1))
    return Point(
        torch.where(wide, new.x, old.x), torch.where(accepted, new.e, old.e), torch.where(wide, new.grad, old.grad)
    )


@torch.no_grad()
def independence_step(
    energy: EnergyFn, x: Tensor, proposal: Distribution, generator: Generator
) -> tuple[Tensor, Tensor]:
    """One independence-Metropolis step for exp(-E): x' ~ q whatever x is; returns (x, accepted), (B, *shape) and (B,).

    log_ratio = E(x) - E(x') + log q(x) - log q(x'): exact, and a true restart wherever it accepts.
    """
    new = proposal.sample(len(x), generator)
    e, e_new = evaluate(energy, torch.cat([x, new])).chunk(2)
    accepted = accept(e - e_new + proposal.log_prob(x) - proposal.log_prob(new), generator)
    return torch.where(accepted.view(-1, *[1] * (x.ndim - 1)), new, x), accepted


class StepSize:
    """A step size that follows a target acceptance, log eps <- log eps + rate (acceptance - target), after each step.

    `target` None keeps it fixed. The state is handed in and out: `begin` reads it, `end` returns it.
    """

    def __init__(self, initial: float, target: float | None, rate: float) -> None:
        self.initial, self.target, self.rate = initial, target, rate

    def begin(self, state: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """log eps, 0-d."""
        return state["log_eps"] if "log_eps" in state else torch.tensor(math.log(self.initial), device=like.device)

    def update(self, log_eps: Tensor, log_ratio: Tensor) -> Tensor:
        """log eps after a step whose proposals had these log ratios; a nan ratio counts as acceptance 0."""
        if self.target is None:
            return log_eps
        acceptance = log_ratio.detach().clamp_max(0).exp().nan_to_num(0.0).mean()
        return log_eps + self.rate * (acceptance - self.target)
