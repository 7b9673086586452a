"""A multilayer perceptron as an energy of many noise levels.

    E(x, sigma) = -log N(x; mean, v^2 I) + f(u, log sigma)
    u = (x - mean) / v,    v^2 = sigma^2 + scale^2

Each hidden layer is scaled and shifted as a function of log sigma (models/conditioning.py). f grows at most linearly,
so that Z exists at every level.
"""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.conditioning import FilmMLP
from ebm_lab.models.ladder import Sigma
from ebm_lab.models.layers import Activated, Activation
from ebm_lab.models.levels import NoiseEnergy


@register("energy", "noise_mlp")
class NoiseMLP(Activated, NoiseEnergy):
    """Any event shape, flattened. `hidden`: widths of the hidden layers; `sigma_min`, `sigma_max` and `levels`: the
    ladder, `auto` from the data (models/ladder.py)."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        hidden: Annotated[list[PositiveInt], Field(min_length=1)],
        activation: Activation,
        sigma_min: Sigma,
        sigma_max: Sigma,
        levels: Annotated[int, Field(ge=2)],
        base: BaseName,
    ) -> None:
        super().__init__(dataset, sigma_min, sigma_max, levels, base)
        self.net = FilmMLP(dataset.mean.numel(), hidden, self.outputs(dataset), activation)
        self.begin_at_base(self.net.last)
        self.look_along_hidden(self.net.layers[0], dataset)

    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        return self.network(u, sigma).squeeze(1)

    def network(self, u: Tensor, sigma: Tensor) -> Tensor:
        """Compute the outputs of the last layer, (B, outputs), of the arguments of `correction`."""
        return self.net(u.flatten(1), self.ladder.height(sigma))
