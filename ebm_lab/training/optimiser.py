"""Optimisers with their learning-rate schedule: one per player."""

from collections.abc import Collection, Mapping

import torch
from torch import nn

from ebm_lab.training.schedules import Schedule, factor


class Optimiser:
    """A torch optimiser, its schedule over `steps`, and gradient clipping by global norm (null: none)."""

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
        """What the schedule's factor multiplies; a rollback halves it."""
        self.parameters = optimiser.param_groups[0]["params"]

    def step(self, step: int) -> torch.Tensor:
        """Update the parameters at training step `step`, clear their gradients; returns the gradient's norm, 0-d."""
        max_norm = float("inf") if self.clip is None else self.clip
        norm = nn.utils.clip_grad_norm_(self.parameters, max_norm, foreach=True)
        self.rate(step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    def rate(self, step: int) -> float:
        """Set the learning rate of training step `step`, and return it."""
        lr = self.base * factor(self.schedule, step, self.steps, self.warmup)
        self.optimiser.param_groups[0]["lr"] = lr
        return lr

    def state_dict(self) -> dict:
        return self.optimiser.state_dict() | {"base": self.base}

    def load_state_dict(self, state: dict) -> None:
        self.base = state["base"]
        self.optimiser.load_state_dict({k: v for k, v in state.items() if k != "base"})


def norm_names(optimisers: Mapping[str, Optimiser]) -> list[str]:
    """What the log calls each player's norm of gradients."""
    return [f"grad_norm_{name}" for name in optimisers] if len(optimisers) > 1 else ["grad_norm"]


def step_all(
    optimisers: Mapping[str, Optimiser], step: int, movers: Collection[str] | None = None
) -> dict[str, torch.Tensor]:
    """Let the movers' optimisers, None: all, take training step `step`; their gradients' norms, by name."""
    names = dict(zip(optimisers, norm_names(optimisers), strict=True))
    moving = optimisers if movers is None else movers
    return {names[player]: optimisers[player].step(step) for player in names if player in moving}
