"""Quadrature in one and two dimensions: log Z by adaptive cubature, and sums on a regular grid."""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_lab.core.functional import EnergyFn, evaluate, in_parts
from ebm_lab.distributions.cubature import Cubature, NoIntegral


class LogZ(NamedTuple):
    """log Z in nats, with its reliability.

    change: how much the outermost decade, out to ten million data scales, adds to it; bound: a bound of the error
    within that reach; trouble: why `value` is nan, in words.
    """

    value: float
    change: float = 0.0
    bound: float = 0.0
    trouble: str | None = None

    @property
    def sound(self) -> bool:
        """Whether its error is below a hundredth of a nat."""
        return math.isfinite(self.value) and max(self.change, self.bound) <= 0.01


def budget(cells: int) -> int:
    """Return how many energy evaluations a cubature may take if the user allows `cells` cells a side."""
    return max(50_000, 8 * cells**2)


def cubature_log_z(energy: EnergyFn, data: Tensor, cells: int) -> LogZ:
    """Compute log of the integral of exp(-E) over the line or the plane, with at most about 8 cells^2 evaluations of E.

    The value is nan if E is nan or -inf somewhere. `data` (n, d): points near which most of the mass is expected; mass
    elsewhere is sought too.
    """
    try:
        found = Cubature(energy, data, budget(cells))
    except NoIntegral as problem:
        return LogZ(math.nan, math.nan, math.nan, str(problem))
    return LogZ(found.log_z, found.change, found.bound)


def box_log_z(energy: EnergyFn, data: Tensor, cells: int) -> tuple[float, float]:
    """Return the first two numbers of `cubature_log_z`."""
    return cubature_log_z(energy, data, cells)[:2]


def grid_points(low: Tensor, high: Tensor, cells: int) -> tuple[Tensor, float]:
    """Return the (cells + 1)^d nodes of a box in d = 1 or 2 dimensions, as (N, d), and log of one cell's volume."""
    axes = [
        torch.linspace(a, b, cells + 1, dtype=low.dtype, device=low.device)
        for a, b in zip(low.tolist(), high.tolist(), strict=True)
    ]
    nodes = torch.cartesian_prod(*axes).view(-1, len(axes))
    return nodes, float(((high - low).double() / cells).log().sum())


@torch.no_grad()
def framed_log_density(
    energy: EnergyFn, data: Tensor, cells: int, log_z: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute (nodes, log p, log Z), (N, d), (N,) and 0-d in float64, for pictures: -E - log Z on a grid around the
    data, and log Z by that grid unless it is given.

    A coordinate that never changes is drawn as wide as the other, or from 1 below to 1 above."""
    width = data.amax(0) - data.amin(0)
    least = 1e-12 if width.dtype == torch.float64 else 1e-6
    width = torch.where(width > least * width.amax(), width, width.amax() if bool(width.amax() > 0) else 2.0)
    middle, reach = (data.amin(0) + data.amax(0)) / 2, 0.65 * width
    nodes, log_cell = grid_points(middle - reach, middle + reach, cells)
    e = in_parts(partial(evaluate, energy), nodes, 65_536).double()
    log_z = torch.logsumexp(-e, 0) + log_cell if log_z is None else log_z
    return nodes, -e - log_z, log_z


@torch.no_grad()
def grid_log_z(energy: EnergyFn, low: Tensor, high: Tensor, cells: int, chunk: int = 65_536) -> float:
    """Compute log of the integral of exp(-E) over a box, in nats, by the trapezoid rule with `cells` cells a side."""
    nodes, log_cell = grid_points(low, high, cells)
    e = in_parts(partial(evaluate, energy), nodes, chunk).double()
    edge = ((nodes == low) | (nodes == high)).sum(1)
    return float(torch.logsumexp(-e - edge * math.log(2), 0)) + log_cell
