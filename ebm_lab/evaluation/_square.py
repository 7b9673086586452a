"""A square grid around points of the plane, for pictures with equal axes."""

import torch
from torch import Tensor


def square_around(x: Tensor, side: int) -> Tensor:
    """Return side^2 nodes of a square grid around the points x (n, 2), a little wider than they are, the first
    coordinate slowest; around a single place from 1 below it to 1 above."""
    low, high = x.amin(0), x.amax(0)
    middle, reach = (low + high) / 2, 0.57 * float((high - low).max()) or 1.0
    axes = [torch.linspace(float(m) - reach, float(m) + reach, side).to(x) for m in middle]
    return torch.cartesian_prod(*axes)
