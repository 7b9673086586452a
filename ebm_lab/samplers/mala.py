"""The Metropolis-adjusted Langevin algorithm: exact for exp(-E / T), at any step size.

    x' = x - (eps^2 / 2) grad E(x) / T + eps z,    z ~ N(0, I)
    q(x' | x) = N(x'; x - (eps^2 / 2) grad E(x) / T, eps^2 I)
    accept with probability min(1, exp((E(x) - E(x')) / T) q(x | x') / q(x' | x))

The energy and its gradient at the current state are carried from step to step: k steps take k + 1 gradients.

Coupled chains propose equal points as often as their two normal laws allow, and accept by one uniform number.

Gareth O. Roberts and Richard L. Tweedie, Exponential convergence of Langevin distributions, 1996.
Gareth O. Roberts and Jeffrey S. Rosenthal, Optimal scaling of discrete approximations to Langevin diffusions, 1998:
an acceptance of 0.574 is optimal in high dimension.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn, frozen, gradient_of, rows_of
from ebm_lab.core.interfaces import Chain
from ebm_lab.core.mcmc import coupled_normals, log_acceptance
from ebm_lab.core.registry import register
from ebm_lab.samplers._adaptation import Mass
from ebm_lab.samplers._metropolis import Metropolis, Point, Target, choose


@register("sampler", "mala")
class MALA(Metropolis):
    """`steps` steps of size eps; the settings are those of _metropolis.py."""

    offers = Metropolis.offers | {"coupled"}

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
        new = at(now.x - (eps**2 / 2) * now.grad + eps * z)
        return new, log_acceptance(now.e, now.grad, now.x, new.e, new.grad, new.x, eps)

    def couple(
        self, energy: EnergyFn, x: Tensor, y: Tensor, state: Mapping[str, Tensor], *, generator: Generator
    ) -> tuple[Chain, Tensor]:
        n, state = len(x), state or self.begin(energy, x, generator)
        energy = rows_of(energy, lambda: torch.arange(2 * n, device=x.device) % n)
        w = None if self.widths is None else self.widths.current(state)
        log_eps, age, eps, ratios = state["log_eps"], state["age"], state["log_eps"].exp(), []
        with frozen(energy):
            at = partial(self._point, gradient_of(energy), w)
            both = torch.cat([x, y])
            now = at(both if w is None else both / w)
            for _ in range(self.steps):
                z = torch.empty_like(x).normal_(generator=generator)
                u, v = (torch.empty_like(now.e[:n]).uniform_(generator=generator) for _ in range(2))
                means = (now.x - (eps**2 / 2) * now.grad) / eps
                new = at(eps * torch.cat(coupled_normals(*means.chunk(2), z, u)))
                log_ratio = log_acceptance(now.e, now.grad, now.x, new.e, new.grad, new.x, eps)
                now = choose(v.log().repeat(2) < log_ratio, new, now)
                ratios.append(log_ratio[:n])
        for log_ratio in ratios:
            log_eps, age = self.step_size.update(log_eps, log_ratio, self._warm(age)), age + 1
        x, y = (now.x if w is None else w * now.x).chunk(2)
        known = {"log_eps": log_eps, "age": age}
        if self.widths is not None:
            known |= self.widths.update(state, x, self.steps, age, self._warm(age - 1))
        moved = torch.stack(ratios).clamp_max(0).exp().nan_to_num(0.0).mean()
        return Chain(x, known, {"acceptance": moved, "step_size": eps}, 2 * (self.steps + 1) * n), y
