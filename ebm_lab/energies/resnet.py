"""A residual network as an energy for images, plus a fixed quadratic that makes Z exist.

    E(x) = w . sum over positions of a(h_n) + b + |W (x - mean)|^2 / (2 confine^2),    W = 1 / scale or a whitening
    h_0 = conv(x),    h_i = pool(skip(h_{i-1}) + conv(a(conv(a(h_{i-1})))))

The network has stages of residual blocks. Between stages the image halves (an average over 2 x 2 at the end of the last
block) and the width changes; where it does, the skip is a 1 x 1 convolution, else the identity. Features are summed
over positions, so that the energy is a sum of local energies. There is no normalisation and no dropout, since an energy
must be a function of its sample alone.

`spectral_norm` divides each weight (a kernel as the matrix out x rest) by its largest singular value, which is tracked
by one power iteration per call in training mode. Its vectors are buffers, and so are saved in checkpoints. In eval mode
(while chains run and during evaluation) they do not change, so that the energy is one fixed function. Averaged weights
are divided by u' W v with the vectors u, v of the weights in training, an error of second order.

Yilun Du and Igor Mordatch, Implicit Generation and Modeling with Energy-Based Models, 2019, appendix A.8,
arXiv:1903.08689.
Takeru Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018, equation 8, arXiv:1802.05957.
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ebm_lab.core.features import Need
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.base import AnchoredImages
from ebm_lab.models.curved import Conv2d
from ebm_lab.models.layers import Activated, Activation, ConfineShape, make_activation
from ebm_lab.models.levels import require_images
from ebm_lab.models.residual import initialise_blocks, residual_blocks


@register("energy", "resnet")
class ResNet(Activated, AnchoredImages):
    """Images (C, H, W) of any size. `channels`: width per stage; `blocks`: residual blocks per stage; `spectral_norm`:
    on every convolution and the linear layer; `confine`: the quadratic's width in units of the data's scale, null for
    none; `confine_shape`: isotropic, or the data's covariance; `base`: a law fitted to the data in the quadratic's
    place (models/base.py)."""

    needs = (Need("dataset", "images"),)

    def __init__(
        self,
        dataset: Dataset,
        *,
        channels: Annotated[list[PositiveInt], Field(min_length=1)],
        blocks: PositiveInt,
        activation: Activation,
        spectral_norm: bool,
        confine: PositiveFloat | None,
        confine_shape: ConfineShape,
        confine_floor: PositiveFloat,
        base: BaseName,
    ) -> None:
        super().__init__()
        depth, _, _ = require_images(dataset, "resnet")
        self.build_anchor(dataset, base, confine, confine_shape, confine_floor)
        self.stem = Conv2d(depth, channels[0], 3, padding=1)
        self.blocks, _ = residual_blocks(channels, blocks, activation)
        self.last, self.head = make_activation(activation), nn.Linear(channels[-1], 1)
        initialise_blocks(self.blocks)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # faster on a CPU
        if not spectral_norm:  # which would divide zero by zero
            self.begin_at_base(self.head)
        else:
            for layer in [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]:
                parametrizations.spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        h = self.last(self.blocks(self.stem(self.seen(x))))
        return self.head(h.sum((2, 3))).squeeze(1) + self.anchor(x)
