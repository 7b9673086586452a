"""The no-U-turn sampler: Hamiltonian trajectories that end where they begin to turn back. Exact for exp(-E / T).

    v ~ N(0, I);  a trajectory of leapfrog steps is doubled, to the future or the past at random, at most `max_depth`
    times, until one of its binary subtrees, or all of it, turns:  (x+ - x-) . v- < 0  or  (x+ - x-) . v+ < 0
    its states z have weights exp(-H(z)),  H = E / T + |v|^2 / 2
    in the new half each state is drawn in proportion to its weight; that draw replaces the old half's with probability
    min(1, weight of the new half / weight of the old half)

A new half in which a subtree turns, or in which H rises by 1,000, is left out, which keeps the law exactly invariant.
With max_depth 1 it is HMC with one leapfrog step in a random direction.

The step size follows `target_acceptance`, the mean of min(1, exp(H_0 - H)) over the trajectory, by dual averaging:

    h <- (1 - 1 / (t + 10)) h + (target - acceptance) / (t + 10),    log eps = log(10 eps_0) - sqrt(t) h / 0.05
    mean log eps, with weights t^-0.75, is the step size from proposal `warmup` on, and is then frozen

With `warmup` null the adaptation goes on with t at most 100, so that it can follow a model in training.

A batch runs at the pace of the slowest chain: 2^depth - 1 gradients for the deepest trajectory, of every chain. For
short chains in training, HMC is cheaper.

Matthew D. Hoffman and Andrew Gelman, The No-U-Turn Sampler: Adaptively Setting Path Lengths in Hamiltonian Monte Carlo,
2014, algorithms 3 and 6, arXiv:1111.4246.
Michael Betancourt, A Conceptual Introduction to Hamiltonian Monte Carlo, 2017, appendix A, arXiv:1701.02434 (weights).
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn, flat_sum, per_sample
from ebm_lab.core.registry import register
from ebm_lab.samplers._adaptation import Mass
from ebm_lab.samplers._metropolis import Metropolis, Point, Target, choose

MEMORY, DIVERGED = 100, -1000.0
At = Callable[[Tensor], Point]


class State(NamedTuple):
    """A point with its velocity v (B, *shape)."""

    at: Point
    v: Tensor


class Half(NamedTuple):
    """The new half of a trajectory. end: its last state; drawn: one of its points; log_w: log of its weight; whole:
    whether it has all its states and no U-turn; acceptance: the sum of min(1, exp(H_0 - H)); count: of its states."""

    end: State
    drawn: Point
    log_w: Tensor
    whole: Tensor
    acceptance: Tensor
    count: Tensor


def leapfrog(at: At, z: State, eps: Tensor) -> State:
    """Take a leapfrog step of size eps, 0-d or (B,), negative for a step to the past."""
    h = per_sample(eps, z.v) if eps.ndim else eps
    v = z.v - (h / 2) * z.at.grad
    new = at(z.at.x + h * v)
    return State(new, v - (h / 2) * new.grad)


def turned(first: State, last: State, sign: Tensor) -> Tensor:
    """Return whether the span between two states makes a U-turn, (B,); sign: -1 where `last` is the earlier one."""
    span = last.at.x - first.at.x
    return (sign * flat_sum(span * first.v) < 0) | (sign * flat_sum(span * last.v) < 0)


def pick(which: Tensor, a: State, b: State) -> State:
    """Return, for each sample, the state a where `which`, else b."""
    return State(choose(which, a.at, b.at), torch.where(per_sample(which, a.v), a.v, b.v))


def grow(at: At, edge: State, h0: Tensor, eps: Tensor, sign: Tensor, alive: Tensor, u: Tensor) -> Half:
    """Add len(u) states beyond `edge` for the chains that are `alive` (B,); u (2^depth, B): uniform numbers that draw
    one of them; h0: H at the trajectory's first state."""
    zero = torch.zeros_like(h0)
    drawn, log_w, total, count = edge.at, zero - torch.inf, zero, zero
    starts: dict[int, State] = {}
    for n in range(len(u)):
        if not bool(alive.any()):
            break
        edge = leapfrog(at, edge, sign * eps)
        change = (h0 - edge.at.e - 0.5 * flat_sum(edge.v**2)).nan_to_num(-torch.inf, posinf=-torch.inf)
        total, count = total + torch.where(alive, change.clamp_max(0).exp(), 0.0), count + alive
        both = torch.logaddexp(log_w, change)
        drawn = choose(alive & (u[n].log() < change - both), edge.at, drawn)
        log_w, alive = torch.where(alive, both, log_w), alive & (change > DIVERGED)
        if n % 2 == 0:
            starts[n] = edge
        size = 2
        while (n + 1) % size == 0:  # every binary subtree that ends here
            alive = alive & ~turned(starts[n + 1 - size], edge, sign)
            starts.pop(n + 1 - size // 2, None)  # all subtrees that begin there have ended
            size *= 2
    return Half(edge, drawn, log_w, alive, total, count)


@register("sampler", "nuts")
class NUTS(Metropolis):
    """`steps` trajectories of at most 2^max_depth - 1 leapfrog steps; `mass`, `temperature` and `warmup` are those of
    _metropolis.py. For draws without any dependence on the chains' past, set `warmup` and leave the proposals before it
    out."""

    moves_differentiably = False
    adapted = ("log_eps", "log_eps_mean")

    def __init__(
        self,
        scale: float,
        *,
        steps: PositiveInt,
        max_depth: Annotated[int, Field(ge=1, le=10)],
        step_size: PositiveFloat,
        target_acceptance: Target | None,
        temperature: PositiveFloat,
        mass: Mass,
        warmup: PositiveInt | None,
    ) -> None:
        super().__init__(scale, steps, step_size, target_acceptance, 1 / MEMORY, temperature, mass, warmup)
        self.max_depth = max_depth

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return the state of _metropolis.py and the mean of log eps."""
        return {**super().begin(energy, x, generator), "log_eps_mean": self.step_size.begin(x)}

    def propose(self, at: At, now: Point, eps: Tensor, generator: Generator) -> tuple[Point, Tensor]:
        raise NotImplementedError("a trajectory's states are drawn, not accepted or refused")

    def step(self, at: At, now: Point, eps: Tensor, generator: Generator) -> tuple[Point, Tensor, Tensor]:
        v = torch.empty_like(now.x).normal_(generator=generator)
        u = torch.empty(2**self.max_depth + 2 * self.max_depth, len(v), dtype=v.dtype, device=v.device)
        u = u.uniform_(generator=generator)
        sides, merges, leaves = (
            u[: self.max_depth] < 0.5,
            u[self.max_depth : 2 * self.max_depth],
            u[-(2**self.max_depth) :],
        )
        left = right = State(now, v)
        h0 = now.e + 0.5 * flat_sum(v**2)
        log_w = total = count = torch.zeros_like(h0)
        outside = now.e == torch.inf
        if bool(outside.any()):  # a start without density has no weight, and H counts from the state after it
            first = leapfrog(at, left, eps)
            h0 = torch.where(outside, first.at.e + 0.5 * flat_sum(first.v**2), h0)
            log_w = torch.where(outside, -torch.inf, log_w)
        alive = torch.ones_like(h0, dtype=torch.bool)
        for depth in range(self.max_depth):
            if not bool(alive.any()):
                break
            ahead = sides[depth]
            sign = torch.where(ahead, 1.0, -1.0).to(h0)
            half = grow(at, pick(ahead, right, left), h0, eps, sign, alive, leaves[2**depth : 2 ** (depth + 1)])
            now = choose(half.whole & (merges[depth].log() < half.log_w - log_w), half.drawn, now)
            log_w = torch.where(half.whole, torch.logaddexp(log_w, half.log_w), log_w)
            right, left = pick(half.whole & ahead, half.end, right), pick(half.whole & ~ahead, half.end, left)
            alive = half.whole & ~turned(left, right, torch.ones_like(sign))
            total, count = total + half.acceptance, count + half.count
        acceptance = total / count
        return now, acceptance, acceptance.log()

    def adapt(self, known: dict[str, Tensor], log_ratio: Tensor, age: Tensor) -> dict[str, Tensor]:
        target = self.step_size.target
        if target is None:
            return known
        log_eps, mean = known["log_eps"], known["log_eps_mean"]
        last = MEMORY if self.warmup is None else self.warmup
        before, t = age.clamp_max(last).to(log_eps), (age + 1).clamp_max(last).to(log_eps)
        centre = math.log(10 * self.step_size.initial)
        h = torch.where(age > 0, 0.05 * (centre - log_eps) / before.clamp_min(1).sqrt(), 0.0)
        h = (1 - 1 / (t + 10)) * h + (target - log_ratio.exp().mean()) / (t + 10)
        new = centre - t.sqrt() / 0.05 * h
        average = t**-0.75 * new + (1 - t**-0.75) * mean
        if self.warmup is None:
            return {"log_eps": new, "log_eps_mean": average}
        warm, ends = age < self.warmup, age + 1 == self.warmup
        new = torch.where(ends, average, new)
        return {"log_eps": torch.where(warm, new, log_eps), "log_eps_mean": torch.where(warm, average, mean)}
