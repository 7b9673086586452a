"""The base class of samplers that descend a ladder of noise levels, one rung per call.

Chains start from the model's base at sigma_max, and count the rungs they have taken in their state, `level`. After the
last one Tweedie's formula can remove the remaining noise, sigma_min. Further calls stay at sigma_min.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import cast

import torch
from torch import Generator, Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, frozen
from ebm_lab.core.interfaces import Chain, Distribution, Sampler
from ebm_lab.models.levels import NoiseLevels, tweedie


class LevelSampler(Sampler):
    """`steps`: per rung; `denoise`: end with Tweedie's formula. Not differentiable."""

    needs = (Need("energy", "levels"), Need("dataset", "continuous"))
    offers = frozenset()

    def __init__(self, steps: int, denoise: bool) -> None:
        self.steps, self.denoise = steps, denoise

    def rungs(self, model: NoiseLevels) -> int:
        """Return how many calls make a sample."""
        return model.ladder.levels

    @abstractmethod
    def descend(self, model: NoiseLevels, x: Tensor, rung: int, generator: Generator) -> tuple[Tensor, int]:
        """Return (states after this rung, number of scores computed per chain)."""

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        return {"level": torch.tensor(0)}

    def start(self, model: EnergyFn) -> Distribution:
        return cast(NoiseLevels, model).prior()

    def total(self, model: EnergyFn) -> int:
        return self.steps * self.rungs(cast(NoiseLevels, model))

    def __call__(
        self,
        energy: EnergyFn,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        generator: Generator,
        differentiable: bool = False,
    ) -> Chain:
        assert not differentiable
        model = cast(NoiseLevels, energy)
        level = int((state or self.begin(energy, x, generator))["level"])
        rungs, levels = self.rungs(model), model.ladder.levels
        last = rungs - 1
        with frozen(energy), torch.no_grad():
            x, taken = self.descend(model, x, min(level, last), generator)
            if level >= last and self.denoise:
                x, taken = tweedie(model, x, model.ladder.sigma_min), taken + 1
        reached = model.ladder.rung(min(level, last) + levels - rungs)  # a call stays at a level or steps to the next
        metrics = {"chain_sigma": torch.full((), reached, device=x.device)}
        return Chain(x, {"level": torch.tensor(level + 1)}, metrics, taken * len(x))
