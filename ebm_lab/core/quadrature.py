"""Quadrature in one and two dimensions."""

import math
from functools import partial

import torch
from torch import Tensor

from ebm_lab.core.functional import EnergyFn, evaluate, in_parts


def grid_points(low: Tensor, high: Tensor, cells: int) -> tuple[Tensor, float]:
    """The (cells + 1)^d nodes of a box in d = 1 or 2 dimensions, as (N, d), and log of one cell's volume."""
    axes = [
        torch.linspace(a, b, cells + 1, device=low.device) for a, b in zip(low.tolist(), high.tolist(), strict=True)
    ]
    nodes = torch.cartesian_prod(*axes).view(-1, len(axes))
    return nodes, float(((high - low).double() / cells).log().sum())


@torch.no_grad()
def framed_log_density(energy: EnergyFn, data: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """(nodes, log p), (N, d) and (N,) in float64: -E normalised on a grid around the data, for pictures."""
    margin = 0.15 * (data.amax(0) - data.amin(0))
    nodes, log_cell = grid_points(data.amin(0) - margin, data.amax(0) + margin, cells)
    e = in_parts(partial(evaluate, energy), nodes, 65_536).double()
    return nodes, -e - (torch.logsumexp(-e, 0) + log_cell)


@torch.no_grad()
def grid_log_z(energy: EnergyFn, low: Tensor, high: Tensor, cells: int, chunk: int = 65_536) -> float:
    """log of the integral of exp(-E) over a box, in nats, by the trapezoid rule with `cells` cells a side."""
    nodes, log_cell = grid_points(low, high, cells)
    e = in_parts(partial(evaluate, energy), nodes, chunk).double()
    edge = ((nodes == low) | (nodes == high)).sum(1)
    return float(torch.logsumexp(-e - edge * math.log(2), 0)) + log_cell


def box_log_z(energy: EnergyFn, data: Tensor, cells: int, tolerance: float = 1e-4) -> tuple[float, float]:
    """(log Z, its last change): the box is the data's range with a margin of half of it, grown by 3/2 until log Z
    changes by less than `tolerance` nats, at most four times; the cells keep their size up to three times `cells`."""
    low, high = data.amin(0), data.amax(0)
    centre, half, log_z = (low + high) / 2, (high - low), -math.inf
    change = math.inf
    for growth in range(5):
        n = round(cells * min(3.0, 1.5**growth))
        new = grid_log_z(energy, centre - half * 1.5**growth, centre + half * 1.5**growth, n)
        change, log_z = abs(new - log_z), new
        if change < tolerance:
            break
    return log_z, change
