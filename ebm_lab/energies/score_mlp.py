"""A multilayer perceptron as a score network of many noise levels: a score, and no energy.

    s(x, sigma) = -(x - mean) / v^2 + scale / (sigma v) F(u, log sigma)
    u = (x - mean) / v,    v^2 = sigma^2 + scale^2

Each hidden layer is scaled and shifted as a function of log sigma (models/conditioning.py). The score need not be the
gradient of a function. A step takes one backward pass less than with an energy, and only the probability-flow ODE
gives a density.
"""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.models.conditioning import FilmMLP
from ebm_lab.models.ladder import Sigma
from ebm_lab.models.layers import Activated, Activation
from ebm_lab.models.levels import ScoreNetwork


@register("energy", "score_mlp")
class ScoreMLP(Activated, ScoreNetwork):
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
    ) -> None:
        super().__init__(dataset, sigma_min, sigma_max, levels)
        d = dataset.mean.numel()
        self.net = FilmMLP(d, hidden, d, activation)

    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        return self.net(u.flatten(1), self.ladder.height(sigma)).view_as(u)
