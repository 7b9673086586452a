"""Adam with decoupled weight decay."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import nn

from ebm_lab.core.registry import register
from ebm_lab.training.optimiser import Decay, Optimiser, decay_of
from ebm_lab.training.schedules import Schedule
from ebm_lab.training.uncompiled import uncompiled

Beta = Annotated[float, Field(ge=0, lt=1)]


@register("optim", "adam")
class Adam(Optimiser):
    """Adam with decoupled weight decay: Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        steps: int,
        energy: nn.Module | None = None,
        *,
        lr: PositiveFloat,
        beta1: Beta,
        beta2: Beta,
        weight_decay: Decay,
        schedule: Schedule,
        warmup: NonNegativeInt,
        clip: PositiveFloat | None,
    ) -> None:
        adam = uncompiled(torch.optim.AdamW)(parameters, lr, (beta1, beta2), weight_decay=0.0, fused=True)
        super().__init__(adam, steps, schedule, warmup, clip, decay_of(weight_decay, energy))
        self.resolved = {"weight_decay": self.decay} if weight_decay == "auto" else {}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        for group in self.optimiser.param_groups:  # older checkpoints left the decay to torch
            group["weight_decay"] = 0.0
