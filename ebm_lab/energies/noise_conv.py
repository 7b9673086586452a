"""A small convolutional energy of many noise levels, for images.

    E(x, sigma) = -log N(x; mean, v^2 I) + (scale / sigma) f(u, log sigma)
    u = (x - mean) / v,    v^2 = sigma^2 + scale^2

The factor gives the score of f the magnitude that images need: they lie on a thin set, where the score is about
1 / sigma. f has 3x3 convolutions, of which the first keeps the image's size and each further one halves it, then a
linear layer. Each layer is scaled and shifted as a function of log sigma (models/conditioning.py).
"""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, channels_last, nn

from ebm_lab.core.features import Need
from ebm_lab.core.functional import per_sample
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.conditioning import Film
from ebm_lab.models.curved import Conv2d
from ebm_lab.models.ladder import Sigma
from ebm_lab.models.layers import Activated, Activation, make_activation
from ebm_lab.models.levels import NoiseEnergy, require_images


@register("energy", "noise_conv")
class NoiseConv(Activated, NoiseEnergy):
    """Images (C, H, W). `channels`: of each convolution; `hidden`: width of the linear layer; `sigma_min`, `sigma_max`,
    `levels`: the ladder, `auto` from the data (models/ladder.py)."""

    needs = (Need("dataset", "images"),)

    def __init__(
        self,
        dataset: Dataset,
        *,
        channels: Annotated[list[PositiveInt], Field(min_length=1)],
        hidden: PositiveInt,
        activation: Activation,
        sigma_min: Sigma,
        sigma_max: Sigma,
        levels: Annotated[int, Field(ge=2)],
        base: BaseName,
    ) -> None:
        depth, height, width = require_images(dataset, "noise_conv")
        super().__init__(dataset, sigma_min, sigma_max, levels, base)
        self.act, self.film = make_activation(activation), Film([*channels, hidden])
        self.layers, c_in = nn.ModuleList(), depth
        for i, c_out in enumerate(channels):
            stride = 1 if i == 0 else 2
            self.layers.append(Conv2d(c_in, c_out, 3, stride, padding=1))
            height, width, c_in = -(-height // stride), -(-width // stride), c_out
        self.layers.to(memory_format=channels_last)
        self.layers.append(nn.Linear(channels[-1] * height * width, hidden))
        self.last = nn.Linear(hidden, self.outputs(dataset))
        self.begin_at_base(self.last)

    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        return self.network(u, sigma).squeeze(1)

    def network(self, u: Tensor, sigma: Tensor) -> Tensor:
        """Compute the outputs of the last layer, (B, outputs), of the arguments of `correction`."""
        for layer, (gamma, beta) in zip(self.layers, self.film(self.ladder.height(sigma)), strict=True):
            if isinstance(layer, nn.Linear):
                u = self.act(layer(u.flatten(1)) * gamma + beta)
            else:
                u = self.act(layer(u) * gamma[..., None, None] + beta[..., None, None])
        return per_sample(self.scale / sigma, u) * self.last(u)
