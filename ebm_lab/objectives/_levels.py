"""Noise levels drawn for a batch, for objectives that denoise the data at all levels of a ladder."""

import math

import torch
from torch import Generator, Tensor

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
    equal probability.

    Tero Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, table 1 (the law).
    """
    low, high = (
        0.5 * math.erfc(-math.log(end / median) / (std * math.sqrt(2))) for end in (ladder.sigma_min, ladder.sigma_max)
    )
    u = low + (high - low) * stratified(n, generator, like)
    sigma = median * torch.exp(std * torch.special.ndtri(u))
    return sigma.clamp(ladder.sigma_min, ladder.sigma_max)
