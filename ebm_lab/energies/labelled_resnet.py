"""A residual network as an energy of an image and its class, plus a fixed quadratic that makes Z exist.

    E(x, y) = -f_y(x) + |W (x - mean)|^2 / (2 confine^2),    W = 1 / scale or a whitening

f has the stem and the blocks of the energy `resnet`, whose features are summed over positions, and a value for each
class (models/labelled.py). Class labels shift and scale the features after each block.
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
from ebm_lab.models.curved import Conv2d
from ebm_lab.models.labelled import Condition, Labelled
from ebm_lab.models.layers import Activated, Activation, ConfineShape, make_activation
from ebm_lab.models.levels import require_images
from ebm_lab.models.residual import initialise_blocks, residual_blocks


@register("energy", "labelled_resnet")
class LabelledResNet(Activated, Labelled, AnchoredImages):
    """Images (C, H, W) of any size, with class labels. `channels`: width per stage; `blocks`: residual blocks per
    stage; `condition`: how f depends on the class, by `logits` or by an `embedding`; `confine`: the quadratic's width
    in units of the data's scale, null for none; `confine_shape`: isotropic, or the data's covariance; `base`: a law
    fitted to the data in the quadratic's place (models/base.py)."""

    needs = (Need("dataset", "images"), Need("dataset", "classes"))

    def __init__(
        self,
        dataset: Dataset,
        *,
        channels: Annotated[list[PositiveInt], Field(min_length=1)],
        blocks: PositiveInt,
        condition: Condition,
        activation: Activation,
        confine: PositiveFloat | None,
        confine_shape: ConfineShape,
        confine_floor: PositiveFloat,
        base: BaseName,
    ) -> None:
        super().__init__()
        depth, _, _ = require_images(dataset, "labelled_resnet")
        self.build_anchor(dataset, base, confine, confine_shape, confine_floor)
        self.stem = Conv2d(depth, channels[0], 3, padding=1)
        self.blocks, widths = residual_blocks(channels, blocks, activation)
        self.last, self.head = make_activation(activation), nn.Linear(channels[-1], self.outputs(dataset, condition))
        initialise_blocks(self.blocks)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # faster on a CPU
        self.build_labels(dataset, condition, {str(i): width for i, width in enumerate(widths)}, self.head)

    def features(self, x: Tensor, y: Tensor | None) -> Tensor:
        h = self.through(self.blocks, self.stem(self.seen(x)), y)
        return self.head(self.last(h).sum((2, 3)))
