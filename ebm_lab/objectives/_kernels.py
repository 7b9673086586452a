"""A Gaussian kernel that displaces points, and the log ratio of its two directions.

    x' = m + r (x - m) + w z,    z ~ N(0, I)
    log p_c(x' | x) - log p_c(x | x') = (1 - r^2) (|x - m|^2 - |x' - m|^2) / (2 w^2)

With r = 1 the kernel is symmetric and the log ratio is 0; with r < 1 it pulls towards m, and is reversible under
N(m, w^2 / (1 - r^2) I).
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebm_lab.core.functional import flat_sum, per_sample


def move(x: Tensor, z: Tensor, centre: Tensor, pull: float, width: Tensor) -> tuple[Tensor, Tensor]:
    """Return (x', log p_c(x' | x) - log p_c(x | x')), (B, *shape) and (B,), with r = 1 - pull and widths w (B,)."""
    r, wide = 1 - pull, per_sample(width, x)
    if r == 1:
        return x + wide * z, torch.zeros_like(width)
    new = centre + r * (x - centre) + wide * z
    nearer = flat_sum((x - centre) ** 2) - flat_sum((new - centre) ** 2)
    return new, (1 - r * r) * nearer / (2 * width**2)


@dataclass(frozen=True)
class Kernel:
    """The kernel with a random width per point.

    `centre`: m, (*shape). `pull`: 1 - r. Each width is log-uniform in [narrow, wide], in data units. The ratio is
    conditional on the pair's width, so that the formula holds.
    """

    centre: Tensor
    pull: float
    narrow: float
    wide: float

    def __call__(self, x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return (x', log p_c(x' | x) - log p_c(x | x')) for random z and widths."""
        z = torch.empty_like(x).normal_(generator=generator)
        low, high = math.log(self.narrow), math.log(self.wide)
        width = torch.empty(len(x), dtype=x.dtype, device=x.device).uniform_(generator=generator)
        return move(x, z, self.centre, self.pull, (low + (high - low) * width).exp())
