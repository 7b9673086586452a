"""Metropolis-Hastings: accept a proposal so that exp(-E / T) stays exactly invariant, and tune its step size.

    accept x -> x' with probability min(1, exp(log_ratio)),
    log_ratio = (E(x) - E(x')) / T + log q(x | x') - log q(x' | x)

W. K. Hastings, Monte Carlo Sampling Methods Using Markov Chains and Their Applications, 1970.
Christophe Andrieu and Johannes Thoms, A tutorial on adaptive MCMC, 2008, algorithm 4 (step size).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Generator, Tensor

from ebm_lab.core.distributions import Distribution
from ebm_lab.core.functional import EnergyFn, energy_and_grad, evaluate, frozen
from ebm_lab.core.interfaces import Chain

Target = Annotated[float, Field(gt=0, lt=1)]


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
        """log eps after a step whose proposals had these log ratios (B,), or row by row (R,) for (R, B); a nan ratio
        counts as acceptance 0."""
        if self.target is None:
            return log_eps
        acceptance = log_ratio.detach().clamp_max(0).exp().nan_to_num(0.0).mean(-1)
        return log_eps + self.rate * (acceptance - self.target)


class Metropolis(ABC):
    """`steps` proposals for exp(-E / T), T = `temperature`, each accepted or refused; what they are is `propose`.

    The energy and its gradient at the current state are carried from one proposal to the next. With `differentiable`
    the derivative is that of the moves, given which were accepted: that the acceptances depend on the energy too is
    left out.
    """

    cost: int
    """Gradients that a proposal takes."""

    def __init__(self, steps: int, temperature: float, step_size: StepSize) -> None:
        self.steps, self.temperature, self.step_size = steps, temperature, step_size

    @abstractmethod
    def propose(
        self, at: Callable[[Tensor], Point], now: Point, eps: Tensor, generator: Generator
    ) -> tuple[Point, Tensor]:
        """A proposal and its log ratio (B,), from `now`, with step size `eps`, 0-d; at(x) is the Point at x."""

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        def at(x: Tensor) -> Point:
            e, grad = energy_and_grad(energy, x, create_graph=differentiable)
            return Point(x, e / self.temperature, grad / self.temperature)

        with nullcontext() if differentiable else frozen(energy):
            log_eps, accepted, now = self.step_size.begin(state, x), [], at(x)
            for _ in range(self.steps):
                new, log_ratio = self.propose(at, now, log_eps.exp(), generator)
                yes = accept(log_ratio, generator)
                accepted.append(yes)
                now, log_eps = choose(yes, new, now), self.step_size.update(log_eps, log_ratio)
        metrics = {"acceptance": torch.stack(accepted).float().mean(), "step_size": log_eps.exp()}
        return Chain(now.x, {"log_eps": log_eps}, metrics, (self.steps * self.cost + 1) * len(x))
