"""Detection scores of evaluation=ood that need more than one line: each is higher the more x looks like the data."""

from typing import cast

import torch
from torch import Tensor

from ebm_lab.core.eval_view import EvalView
from ebm_lab.core.features import features_of
from ebm_lab.core.functional import EnergyFn, flat_sum, gradient_of, in_parts, per_sample
from ebm_lab.core.interfaces import Energy

STEP_SIZE = 0.25
"""The step of `refined`, in units of the data's scale, for runs whose sampler has no fixed one."""


def residual(s: Tensor, z: Tensor, sigma: float) -> Tensor:
    """Return |sigma s + z|^2 / d, (B,), for the score s at x + sigma z; its mean is 1 if s is 0 everywhere."""
    return flat_sum((sigma * s + z) ** 2) / z[0].numel()


def energy_lost(energy: EnergyFn, x: Tensor, steps: int, eps: float) -> Tensor:
    """Return E(x_K) - E(x), (B, *shape) -> (B,), after K = `steps` steps x <- x - (eps^2 / 2) grad E(x).

    A step that would raise a point's energy, or leave it without one, is not taken, and this point's eps^2 is halved:
    the result is never above 0.
    """
    at = gradient_of(energy)
    before, slope = at(x)
    e, rate = before, torch.full_like(before, eps**2 / 2)
    for _ in range(steps):
        y = x - per_sample(rate, x) * slope
        e_new, slope_new = at(y)
        lower = e_new <= e
        taken = per_sample(lower, x)
        x, slope = torch.where(taken, y, x), torch.where(taken, slope_new, slope)
        e, rate = torch.where(lower, e_new, e), torch.where(lower, rate, rate / 2)
    return e - before


def can_refine(view: EvalView) -> bool:
    """Return whether x can move down its energy by small steps."""
    return view.has("energy") and view.has("score") and "continuous" in features_of(view.dataset)


def step_size(view: EvalView) -> float:
    """Return the step of the run's sampler in units of the data's scale if it is fixed, else STEP_SIZE."""
    sampler = view.sampler
    return STEP_SIZE if sampler is None or sampler.reach is None else (sampler.reach / sampler.steps) ** 0.5


@torch.no_grad()
def certainty(view: EvalView, x: Tensor) -> dict[str, Tensor]:
    """Return `max_prob`, max_y p(y | x), and `entropy`, -H(y | x) in nats, (n,) each, of a model with labels."""
    log_p = in_parts(cast(Energy, view.energy).logits, x, 1024).double().log_softmax(1)
    return {"max_prob": log_p.amax(1).exp(), "entropy": torch.special.xlogy(log_p.exp(), log_p.exp()).sum(1)}


def nearness(x: Tensor, train: Tensor) -> Tensor:
    """Return minus the distance to the nearest training point, (n, *shape) -> (n,)."""
    return -in_parts(lambda part: torch.cdist(part.flatten(1), train.flatten(1).to(part)).amin(1), x, 256)
