"""A U-Net as a score network of many noise levels, for images: a score, and no energy.

    s(x, sigma) = -(x - mean) / v^2 + scale / (sigma v) F(u, log sigma)
    u = (x - mean) / v,    v^2 = sigma^2 + scale^2

with F of models/unet.py. The score need not be the gradient of a function. A step takes one backward pass less than
with an energy, and only the probability-flow ODE gives a density.
"""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.models.ladder import Sigma
from ebm_lab.models.layers import Activated, Activation
from ebm_lab.models.levels import ScoreNetwork, require_images
from ebm_lab.models.unet import UNet


@register("energy", "score_unet")
class ScoreUNet(Activated, ScoreNetwork):
    """Images (C, H, W). `channels`: one entry per size of the U-Net; `sigma_min`, `sigma_max`, `levels`: the ladder,
    `auto` from the data (models/ladder.py)."""

    needs = (Need("dataset", "images"),)

    def __init__(
        self,
        dataset: Dataset,
        *,
        channels: Annotated[list[PositiveInt], Field(min_length=1)],
        activation: Activation,
        sigma_min: Sigma,
        sigma_max: Sigma,
        levels: Annotated[int, Field(ge=2)],
    ) -> None:
        depth, _, _ = require_images(dataset, "score_unet")
        super().__init__(dataset, sigma_min, sigma_max, levels)
        self.net = UNet(depth, channels, activation)

    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        return self.net(u, self.ladder.height(sigma))
