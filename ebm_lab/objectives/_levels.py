"""Noise levels drawn for a batch, for objectives that denoise the data at all levels of a ladder."""

import math

import torch
from torch import Generator, Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.models.ladder import Ladder


def stratified(n: int, generator: Generator, like: Tensor) -> Tensor:
    """Draw fractions (n,), the i-th uniform in [i / n, (i + 1) / n), to cover [0, 1) more evenly than independent
    draws; each by itself, in random order, is uniform."""
    u = torch.empty(n, dtype=like.dtype, device=like.device).uniform_(generator=generator)
    return (torch.arange(n, device=like.device) + u) / n


def draw_levels(ladder: Ladder, n: int, discrete: bool, generator: Generator, like: Tensor) -> Tensor:
    """Draw levels (n,) with log sigma uniform, one in each of n equal parts of the ladder, to cover all of it."""
    u = stratified(n, generator, like)
    if discrete:
        u = (u * ladder.levels).floor().clamp_max(ladder.levels - 1) / (ladder.levels - 1)
    return ladder.spread(u)


def draw_log_normal(ladder: Ladder, n: int, median: float, std: float, generator: Generator, like: Tensor) -> Tensor:
    """Draw levels (n,) with log sigma ~ N(log median, std^2), cut off at the ladder's ends, one in each of n parts of
    equal probability, also where most of the law lies beyond an end. Raises UserError where all of it does.

    Tero Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, table 1 (the law).
    """
    low, high, side = shares(ladder, median, std)
    u = stratified(n, generator, like).double()
    share = low + (high - low) * (u if side > 0 else 1 - u)
    sigma = median * torch.exp(side * std * torch.special.ndtri(share))
    return sigma.clamp(ladder.sigma_min, ladder.sigma_max).to(like)


def shares(ladder: Ladder, median: float, std: float) -> tuple[float, float, int]:
    """Return the probabilities that log sigma ~ N(log median, std^2) is below either end of the ladder, in rising
    order, and 1; or those that it is above, and -1, if these are the smaller ones, which have more digits.

    Raises UserError if no level between the ends has a probability.
    """
    ends = [math.log(end / median) / std for end in (ladder.sigma_min, ladder.sigma_max)]
    side = 1 if sum(ends) < 0 else -1
    low, high = sorted(0.5 * math.erfc(-side * end / math.sqrt(2)) for end in ends)
    if not low < high:
        raise UserError(
            f"objective.levels=log_normal: no noise level between energy.sigma_min={ladder.sigma_min:g} and "
            f"energy.sigma_max={ladder.sigma_max:g} has a probability: objective.log_mean puts the median at {median:g}"
            f", with objective.log_std={std:g}"
        )
    return low, high, side
