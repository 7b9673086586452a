"""The adaptation of Metropolis samplers to their target: a step size and a diagonal mass.

    step size:  log eps <- log eps + rate (acceptance - target), after each proposal
    mass:       chains move in y = x / w, w_i = std_i / scale, with std_i the chains' own in coordinate i:
                M^-1 = diag(w^2), so that steps are proportional to the width of each coordinate

The variances pool all chains of all calls so far, those of proposal n with weight n^7, so that the chains' start is
forgotten. They are shrunk toward 1e-3 scale^2 with the weight of 5 points, so that every coordinate can move.

While either depends on the chains' past, the law is only nearly invariant; after `warmup` proposals both are frozen and
it is exactly invariant. With `warmup` null they are never frozen, so that chains can follow a model in training; the
mass then has a memory of 1 / rate proposals.

Christophe Andrieu and Johannes Thoms, A tutorial on adaptive MCMC, 2008, algorithm 4 (step size).
D. H. D. West, Updating Mean and Variance Estimates: An Improved Method, 1979 (pooling).
Bob Carpenter et al., Stan: A Probabilistic Programming Language, 2017 (a mass from the variances of a warm-up, and its
shrinkage).
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Mass = Literal["identity", "diagonal"]


class StepSize:
    """A step size that follows a target acceptance; `target` None keeps it fixed. `begin` returns the initial log eps,
    and `update` log eps after a step."""

    def __init__(self, initial: float, target: float | None, rate: float) -> None:
        self.initial, self.target, self.rate = initial, target, rate

    def begin(self, like: Tensor) -> Tensor:
        """Return log eps before the first step, 0-d, with the dtype and on the device of `like`."""
        return torch.full((), math.log(self.initial), dtype=like.dtype, device=like.device)

    def update(self, log_eps: Tensor, log_ratio: Tensor, warm: Tensor | None = None) -> Tensor:
        """Return log eps after a step whose proposals had these log ratios: (B,), or (R, B) to update each of (R,).

        A nan ratio counts as acceptance 0. `warm`: a 0-d boolean, false if log eps must stay; None means true.
        """
        if self.target is None:
            return log_eps
        acceptance = log_ratio.detach().clamp_max(0).exp().nan_to_num(0.0).mean(-1)
        change = self.rate * (acceptance - self.target)
        return log_eps + (change if warm is None else change * warm)


def pooled(mean: Tensor, var: Tensor, x: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and variance (*shape) of a law that is x (B, *shape) with weight rho, 0-d, and the previous law
    with weight 1 - rho."""
    there = x.mean(0)
    spread = (1 - rho) * var + rho * x.var(0, correction=0) + rho * (1 - rho) * (there - mean) ** 2
    return mean + rho * (there - mean), spread


class Widths:
    """The diagonal mass: widths w (*shape) of the chains, relative to `scale`. `rate`: the smallest weight of a
    proposal."""

    keys = ("mean", "var", "points")

    def __init__(self, scale: float, rate: float) -> None:
        self.scale, self.rate = scale, rate

    def begin(self, x: Tensor) -> dict[str, Tensor]:
        """Return the state before the first call, with zero points, so that mean and variance have no weight."""
        zero = torch.zeros_like(x[0])
        return dict(zip(self.keys, (zero, zero.clone(), torch.zeros((), dtype=x.dtype, device=x.device)), strict=True))

    def current(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return w (*shape); 1 before the first call."""
        n = state["points"]
        w = ((n * state["var"] + 5e-3 * self.scale**2) / (n + 5)).sqrt() / self.scale
        return torch.where(n > 0, w, 1.0)

    def update(self, state: Mapping[str, Tensor], x: Tensor, steps: int, age: Tensor, warm: Tensor | None) -> dict:
        """Return the state after a call of `steps` proposals, the last of which is number `age`, that moved the chains
        to x."""
        x = x.detach()
        rho = (8 * steps / age).clamp(min(1.0, self.rate * steps), 1.0).to(x)
        points = len(x) / rho
        new = dict(zip(self.keys, (*pooled(state["mean"], state["var"], x, rho), points), strict=True))
        if warm is None:
            return new
        adapts = warm | (state["points"] == 0)  # the first call counts even if it is longer than the warm-up
        return {key: torch.where(adapts, new[key], state[key]) for key in self.keys}
