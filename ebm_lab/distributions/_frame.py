"""Coordinates of the line or the plane in which data of any scale lie near the origin, and distant points are near.

    x = c + A sinh u

with c the median of the data, and A the scale of their quartiles along each axis; the axes are the principal ones if
the coordinates are correlated.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

REACH, SCANNED = 1e7, 1e4
"""How far the cells and the scan reach along each axis, in units of the data's scale."""


@dataclass(frozen=True)
class Frame:
    """x = centre + matrix sinh(u), (N, d) in float64, for |u_i| <= reach_i, and <= scanned_i for the scan; `like`: a
    point of the energy's dtype."""

    centre: Tensor
    matrix: Tensor
    reach: Tensor
    scanned: Tensor
    like: Tensor

    def x(self, u: Tensor) -> Tensor:
        return (self.centre + u.sinh() @ self.matrix.T).to(self.like)

    def u(self, x: Tensor) -> Tensor:
        return torch.linalg.solve(self.matrix, (x.double() - self.centre).T).T.asinh()

    def log_volume(self, u: Tensor) -> Tensor:
        """Compute log |dx / du|, (N,)."""
        return torch.linalg.slogdet(self.matrix).logabsdet + u.cosh().log().sum(-1)


def frame_of(data: Tensor) -> Frame:
    """Return the frame for data (n, d), d = 1 or 2. A coordinate that never changes gets the scale of the other, or 1.

    The principal axes are orthogonal in x, so that round modes are not sheared, unless the coordinates' own scales
    differ so much that the axes would be lost in rounding."""
    x = data.double()
    centre, scale = x.median(0).values, _scale(x)
    turn = torch.eye(len(scale)).to(x)
    v = ((x - centre) / scale).clamp(-5, 5)
    covariance = v.T @ v / len(v)
    odds = torch.linalg.eigvalsh(covariance)
    if len(x) > 2 and float(odds[-1]) > 4 * float(odds[0]):
        unit = scale if float(scale.max()) > 1e4 * float(scale.min()) else scale.max().expand(len(scale))
        turn = unit[:, None] * torch.linalg.eigh(covariance * (scale / unit).outer(scale / unit)).eigenvectors
        scale = _scale(torch.linalg.solve(turn, (x - centre).T).T)
    matrix = turn * scale
    spread = torch.linalg.solve(matrix, (x - centre).T).abs().amax(1)
    return Frame(centre, matrix, (REACH + 10 * spread).asinh(), (SCANNED + 10 * spread).asinh(), data[:1])


def _scale(x: Tensor) -> Tensor:
    """Return half the distance between the quartiles of each column of x (n, d), or its standard deviation if that is
    0."""
    quartiles = np.quantile(x.cpu().numpy(), [0.25, 0.75], axis=0)
    wide = torch.from_numpy((quartiles[1] - quartiles[0]) / 1.35).to(x)
    scale = torch.where(wide > 0, wide, x.std(0, correction=0))
    largest = float(scale.max())
    return torch.where(scale > 1e-12 * largest, scale, largest) if largest > 0 else torch.ones_like(scale)
