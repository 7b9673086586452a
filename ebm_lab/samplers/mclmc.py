"""Microcanonical Langevin Monte Carlo: motion at constant speed, whose direction bends down the energy. Unadjusted.

    |u| = 1;  g = grad E(x) / T,  e = -g / |g|,  delta = (eps / 2) |g| / (d - 1)
    B: u <- (u + e (sinh delta + e.u (cosh delta - 1))) / (cosh delta + e.u sinh delta),
       dK = (d - 1) log(cosh delta + e.u sinh delta)
    A: x <- x + eps u
    a step: B A B, then  u <- unit(u + nu z),  z ~ N(0, I),  nu^2 = (exp(2 eps / L) - 1) / d

The exact motion leaves exp(-E / T) invariant, with u uniform on the sphere and independent of x. A step conserves
H = E / T + K up to dH = dE / T + sum dK, which falls as eps^2 over a trajectory of fixed length; the bias of the law
falls with E[dH^2] / d per step, the metric `energy_error`: keep it below 5e-4. `adjusted_mclmc` has no bias. A step
moves a chain by eps, which is eps / sqrt(d) in each coordinate, so that lengths are set per coordinate:
eps = step_size scale sqrt(d) and L = length scale sqrt(d), the distance over which a direction is forgotten. Steep
energies do not throw chains away, since a step has a fixed length.

Directions are passed from call to call in `state`, by position in the batch; as for the velocities of `underdamped`
that is correct also where the chains of a batch change between calls. k steps take k + 1 gradients.

Jakob Robnik, G. Bruno De Luca, Eva Silverstein and Uros Seljak, Microcanonical Hamiltonian Monte Carlo, 2023,
arXiv:2212.08549. Jakob Robnik and Uros Seljak, Fluctuation without dissipation: Microcanonical Langevin Monte Carlo,
2023, arXiv:2303.18221 (the refreshment and the bound on the energy error).
"""

import math
from collections.abc import Callable, Mapping

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, flat_sum, frozen, gradient_of, per_sample
from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.core.registry import register
from ebm_lab.samplers._metropolis import Point


def unit(v: Tensor) -> Tensor:
    """Return v (B, *shape) divided by the length of each sample."""
    return v / per_sample(flat_sum(v**2).sqrt().clamp_min(torch.finfo(v.dtype).tiny ** 0.5), v)


def bend(u: Tensor, g: Tensor, eps: Tensor | float) -> tuple[Tensor, Tensor]:
    """Take the half step B of the direction u with the gradient g, both (B, *shape); return u and dK (B,)."""
    d, size = u[0].numel(), flat_sum(g**2).sqrt()
    e, delta = -unit(g), (eps / 2) * size / (d - 1)
    along, shrink = flat_sum(e * u), (-delta).exp()  # times 2 exp(-delta), so that nothing overflows
    pull = (1 - shrink) * (1 + shrink + along * (1 - shrink))
    grown = (1 + along + (1 - along) * shrink**2).clamp_min(torch.finfo(u.dtype).tiny)
    return unit(per_sample(2 * shrink, u) * u + per_sample(pull, u) * e), (d - 1) * (delta - math.log(2) + grown.log())


def microcanonical_step(
    at: Callable[[Tensor], Point], now: Point, u: Tensor, eps: Tensor | float
) -> tuple[Point, Tensor, Tensor]:
    """Take the step B A B from `now` with the direction u; return the new point and direction, and dH (B,)."""
    u, first = bend(u, now.grad, eps)
    new = at(now.x + eps * u)
    u, second = bend(u, new.grad, eps)
    return new, u, new.e - now.e + first + second


def check_dimension(x: Tensor, name: str) -> None:
    """Refuse states x (B, *shape) of a single number."""
    if x[0].numel() < 2:
        raise UserError(f"sampler '{name}': in one dimension there is no direction to bend: choose sampler=mala or hmc")


@register("sampler", "mclmc")
class MCLMC(Sampler):
    """`steps` steps; `step_size` and `length` set eps and L, in units of the data's `scale` and per coordinate; the law
    is exp(-E / T), T = `temperature`.

    The metric `acceptance` is the probability that a Metropolis test would have accepted the last step, the mean of
    min(1, exp(-dH)); `energy_error` is the mean of dH^2 / d over the steps of a call.
    """

    needs = (Need("energy", "energy"), Need("dataset", "continuous"))
    offers = frozenset({"stationary"})

    def __init__(
        self,
        scale: float,
        *,
        steps: PositiveInt,
        step_size: PositiveFloat,
        length: PositiveFloat,
        temperature: PositiveFloat,
    ) -> None:
        self.steps, self.eps, self.temperature = steps, step_size * scale, temperature
        self.decay = step_size / length

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Draw directions from their law, uniform on the sphere."""
        check_dimension(x, "mclmc")
        return {"u": unit(torch.empty_like(x).normal_(generator=generator))}

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        if differentiable:
            raise UserError("sampler 'mclmc': not differentiable; choose sampler=langevin or underdamped")
        if not state or state["u"].shape != x.shape:  # the first call, or a batch of another size
            state = self.begin(energy, x, generator)
        d = x[0].numel()
        eps, kept, new = self.eps * d**0.5, math.exp(-self.decay), math.sqrt(-math.expm1(-2 * self.decay) / d)
        with frozen(energy):
            slope = gradient_of(energy)

            def at(y: Tensor) -> Point:
                e, grad = slope(y)
                return Point(y, e / self.temperature, grad / self.temperature)

            now, u, error, errors = at(x), state["u"], torch.zeros_like(x[:, 0]), []
            for _ in range(self.steps):
                z = torch.empty_like(x).normal_(generator=generator)
                now, u, error = microcanonical_step(at, now, u, eps)
                u = unit(kept * u + new * z)
                errors.append((error**2).mean() / d)
        metrics = {
            "acceptance": (-error).clamp_max(0).exp().mean(),
            "energy_error": torch.stack(errors).mean(),
            "chain_grad_norm": self.temperature * flat_sum(now.grad**2).sqrt().mean(),
        }
        return Chain(now.x, {"u": u}, metrics, (self.steps + 1) * len(x))
