"""Stochastic gradient descent with momentum."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import nn

from ebm_lab.core.registry import register
from ebm_lab.training.optimiser import Optimiser
from ebm_lab.training.schedules import Schedule

Momentum = Annotated[float, Field(ge=0, lt=1)]


@register("optim", "sgd")
class SGD(Optimiser):
    """Stochastic gradient descent with momentum."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        steps: int,
        *,
        lr: PositiveFloat,
        momentum: Momentum,
        weight_decay: NonNegativeFloat,
        schedule: Schedule,
        warmup: NonNegativeInt,
        clip: PositiveFloat | None,
    ) -> None:
        sgd = torch.optim.SGD(parameters, lr, momentum, weight_decay=weight_decay, fused=True)
        super().__init__(sgd, steps, schedule, warmup, clip)
