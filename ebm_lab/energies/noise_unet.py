"""A U-Net as an energy of many noise levels, for images.

    E(x, sigma) = -log N(x; mean, v^2 I) - (scale / sigma) u . F(w, log sigma)
    u = (x - mean) / v,    v^2 = sigma^2 + scale^2,    w = u / sqrt(1 + |u|^2 / (9 d))

with F of models/unet.py. w is close to u near the data, where |u|^2 is about d, and bounded elsewhere, so that u . F
grows no faster than |u| and Z exists. Where F changes slowly, the score is the base's plus scale / (sigma v) F, as in
score_unet, but here it is always the gradient of a function.

Tim Salimans and Jonathan Ho, Should EBMs Model the Energy or the Score?, 2021 (energies built from a denoiser).
Florentin Guth, Zahra Kadkhodaie and Eero P. Simoncelli, Learning normalized image densities via dual score matching,
2025 (the inner product of input and output).
"""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.functional import flat_sum, per_sample
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.ladder import Sigma
from ebm_lab.models.layers import Activated, Activation
from ebm_lab.models.levels import NoiseEnergy, require_images
from ebm_lab.models.unet import UNet


@register("energy", "noise_unet")
class NoiseUNet(Activated, NoiseEnergy):
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
        base: BaseName,
    ) -> None:
        depth, _, _ = require_images(dataset, "noise_unet")
        super().__init__(dataset, sigma_min, sigma_max, levels, base)
        self.net = UNet(depth, channels, activation)
        self.begin_at_base(self.net.leave)

    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        w = u / per_sample((1 + flat_sum(u * u) / (9 * self.mean.numel())).sqrt(), u)
        return -self.scale / sigma * flat_sum(u * self.net(w, self.ladder.height(sigma)))
