"""Adam with decoupled weight decay."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import nn

from ebm_lab.core.registry import register
from ebm_lab.training.optimiser import Optimiser
from ebm_lab.training.schedules import Schedule

Beta = Annotated[float, Field(ge=0, lt=1)]


@register("optim", "adam")
class Adam(Optimiser):
    """Adam with decoupled weight decay: Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        steps: int,
        *,
        lr: PositiveFloat,
        beta1: Beta,
        beta2: Beta,
        weight_decay: NonNegativeFloat,
        schedule: Schedule,
        warmup: NonNegativeInt,
        clip: PositiveFloat | None,
    ) -> None:
        adam = torch.optim.AdamW(parameters, lr, (beta1, beta2), weight_decay=weight_decay, fused=True)
        super().__init__(adam, steps, schedule, warmup, clip)
