"""Down the noise levels by recovery: at each level, a chain of the law of x given its copy at the level above.

    x <- a chain of `kernel` from x on exp(-E(x, low) - |x - seen|^2 / (2 gap^2)),    seen = x

with gap^2 = high^2 - low^2, for the levels high > low of the ladder, from sigma_max down; the first x comes from the
model's base. If each chain reaches its law, and E is -log q_low, each x follows q_low exactly, since that law is the
posterior of the less noisy point.

Ruiqi Gao et al., Learning Energy-Based Models by Diffusion Recovery Likelihood, 2021, arXiv:2012.08125.
"""

from typing import Annotated, Any, cast

import torch
from torch import Generator, Tensor

from ebm_lab.core.choice import Nested
from ebm_lab.core.features import Child, Need
from ebm_lab.core.interfaces import Sampler
from ebm_lab.core.registry import register
from ebm_lab.models.levels import NoiseEnergy, NoiseLevels
from ebm_lab.models.recovery import recovery
from ebm_lab.samplers._annealing import LevelSampler


@register("sampler", "recovery_descent")
class RecoveryDescent(LevelSampler):
    """`kernel`: the sampler of each chain, one call per level, whose step is in units of the gap between two levels;
    `denoise`: end with Tweedie's formula."""

    needs = (*LevelSampler.needs, Need("energy", "energy"))

    def __init__(self, scale: float, *, kernel: Annotated[Any, Nested("sampler")], denoise: bool) -> None:
        super().__init__(kernel.steps, denoise)
        self.kernel: Sampler = kernel
        self.unit = scale

    @classmethod
    def children_of(cls, **settings: Any) -> tuple[Child, ...]:
        return (Child("kernel", must={"stationary": "each chain stays at one level"}),)

    def rungs(self, model: NoiseLevels) -> int:
        return model.ladder.levels - 1

    def descend(self, model: NoiseLevels, x: Tensor, rung: int, generator: Generator) -> tuple[Tensor, int]:
        high, low = model.ladder.rung(rung), model.ladder.rung(rung + 1)
        target, start = (
            recovery(cast(NoiseEnergy, model), x, low, (high**2 - low**2) ** 0.5, self.unit),
            torch.zeros_like(x),
        )
        state = self.kernel.begin(target, start, generator)
        chain = self.kernel(target, start, state, generator=generator)
        return target.x(chain.x), chain.grad_evals // len(x)
