"""A U-Net as a score network of many noise levels, for images: a score, and no energy.

    s(x, sigma) = -(x - mean) / v^2 + scale / (sigma v) F(u, log sigma)
    u = (x - mean) / v,    v^2 = sigma^2 + scale^2

with F of models/unet.py. The denoiser x + sigma^2 s is then c_skip (x - mean) + mean + c_out F(c_in (x - mean)) with
c_skip = scale^2 / v^2, c_out = sigma scale / v and c_in = 1 / v: EDM's preconditioning, for the mean image and the
scale of the training data. The score need not be the gradient of a function. A step takes one backward pass less than
with an energy, and only the probability-flow ODE gives a density.

Tero Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, table 1, arXiv:2206.00364.
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
from ebm_lab.models.unet import Channels, Norm, UNet, check_patch


@register("energy", "score_unet")
class ScoreUNet(Activated, ScoreNetwork):
    """Images (C, H, W). `channels`, `blocks`, `norm`, `patch`, `film_width`: of the U-Net (models/unet.py), `channels`
    with one entry per size; `sigma_min`, `sigma_max`, `levels`: the ladder, `auto` from the data (models/ladder.py)."""

    needs = (Need("dataset", "images"),)

    def __init__(
        self,
        dataset: Dataset,
        *,
        channels: Channels,
        blocks: PositiveInt,
        norm: Norm,
        patch: PositiveInt,
        film_width: PositiveInt,
        activation: Activation,
        sigma_min: Sigma,
        sigma_max: Sigma,
        levels: Annotated[int, Field(ge=2)],
    ) -> None:
        depth, height, width = require_images(dataset, "score_unet")
        check_patch(patch, height, width)
        super().__init__(dataset, sigma_min, sigma_max, levels)
        self.net = UNet(depth, channels, activation, blocks=blocks, norm=norm, patch=patch, film_width=film_width)

    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        return self.net(u, self.ladder.height(sigma))
