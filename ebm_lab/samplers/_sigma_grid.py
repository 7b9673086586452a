"""The base class of samplers with noise levels of their own, one step from level to level per call.

    sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,    i = 0 ... N - 1

and then 0, if `denoise`. With rho = 1 the levels are at equal distances. A large rho takes more of them near sigma_min,
where an image's details arise; rho null is its limit, the geometric progression. The step to 0 is Tweedie's formula:
there x + sigma^2 s is the end.

Tero Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, equation 5,
arXiv:2206.00364.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, frozen
from ebm_lab.core.interfaces import Chain, Distribution, Sampler
from ebm_lab.models.ladder import Sigma
from ebm_lab.models.levels import NoiseLevels

Levels = Annotated[int, Field(ge=2)]
Rho = Annotated[float, Field(ge=1, le=1e6)] | None


def sigma_grid(high: float, low: float, n: int, rho: float | None) -> list[float]:
    """Return the n levels from `high` down to `low`."""
    parts = [i / (n - 1) for i in range(n)]
    if rho is None:
        return [high ** (1 - t) * low**t for t in parts]
    ratio = (low / high) ** (1 / rho)
    return [high, *(high * (1 + t * (ratio - 1)) ** rho for t in parts[1:-1]), low]


class GridSampler(Sampler):
    """`levels`: N; `rho`: their spacing; `sigma_min`, `sigma_max`: their ends, within the model's ladder, whose ends
    are taken for `auto`; `denoise`: end with a step to 0. Not differentiable."""

    needs = (Need("energy", "levels"), Need("dataset", "continuous"))
    offers = frozenset()
    steps = 1

    def __init__(
        self,
        energy: nn.Module | None = None,
        *,
        levels: Levels,
        rho: Rho,
        sigma_min: Sigma,
        sigma_max: Sigma,
        denoise: bool,
    ) -> None:
        self.levels, self.rho, self.denoise = levels, rho, denoise
        self.sigma_min: Sigma = sigma_min
        self.sigma_max: Sigma = sigma_max
        if energy is not None:  # a range that does not fit is rejected before training
            self.grid(cast(NoiseLevels, energy))

    def grid(self, model: NoiseLevels) -> list[float]:
        """Return the levels for this model, with the 0 at their end if there is one.

        Raises UserError if they go beyond the model's ladder.
        """
        ladder = model.ladder
        low = ladder.sigma_min if self.sigma_min == "auto" else self.sigma_min
        high = ladder.sigma_max if self.sigma_max == "auto" else self.sigma_max
        if not ladder.sigma_min <= low < high <= ladder.sigma_max:
            raise UserError(
                f"sampler.sigma_min={self.sigma_min}, sampler.sigma_max={self.sigma_max}: must be auto, or levels of "
                f"the model, energy.sigma_min={ladder.sigma_min:g} <= sigma_min < sigma_max <= "
                f"energy.sigma_max={ladder.sigma_max:g}"
            )
        return [*sigma_grid(high, low, self.levels, self.rho), *([0.0] if self.denoise else [])]

    @abstractmethod
    def descend(
        self,
        model: NoiseLevels,
        x: Tensor,
        sigmas: Sequence[float],
        i: int,
        state: Mapping[str, Tensor],
        generator: Generator,
    ) -> tuple[Tensor, dict[str, Tensor], int]:
        """Step from sigmas[i] to sigmas[i + 1]; return (states, what the next step needs to know, scores computed per
        chain)."""

    def begin(self, energy: EnergyFn, x: Tensor, generator: Generator) -> dict[str, Tensor]:
        return {"level": torch.tensor(0)}

    def start(self, model: EnergyFn) -> Distribution:
        levels = cast(NoiseLevels, model)
        return levels.prior(self.grid(levels)[0])

    def total(self, model: EnergyFn) -> int:
        return len(self.grid(cast(NoiseLevels, model))) - 1

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
        model, state = cast(NoiseLevels, energy), dict(state or self.begin(energy, x, generator))
        sigmas, i, taken = self.grid(model), int(state["level"]), 0
        if i < len(sigmas) - 1:  # further calls stay at the end
            with frozen(energy), torch.no_grad():
                x, kept, taken = self.descend(model, x, sigmas, i, state, generator)
            i, state = i + 1, state | kept
        metrics = {"chain_sigma": torch.full((), sigmas[i], device=x.device)}
        return Chain(x, state | {"level": torch.tensor(i)}, metrics, taken * len(x))
