"""Metropolis-Hastings: accept a proposal so that exp(-E / T) stays exactly invariant.

    accept x -> x' with probability min(1, exp(log_ratio)),
    log_ratio = (E(x) - E(x')) / T + log q(x | x') - log q(x' | x)

W. K. Hastings, Monte Carlo Sampling Methods Using Markov Chains and Their Applications, 1970.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import Field
from torch import Generator, Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import (
    EnergyFn,
    GradientFn,
    energy_and_grad,
    frozen,
    gradient_of,
    per_sample,
)
from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.core.mcmc import accept
from ebm_lab.samplers._adaptation import Mass, StepSize, Widths

Target = Annotated[float, Field(gt=0, lt=1)]


class Point(NamedTuple):
    """x: (B, *shape) with its energy e: (B,) and gradient grad: (B, *shape), carried from step to step."""

    x: Tensor
    e: Tensor
    grad: Tensor


def choose(accepted: Tensor, new: Point, old: Point) -> Point:
    """Return, for each sample, the new point if accepted, else the old one."""
    wide = per_sample(accepted, old.x)
    return Point(
        torch.where(wide, new.x, old.x), torch.where(accepted, new.e, old.e), torch.where(wide, new.grad, old.grad)
    )


class Metropolis(Sampler):
    """`steps` proposals for exp(-E / T), T = `temperature`, each accepted or rejected; subclasses define `propose`.

    The step size starts at step_size * scale, with the data's `scale`, and follows `target_acceptance` at `adapt_rate`
    per proposal, unless the target is null. `mass` diagonal moves the chains in y = x / w, w their width in each
    coordinate relative to `scale`, as of the last call (_adaptation.py). Both are frozen after `warmup` proposals,
    which are counted across calls; null: never.

    The energy and its gradient at the current state are carried from one proposal to the next. With `differentiable`
    the derivative is that of the accepted moves, and ignores that the acceptances depend on the energy too.
    """

    def __init__(
        self,
        scale: float,
        steps: int,
        step_size: float,
        target_acceptance: float | None,
        adapt_rate: float,
        temperature: float,
        mass: Mass,
        warmup: int | None,
    ) -> None:
        self.steps, self.temperature, self.warmup = steps, temperature, warmup
        self.step_size = StepSize(step_size * scale, target_acceptance, adapt_rate)
        self.widths = Widths(scale, 0.0 if warmup else adapt_rate) if mass == "diagonal" else None

    needs = (Need("energy", "energy"), Need("dataset", "continuous"))
    offers = frozenset({"stationary", "exact"})
    moves_differentiably = True
    """Whether a proposal is a differentiable function of its start, the energy and the noise."""

    def at_fixed_steps(self) -> Self:
        """Return a copy whose step size does not adapt."""
        fixed = copy.copy(self)
        fixed.step_size = copy.copy(self.step_size)
        fixed.step_size.target = None
        return fixed

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return the step size, the number of proposals so far, and the widths if the mass is diagonal."""
        state = {"log_eps": self.step_size.begin(x), "age": torch.zeros((), dtype=torch.int64, device=x.device)}
        return state if self.widths is None else state | self.widths.begin(x)

    @abstractmethod
    def propose(
        self, at: Callable[[Tensor], Point], now: Point, eps: Tensor, generator: Generator
    ) -> tuple[Point, Tensor]:
        """Return a proposal and its log ratio (B,), from `now`, with step size `eps`, 0-d; at(y) is the Point at y."""

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        if differentiable and not self.moves_differentiably:
            raise UserError(
                f"{type(self).__name__} has no differentiable moves; choose sampler=langevin or underdamped"
            )
        state = state or self.begin(energy, x, generator)
        w, evals = None if self.widths is None else self.widths.current(state), 0
        with nullcontext() if differentiable else frozen(energy):
            slope = partial(energy_and_grad, energy, create_graph=True) if differentiable else gradient_of(energy)

            def at(y: Tensor) -> Point:
                nonlocal evals
                evals += len(y)
                return self._point(slope, w, y)

            known, accepted, now = {key: state[key] for key in self.adapted}, [], at(x if w is None else x / w)
            age = state["age"]
            for _ in range(self.steps):
                now, yes, log_ratio = self.step(at, now, known["log_eps"].exp(), generator)
                accepted.append(yes)
                known, age = self.adapt(known, log_ratio, age), age + 1
        x = now.x if w is None else w * now.x
        metrics = {"acceptance": torch.stack(accepted).float().mean(), "step_size": known["log_eps"].exp()}
        known |= {"age": age}
        if self.widths is not None:
            known |= self.widths.update(state, x, self.steps, age, self._warm(age - 1))
        return Chain(x, {key: known[key] for key in state}, metrics, evals)

    adapted = ("log_eps",)
    """The part of the state that changes with each proposal, beside its number."""

    def step(
        self, at: Callable[[Tensor], Point], now: Point, eps: Tensor, generator: Generator
    ) -> tuple[Point, Tensor, Tensor]:
        """Return the next points, whether or how far (B,) the proposal was accepted, and its log ratio (B,)."""
        new, log_ratio = self.propose(at, now, eps, generator)
        yes = accept(log_ratio, generator)
        return choose(yes, new, now), yes, log_ratio

    def adapt(self, known: dict[str, Tensor], log_ratio: Tensor, age: Tensor) -> dict[str, Tensor]:
        """Return what has adapted to proposal number `age`, counted from 0."""
        return {"log_eps": self.step_size.update(known["log_eps"], log_ratio, self._warm(age))}

    def _point(self, slope: GradientFn, w: Tensor | None, y: Tensor) -> Point:
        e, grad = slope(y if w is None else w * y)
        if w is not None:
            grad = w * grad
        return Point(y, e, grad) if self.temperature == 1 else Point(y, e / self.temperature, grad / self.temperature)

    def _warm(self, age: Tensor) -> Tensor | None:
        """Return whether the proposal after `age` others adapts; None means always."""
        return None if self.warmup is None else age < self.warmup
