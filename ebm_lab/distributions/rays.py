"""Whether exp(-E) has an integral, probed along rays: how much E grows from 10 to 1000 scales away from the data.

    the integral of exp(-E) in d dimensions exists only if, far out,  E(r') - E(r) > d log(r' / r)  on nearly all rays

A probe sees the directions that it looks in: every axis of up to 32, both ways, and 64 random ones. It can't prove that
an integral exists; where an energy falls, it does not.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from ebm_lab.core.functional import EnergyFn, evaluate, in_parts
from ebm_lab.core.random import stream

RADII = (10.0, 30.0, 100.0, 300.0, 1000.0)
"""Distances from the centres, in units of the scale."""


def directions(like: Tensor) -> Tensor:
    """Return unit vectors (rays, *shape): up to 32 axes in both directions, and 64 random ones, always the same."""
    d = like.numel()
    axes = torch.eye(d)[torch.linspace(0, d - 1, min(d, 32)).round().long()]
    random = torch.randn(64, d, generator=stream(0, "rays"))
    rays = torch.cat([axes, -axes, random / random.norm(dim=1, keepdim=True)])
    return rays.view(-1, *like.shape).to(like)


@torch.no_grad()
def energies_along(energy: EnergyFn, centres: Tensor, scale: float) -> Tensor:
    """Compute E along the rays from each centre (c, *shape): (c rays, radii) in float64."""
    rays = directions(centres[0])
    r = torch.tensor(RADII).to(rays).view(-1, *[1] * rays.ndim) * scale
    points = (centres[:, None, None] + r * rays).flatten(0, 2)  # (c, radii, rays, *shape) in one row
    e = in_parts(lambda x: evaluate(energy, x), points, 4096).double().cpu()
    return e.view(len(centres), len(RADII), len(rays)).transpose(1, 2).flatten(0, 1)


def growth(e: Tensor) -> Tensor:
    """Return how much energies (rays, radii) grow between neighbouring radii, (rays, radii - 1); nan where one of them
    is."""
    return e[:, 1:] - e[:, :-1]


def needed(d: int, pairs: Tensor) -> Tensor:
    """Return how much E must grow at least between the radii, (rays, radii - 1): d log of their ratio on a ray's last
    pair with finite `pairs`, where the law's tail is, and 0 before."""
    ratios = torch.tensor([d * math.log(b / a) for a, b in pairwise(RADII)])
    finite = pairs.isfinite()
    last = finite & (finite.flip(1).cumsum(1).flip(1) == 1)
    return torch.where(last, ratios.double(), 0.0)


def falling(d: int, pairs: Tensor) -> Tensor:
    """Return which rays rule out an integral in d dimensions, (rays,), from the growth (rays, radii - 1)."""
    return (pairs <= needed(d, pairs)).any(1)
