"""A small convolutional energy of an image and its class, plus a fixed quadratic that makes Z exist.

    E(x, y) = -f_y(x) + |W (x - mean)|^2 / (2 confine^2),    W = 1 / scale or a whitening

f has the layers of the energy `conv`, and a value for each class (models/labelled.py).
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
from ebm_lab.models.labelled import Condition, Labelled
from ebm_lab.models.layers import Activated, Activation, ConfineShape, conv_layers
from ebm_lab.models.levels import require_images


@register("energy", "labelled_conv")
class LabelledConv(Activated, Labelled, AnchoredImages):
    """Images (C, H, W) with class labels. `channels`: of each convolution; `hidden`: width of the linear layer;
    `condition`: how f depends on the class, by `logits` or by an `embedding`; `confine`: width of the quadratic in
    units of the data's scale, null for none; `confine_shape`: isotropic, or the data's covariance; `base`: a law fitted
    to the data in the quadratic's place (models/base.py)."""

    needs = (Need("dataset", "images"), Need("dataset", "classes"))

    def __init__(
        self,
        dataset: Dataset,
        *,
        channels: Annotated[list[PositiveInt], Field(min_length=1)],
        hidden: PositiveInt,
        condition: Condition,
        activation: Activation,
        confine: PositiveFloat | None,
        confine_shape: ConfineShape,
        confine_floor: PositiveFloat,
        base: BaseName,
    ) -> None:
        super().__init__()
        shape = require_images(dataset, "labelled_conv")
        self.build_anchor(dataset, base, confine, confine_shape, confine_floor)
        last = nn.Linear(hidden, self.outputs(dataset, condition))
        layers = conv_layers(shape, channels, hidden, activation)
        self.net = nn.Sequential(*layers, last).to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        names = [str(i) for i, layer in enumerate(layers) if any(True for _ in layer.parameters())]
        self.build_labels(dataset, condition, dict(zip(names, [*channels, hidden], strict=True)), last)

    def features(self, x: Tensor, y: Tensor | None) -> Tensor:
        return self.through(self.net, self.seen(x), y)
