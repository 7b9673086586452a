"""Optimisers with a learning-rate schedule, gradient clipping and weight decay; each player has its own.

Decoupled weight decay, before each update:  theta <- (1 - lr decay) theta

`auto` decays where an energy corrects a base, E = -log base + f, in d dimensions by min(1/2, d / 20), else not at all:
it draws f towards 0, the base itself, and the more dimensions there are, the sooner f learns its training points by
heart.

Ilya Loshchilov and Frank Hutter, Decoupled Weight Decay Regularization, 2019.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import nn

from ebm_lab.distributions.base import base_of
from ebm_lab.training.schedules import Schedule, factor

Decay = NonNegativeFloat | Literal["auto"]
MOST, PER_DIMENSION = 0.5, 0.05
"""`auto` decays by PER_DIMENSION d, at most by MOST."""


def decay_of(setting: Decay, energy: nn.Module | None) -> float:
    """Return the weight decay of a setting for this energy."""
    if setting != "auto":
        return setting
    base = base_of(energy)
    return 0.0 if base is None else min(MOST, PER_DIMENSION * base.base.dimensions)


class Optimiser:
    """Combine a torch optimiser with a schedule over `steps` and gradient clipping to norm `clip` (null: none).

    decay: decoupled weight decay of all parameters but single numbers, such as a learnt log Z.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        steps: int,
        schedule: Schedule,
        warmup: int,
        clip: float | None,
        decay: float = 0.0,
    ) -> None:
        self.optimiser, self.steps, self.warmup, self.clip, self.decay = optimiser, steps, warmup, clip, decay
        self.schedule: Schedule = schedule
        self.base: float = optimiser.param_groups[0]["lr"]
        """Base learning rate, which the schedule's factor multiplies; each rollback halves it."""
        self.parameters: list[torch.Tensor] = optimiser.param_groups[0]["params"]
        self.resolved: dict[str, float | str] = {}
        """Settings given as `auto`, with the values chosen."""

    def step(self, step: int) -> torch.Tensor:
        """Update the parameters at training step `step` and clear their gradients; returns the gradient norm, 0-d."""
        max_norm = float("inf") if self.clip is None else self.clip
        norm = nn.utils.clip_grad_norm_(self.parameters, max_norm, foreach=True)
        lr = self.rate(step)
        if self.decay:
            torch._foreach_mul_([p.data for p in self.parameters if self.decays(p)], 1 - lr * self.decay)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    def decays(self, parameter: torch.Tensor) -> bool:
        """Does weight decay act on this parameter, one with a gradient?"""
        return parameter.ndim > 0 and parameter.grad is not None

    def rate(self, step: int) -> float:
        """Set and return the learning rate of training step `step`."""
        lr = self.base * factor(self.schedule, step, self.steps, self.warmup)
        self.optimiser.param_groups[0]["lr"] = lr
        return lr

    def state_dict(self) -> dict:
        return self.optimiser.state_dict() | {"base": self.base}

    def load_state_dict(self, state: dict) -> None:
        self.base = state["base"]
        self.optimiser.load_state_dict({k: v for k, v in state.items() if k != "base"})


def norm_names(optimisers: Mapping[str, Optimiser]) -> list[str]:
    """Return the metric name of each player's gradient norm."""
    return [f"grad_norm_{name}" for name in optimisers] if len(optimisers) > 1 else ["grad_norm"]


def step_all(
    optimisers: Mapping[str, Optimiser], step: int, movers: Collection[str] | None = None
) -> dict[str, torch.Tensor]:
    """Take training step `step` with the movers' optimisers (None: all); returns gradient norms by metric name."""
    names = dict(zip(optimisers, norm_names(optimisers), strict=True))
    moving = optimisers if movers is None else movers
    return {names[player]: optimisers[player].step(step) for player in names if player in moving}
