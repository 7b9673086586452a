"""Stochastic gradient descent with momentum."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import nn

from ebm_lab.core.registry import register
from ebm_lab.training.optimiser import Decay, Optimiser, decay_of
from ebm_lab.training.schedules import Schedule
from ebm_lab.training.uncompiled import uncompiled

Momentum = Annotated[float, Field(ge=0, lt=1)]


@register("optim", "sgd")
class SGD(Optimiser):
    """Stochastic gradient descent with momentum."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        steps: int,
        energy: nn.Module | None = None,
        *,
        lr: PositiveFloat,
        momentum: Momentum,
        weight_decay: Decay,
        schedule: Schedule,
        warmup: NonNegativeInt,
        clip: PositiveFloat | None,
    ) -> None:
        l2 = decay_of(weight_decay, energy)
        sgd = uncompiled(torch.optim.SGD)(parameters, lr, momentum, weight_decay=l2, fused=True)
        super().__init__(sgd, steps, schedule, warmup, clip)
        self.resolved = {"weight_decay": l2} if weight_decay == "auto" else {}
