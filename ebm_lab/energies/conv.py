"""A small convolutional energy for images, plus a fixed quadratic that makes Z exist.

    E(x) = f(x) + |W (x - mean)|^2 / (2 confine^2),    W = 1 / scale or a whitening

f has 3x3 convolutions, of which the first keeps the image's size and each further one halves it, then two linear
layers. It has no normalisation and no dropout, since an energy must be a function of its sample alone.
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ebm_lab.core.features import Need
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.base import AnchoredImages
from ebm_lab.models.layers import Activated, Activation, ConfineShape, conv_layers
from ebm_lab.models.levels import require_images


@register("energy", "conv")
class Conv(Activated, AnchoredImages):
    """Images (C, H, W). `channels`: of each convolution; `hidden`: width of the linear layer; `confine`: width of the
    quadratic in units of the data's scale, null for none; `confine_shape`: isotropic, or the data's covariance; `base`:
    a law fitted to the data in the quadratic's place (models/base.py)."""

    needs = (Need("dataset", "images"),)

    def __init__(
        self,
        dataset: Dataset,
        *,
        channels: Annotated[list[PositiveInt], Field(min_length=1)],
        hidden: PositiveInt,
        activation: Activation,
        confine: PositiveFloat | None,
        confine_shape: ConfineShape,
        confine_floor: PositiveFloat,
        base: BaseName,
    ) -> None:
        super().__init__()
        shape = require_images(dataset, "conv")
        self.build_anchor(dataset, base, confine, confine_shape, confine_floor)
        layers = conv_layers(shape, channels, hidden, activation)
        last = nn.Linear(hidden, 1)
        self.net = nn.Sequential(*layers, last).to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        self.begin_at_base(last)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.seen(x)).squeeze(1) + self.anchor(x)
