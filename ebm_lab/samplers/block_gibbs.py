"""Block Gibbs sampling: sweeps that draw many sites at once, for energies whose conditional laws are known.

    restricted Boltzmann machine:  h ~ p(h | x), all hidden units at once, then x ~ p(x | h)
    Ising or Potts energy:         x_i ~ p(x_i | the other sites), from its field, in order

Both leave exp(-E) exactly invariant.

Coupled chains draw by common random numbers: each moves by its own law, and where the two laws are close, the same
numbers give the same values, so that chains meet.

Geoffrey E. Hinton, A Practical Guide to Training Restricted Boltzmann Machines, 2012.
"""

from collections.abc import Mapping
from typing import cast

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor

from ebm_lab.core.discrete import Draws
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, frozen
from ebm_lab.core.interfaces import Chain, Energy, Sampler
from ebm_lab.core.registry import register
from ebm_lab.samplers._one_change import no_derivative


@register("sampler", "block_gibbs")
class BlockGibbs(Sampler):
    """`steps` sweeps, in each of which every site is drawn once."""

    needs = (Need("energy", "conditionals"), Need("dataset", "discrete"))
    offers = frozenset({"stationary", "exact", "coupled"})

    def __init__(self, *, steps: PositiveInt) -> None:
        self.steps = steps

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        no_derivative("block_gibbs", differentiable)
        before, x = x, self._sweeps(energy, x, Draws(generator))
        changed = (x != before).flatten(1).any(1).float().mean()
        return Chain(x, dict(state), {"acceptance": changed}, self.steps * len(x))

    def couple(
        self, energy: EnergyFn, x: Tensor, y: Tensor, state: Mapping[str, Tensor], *, generator: Generator
    ) -> tuple[Chain, Tensor]:
        both, n = self._sweeps(energy, torch.cat([x, y]), Draws(generator, copies=2)), len(x)
        changed = (both[:n] != x).flatten(1).any(1).float().mean()
        return Chain(both[:n], dict(state), {"acceptance": changed}, 2 * self.steps * n), both[n:]

    @torch.no_grad()
    def _sweeps(self, energy: EnergyFn, x: Tensor, draws: Draws) -> Tensor:
        with frozen(energy):
            for _ in range(self.steps):
                x = cast(Energy, energy).sweep(x.detach(), draws)
        return x
