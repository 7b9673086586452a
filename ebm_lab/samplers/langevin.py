"""Unadjusted Langevin dynamics.

    x <- x - (eps^2 / 2) grad E(x) + eps z,    z ~ N(0, I)

With a small eps its stationary law is near exp(-E) / Z; for a Gaussian of precision P its covariance is
(P - (eps^2 / 4) P^2)^-1 exactly, so a step of finite size biases it. With `noise_scale` nu the noise is eps nu z, which
samples exp(-E / nu^2): nu = 1 is exact, nu < 1 the low-temperature dynamics of the image literature.

Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equation 5, arXiv:2101.03288.
Gareth O. Roberts and Richard L. Tweedie, Exponential convergence of Langevin distributions, 1996.
"""

from collections.abc import Mapping
from functools import partial

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.functional import EnergyFn, energy_and_grad, flat_sum, frozen, gradient_of, per_sample
from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.core.registry import register


def langevin_step(x: Tensor, grad: Tensor, z: Tensor, eps: float, noise_scale: float = 1.0) -> Tensor:
    """One step from x with grad = grad E(x) and standard normal z, all (B, *shape)."""
    return x - (eps**2 / 2) * grad + (eps * noise_scale) * z


def log_acceptance(
    e: Tensor, grad: Tensor, x: Tensor, e_new: Tensor, grad_new: Tensor, x_new: Tensor, eps: Tensor | float
) -> Tensor:
    """log of the Metropolis-Hastings ratio of the move x -> x_new, (B,), for noise_scale 1."""
    half = eps**2 / 2
    back = flat_sum((x - x_new + half * grad_new) ** 2)
    there = flat_sum((x_new - x + half * grad) ** 2)
    return e - e_new - (back - there) / (4 * half)


@register("sampler", "langevin")
class Langevin(Sampler):
    """`steps` Langevin steps of size eps = step_size * scale, with `scale` the data's.

    A per-sample gradient longer than `clip_grad` (nats per data unit; null: never) is shortened to it, which keeps a
    young energy from throwing chains away and biases the law where it acts. The metric `acceptance` is what a
    Metropolis test would have said of the last move but one, mean of min(1, ratio): near 1, the step is small enough.
    """

    reparameterised = True

    def __init__(
        self,
        scale: float,
        *,
        steps: PositiveInt,
        step_size: PositiveFloat,
        noise_scale: NonNegativeFloat,
        clip_grad: PositiveFloat | None,
    ) -> None:
        self.steps = steps
        self.eps = step_size * scale
        self.noise_scale = noise_scale
        self.clip_grad = clip_grad

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        with frozen(energy) if not differentiable else torch.enable_grad():
            return self._run(energy, x, generator, differentiable)

    def _run(self, energy: EnergyFn, x: Tensor, generator: Generator, differentiable: bool) -> Chain:
        z = torch.empty_like(x)
        before, metrics = None, {}
        at = partial(energy_and_grad, energy, create_graph=True) if differentiable else gradient_of(energy)
        for step in range(self.steps):
            e, grad = at(x)
            if step == self.steps - 1:
                metrics = self._metrics(before, (e, grad, x))
            before = (e, grad, x)
            z = torch.empty_like(x).normal_(generator=generator) if differentiable else z.normal_(generator=generator)
            x = langevin_step(x, self._clipped(grad), z, self.eps, self.noise_scale)
        return Chain(x, {}, metrics, self.steps * len(x))

    def _clipped(self, grad: Tensor) -> Tensor:
        if self.clip_grad is None:
            return grad
        norm = flat_sum(grad**2).sqrt().clamp_min(1e-12)
        return grad * per_sample((self.clip_grad / norm).clamp_max(1.0), grad)

    def _metrics(self, before: tuple | None, now: tuple) -> dict[str, Tensor]:
        e, grad, x = (t.detach() for t in now)
        metrics = {"chain_grad_norm": flat_sum(grad**2).sqrt().mean()}
        if before is not None:
            e0, grad0, x0 = (t.detach() for t in before)
            log_ratio = log_acceptance(e0, grad0, x0, e, grad, x, self.eps)
            metrics["acceptance"] = log_ratio.clamp_max(0).exp().mean()
        return metrics
