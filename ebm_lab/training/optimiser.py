"""Optimisers with a learning-rate schedule and gradient clipping; each player has its own."""

from collections.abc import Collection, Mapping

import torch
from torch import nn

from ebm_lab.training.schedules import Schedule, factor


class Optimiser:
    """Combine a torch optimiser with a schedule over `steps` and gradient clipping to norm `clip` (null: none)."""

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        steps: int,
        schedule: Schedule,
        warmup: int,
        clip: float | None,
    ) -> None:
        self.optimiser, self.steps, self.warmup, self.clip = optimiser, steps, warmup, clip
        self.schedule: Schedule = schedule
        self.base: float = optimiser.param_groups[0]["lr"]
        """Base learning rate, which the schedule's factor multiplies; each rollback halves it."""
        self.parameters = optimiser.param_groups[0]["params"]

    def step(self, step: int) -> torch.Tensor:
        """Update the parameters at training step `step` and clear their gradients; returns the gradient norm, 0-d."""
        max_norm = float("inf") if self.clip is None else self.clip
        norm = nn.utils.clip_grad_norm_(self.parameters, max_norm, foreach=True)
        self.rate(step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

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
