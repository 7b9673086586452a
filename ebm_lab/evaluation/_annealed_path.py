"""The path of annealed importance sampling from base to model: its temperatures and its kernels' step sizes.

    length(b) = integral from 0 to b of std_{p_b'}(u) db',    u = d log p_b / db, which is -E - log p_0 at every b
                                                              on the path that is linear in b

A pilot run moves along the path once with adaptive step sizes. Then b(length) and the step sizes are frozen, so that
kernels and temperatures of the actual runs do not depend on their own states: only then is E[w] = Z exact. With T
temperatures at equal distances in length, each adds the same to the variance of log w, which minimises it. If the
pilot's chains mix slowly, they lag behind p_b; the schedule is then not the best one, but still valid. Kernels without
a step size, as those of discrete data, have nothing to adapt.

Andrew Gelman and Xiao-Li Meng, Simulating Normalizing Constants, 1998.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn
from ebm_lab.core.interfaces import Distribution, Sampler
from ebm_lab.evaluation._annealed_importance import (
    Annealed,
    Family,
    Move,
    fixed_schedule,
    forward_log_weights,
    reverse_log_weights,
)

Schedule = Literal["adaptive", "linear", "sigmoid", "geometric"]
NEAR = 0.01
"""How far ahead in b the pilot looks for the slope of log p_b."""


@dataclass(frozen=True)
class Path:
    """length, b and log_eps: one entry for each temperature that the pilot visited; log_eps is empty for a kernel
    without a step size."""

    length: list[float]
    b: list[float]
    log_eps: list[float]

    def temperatures(self, schedule: Schedule, steps: int) -> list[float]:
        """Return `steps` + 1 temperatures from 0 to 1; adaptive: at equal distances in length."""
        if schedule != "adaptive" or not 0 < self.length[-1] < math.inf:
            return fixed_schedule(schedule, steps)
        import numpy as np

        places = np.linspace(0, self.length[-1], steps + 1)
        return [0.0, *np.interp(places, self.length, self.b).tolist()[1:-1], 1.0]

    def log_step(self, b: float) -> float:
        """Return the log of the step size at temperature b, interpolated between the pilot's."""
        import numpy as np

        return float(np.interp(b, self.b, self.log_eps))


def pilot(
    energy: EnergyFn, base: Distribution, kernel: Sampler, n: int, generator: Generator, family: Family = Annealed
) -> Path:
    """Run n chains once from base to model and return their path.

    At the base, 20 calls of the kernel adapt its step size, if it has one. The steps in length begin at 0.2, and each
    is 1 % longer than the last, so that the pilot ends for any energy. The next temperature depends on std(u), so that
    a device is waited for once at each.
    """
    x, b, length, step = base.sample(n, generator), 0.0, 0.0, 0.2
    state = kernel.begin(family(energy, base, 0.0), x, generator)
    for _ in range(20 if "log_eps" in state else 0):
        x, state, _, _ = kernel(family(energy, base, 0.0), x, state, generator=generator)
    path, log_eps = Path([0.0], [0.0], []), [state["log_eps"]] if "log_eps" in state else []
    while b < 1:
        near = min(1.0, b + NEAR)
        std = float(finite_std(family.rise(energy, base, x, b, near))) / (near - b)
        new = min(1.0, b + step / std) if std > 0 else 1.0
        length, b, step = length + (new - b) * std, new, 1.01 * step
        x, state, _, _ = kernel(family(energy, base, b), x, state, generator=generator)
        path.length.append(length)
        path.b.append(b)
        if log_eps:
            log_eps.append(state["log_eps"])
    path.log_eps[:] = numbers(log_eps)
    return path


def finite_std(u: Tensor) -> Tensor:
    """Return the standard deviation of the finite entries of u (n,), 0-d: a point of density 0 has no weight beyond."""
    there = u.isfinite()
    n, u = there.sum(), torch.where(there, u, 0.0)
    off = torch.where(there, u - u.sum() / n.clamp_min(1), 0.0)
    return (off.square().sum() / (n - 1).clamp_min(1)).sqrt()


def numbers(values: list[Tensor]) -> list[float]:
    """Return 0-d tensors as numbers, by one copy from the device."""
    return torch.stack(values).tolist() if values else []


@dataclass
class Journey:
    """Runs between base and model along the pilot's path. `acceptance`: the mean acceptance of each move so far;
    `state`: the kernel's, if it has no step size, as the site that comes next."""

    energy: EnergyFn
    base: Distribution
    kernel: Sampler
    """Leaves its target exactly invariant, with the step size in its state."""
    path: Path
    schedule: Schedule
    generator: Generator
    family: Family = Annealed
    acceptance: list[Tensor] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)

    def move(self, x: Tensor, b: float) -> Tensor:
        """Call the kernel once for p_b, with the frozen step size if it has one."""
        target, state = self.family(self.energy, self.base, b), self.state
        if self.path.log_eps:
            state = self.kernel.begin(target, x, self.generator)
            state |= {"log_eps": torch.full((), self.path.log_step(b), device=x.device)}
        chain = self.kernel(target, x, state, generator=self.generator)
        self.state = {} if self.path.log_eps else chain.state
        self.acceptance.append(chain.metrics["acceptance"])
        return chain.x

    def accepted(self, first: int = 0) -> list[float]:
        """Return the mean acceptances from move `first` on; [1.0] if there was none. The device is waited for here and
        not at each move."""
        return numbers(self.acceptance[first:]) or [1.0]

    def mover(self, b: list[float]) -> Move:
        return lambda x, t: self.move(x, b[t])

    def forward(self, n: int, steps: int) -> Tensor:
        """Return log w, (n,), of n forward runs from the base."""
        b, x = self.path.temperatures(self.schedule, steps), self.base.sample(n, self.generator)
        return forward_log_weights(self.rise, b, self.mover(b), x)[0]

    def reverse(self, x: Tensor, steps: int) -> Tensor:
        """Return log w, (n,), of reverse runs from x (n, *shape) ~ p_1."""
        b = self.path.temperatures(self.schedule, steps)
        return reverse_log_weights(self.rise, b, self.mover(b), x)[0]

    def rise(self, x: Tensor, a: float, b: float) -> Tensor:
        return self.family.rise(self.energy, self.base, x, a, b)
