"""Noise levels drawn for a batch, for objectives that denoise the data at all levels of a ladder."""

import torch
from torch import Generator, Tensor

from ebm_lab.models.ladder import Ladder


def draw_levels(ladder: Ladder, n: int, discrete: bool, generator: Generator, like: Tensor) -> Tensor:
    """Draw levels (n,) with log sigma uniform, one in each of n equal parts of the ladder, to cover all of it."""
    u = torch.empty(n, dtype=like.dtype, device=like.device).uniform_(generator=generator)
    u = (torch.arange(n, device=like.device) + u) / n
    if discrete:
        u = (u * ladder.levels).floor().clamp_max(ladder.levels - 1) / (ladder.levels - 1)
    return ladder.spread(u)
