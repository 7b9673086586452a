"""Gibbs sampling of one site at a time, for any energy of discrete data.

    bits:        x_i = 1 with probability sigmoid(E(x with x_i = 0) - E(x with x_i = 1))
    categories:  x_i = c with probability ~ exp(-E(x with x_i = c))

Each update draws the site exactly from its law given all others, so that exp(-E) is exactly invariant. It takes one
energy (K for categories); gwg finds the sites worth changing, and block_gibbs draws many at once where the energy can.

Stuart Geman and Donald Geman, Stochastic Relaxation, Gibbs Distributions, and the Bayesian Restoration of Images, 1984.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.discrete import Draws, sites_of
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, evaluate, frozen, per_sample, rows_of
from ebm_lab.core.interfaces import Chain, Dataset, Sampler
from ebm_lab.core.registry import register
from ebm_lab.samplers._one_change import chosen, no_derivative


@register("sampler", "gibbs")
class Gibbs(Sampler):
    """`steps` updates of one site in each chain. `scan`: sweep, the sites in their order, which goes on where the call
    before ended; or random, a site of each chain's own."""

    needs = (Need("energy", "energy"), Need("dataset", "discrete"))
    offers = frozenset({"stationary", "exact"})

    def __init__(self, dataset: Dataset, *, steps: PositiveInt, scan: Literal["sweep", "random"]) -> None:
        self.sites, self.steps, self.sweeps = sites_of(dataset), steps, scan == "sweep"

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        """Return the site to update next, 0-d."""
        return {"site": torch.zeros((), dtype=torch.int64, device=x.device)}

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        no_derivative("gibbs", differentiable)
        site, moved, d = (state or self.begin(energy, x, generator))["site"], [], self.sites.count
        draws = Draws(generator)
        with frozen(energy), torch.no_grad():
            x, e = x.detach(), evaluate(energy, x)
            for _ in range(self.steps):
                sites = site.expand(len(x))
                if not self.sweeps:
                    u = torch.empty(len(x), dtype=x.dtype, device=x.device).uniform_(generator=generator)
                    sites = (u * d).long().clamp_max(d - 1)
                new, e = (self._category if self.sites.one_hot else self._bit)(energy, x, e, sites, draws)
                moved.append((new != x).flatten(1).any(1).float().mean())
                x, site = new, (site + 1) % d
        evals = len(x) * (1 + self.steps * (self.sites.categories if self.sites.one_hot else 1))
        return Chain(x, {"site": site}, {"acceptance": torch.stack(moved).mean()}, evals)

    def _bit(self, energy: EnergyFn, x: Tensor, e: Tensor, sites: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw one bit of each row; returns points and energies."""
        other = self.sites.apply(x, sites)
        e_other = evaluate(energy, other)
        flips = draws.bits(e - e_other) > 0
        return torch.where(per_sample(flips, x), other, x), torch.where(flips, e_other, e)

    def _category(self, energy: EnergyFn, x: Tensor, e: Tensor, sites: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw the category of one site of each row; returns points and energies."""
        k, n = self.sites.categories, len(x)
        m = torch.arange(k, device=x.device).repeat_interleave(n) * self.sites.count + sites.repeat(k)
        points = self.sites.apply(x.repeat(k, *[1] * (x.ndim - 1)), m)
        every = rows_of(energy, lambda: torch.arange(k * n, device=x.device) % n)
        energies = evaluate(every, points).view(k, n).mT
        pick = draws.categories(-energies).argmax(1)
        return self.sites.apply(x, pick * self.sites.count + sites), chosen(energies, pick)
