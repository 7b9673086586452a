"""Unadjusted Langevin dynamics.

    x <- x - (eps^2 / 2) grad E(x) + eps z,    z ~ N(0, I)

With a small eps its stationary law is near exp(-E) / Z; for a Gaussian of precision P its covariance is
(P - (eps^2 / 4) P^2)^-1 exactly, so a step of finite size biases it. With `noise_scale` nu the noise is eps nu z: that
is a step of size eps nu for the energy E / nu^2, and samples exp(-E / nu^2). nu = 1 is exact, nu < 1 the
low-temperature dynamics of the image literature.

Yang Song and Diederik P. Kingma, How to Train Your Energy-Based Models, 2021, equation 5, arXiv:2101.03288.
Gareth O. Roberts and Richard L. Tweedie, Exponential convergence of Langevin distributions, 1996.
"""

from collections.abc import Mapping
from functools import partial

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, energy_and_grad, flat_sum, frozen, gradient_of, per_sample
from ebm_lab.core.interfaces import Chain, Sampler
from ebm_lab.core.mcmc import log_acceptance
from ebm_lab.core.registry import register


def langevin_step(x: Tensor, grad: Tensor, z: Tensor, eps: float, noise_scale: float = 1.0) -> Tensor:
    """Take one step from x with grad = grad E(x) and standard normal z, all (B, *shape):

    x - eps^2 / 2 grad + noise_scale eps z
    """
    return torch.add(x, grad, alpha=-(eps**2) / 2).add(z, alpha=eps * noise_scale)


@register("sampler", "langevin")
class Langevin(Sampler):
    """`steps` Langevin steps of size eps = step_size * scale, with the data's `scale`.

    A per-sample gradient longer than `clip_grad` (nats per data unit; null: never) is shortened to that length. This
    keeps the steep energies of early training from throwing chains away, and biases the law where it acts. The metric
    `acceptance` is the probability that a Metropolis test for exp(-E / noise_scale^2) would have accepted the last move
    but one, averaged over chains, with clipped gradients where they were clipped. Near 1, the step is small enough.
    With noise_scale 0 there is no law and no such metric. Rounding errors of E in float32 count divided by
    noise_scale^2.
    """

    needs = (Need("energy", "energy"), Need("dataset", "continuous"))
    offers = frozenset({"stationary", "reparameterised"})

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
        self.eps, self.reach = step_size * scale, steps * step_size**2
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
            drift = self._clipped(grad)
            if step == self.steps - 1:
                metrics = {"chain_grad_norm": flat_sum(grad.detach() ** 2).sqrt().mean()}
                metrics |= self._acceptance(before, (e, drift, x))
            before = (e, drift, x)
            z = torch.empty_like(x).normal_(generator=generator) if differentiable else z.normal_(generator=generator)
            x = langevin_step(x, drift, z, self.eps, self.noise_scale)
        return Chain(x, {}, metrics, self.steps * len(x))

    def _clipped(self, grad: Tensor) -> Tensor:
        if self.clip_grad is None:
            return grad
        norm = flat_sum(grad**2).sqrt().clamp_min(1e-12)
        return grad * per_sample((self.clip_grad / norm).clamp_max(1.0), grad)

    def _acceptance(self, before: tuple | None, now: tuple) -> dict[str, Tensor]:
        """Return the acceptance of the move between two points (energy, drift, x), or nothing if there was no move or
        no noise."""
        if before is None or not self.noise_scale:
            return {}
        (e, drift, x), (e_new, drift_new, x_new) = ([t.detach() for t in point] for point in (before, now))
        log_ratio = log_acceptance(e, drift, x, e_new, drift_new, x_new, self.eps).double() / self.noise_scale**2
        return {"acceptance": log_ratio.clamp_max(0).exp().mean().to(x.dtype)}
