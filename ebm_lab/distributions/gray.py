"""Points of the plane as bits in Gray code, and the law of the bits that a density gives them.

    k_j = floor(scale x_j) + 2^(m - 1),   clipped to 0 .. 2^m - 1;    g = k xor (k >> 1), the highest bit first
    log P(bits) = log p(centre of the cell) - 2 log scale,    centre of the cell = (k + 1/2 - 2^(m - 1)) / scale

Numbers that differ by one differ in one bit of their code. P takes the density at the middle of a cell in place of its
mean over the cell: the error falls as the square of the cell's side over the width of the density's features. The
entropy of the bits, in nats, is then that of the density plus 2 log scale.

Frank Gray, Pulse code communication, US patent 2,632,058, 1953.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebm_lab.core.interfaces import Distribution


@dataclass(frozen=True)
class GrayCode:
    """per_axis: m, the bits of each of the two coordinates; scale: cells in a unit of length."""

    per_axis: int
    scale: float

    @property
    def _half(self) -> int:
        return 2 ** (self.per_axis - 1)

    def _places(self) -> Tensor:
        return torch.arange(self.per_axis - 1, -1, -1)

    def encode(self, points: Tensor) -> Tensor:
        """Map points (n, 2) to bits (n, 2 m)."""
        k = ((points.double() * self.scale).floor().long() + self._half).clamp(0, 2 * self._half - 1)
        gray = k ^ (k >> 1)
        return (gray.unsqueeze(2) >> self._places() & 1).flatten(1).to(torch.get_default_dtype())

    def decode(self, bits: Tensor) -> Tensor:
        """Map bits (n, 2 m) to the centres of their cells, (n, 2) in float64 on the bits' device."""
        binary = bits.round().long().view(len(bits), 2, self.per_axis).cumsum(2) % 2  # bit j is the xor of g's up to j
        k = (binary << self._places().to(bits.device)).sum(2)
        return (k.double() + 0.5 - self._half) / self.scale


@dataclass(frozen=True)
class Coded:
    """The law of the bits of points from `law`, a density on the plane."""

    law: Distribution
    code: GrayCode

    def sample(self, n: int, generator: Generator) -> Tensor:
        return self.code.encode(self.law.sample(n, generator))

    def log_prob(self, x: Tensor) -> Tensor:
        """Compute log P in nats, (B, 2 m) -> (B,) in float64."""
        return self.law.log_prob(self.code.decode(x)) - 2 * math.log(self.code.scale)
