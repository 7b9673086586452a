"""A noise level for a data set: the bandwidth that maximises the leave-one-out likelihood.

On n points, the score model that minimises the denoising objective at noise level sigma is the kernel density
estimate q_sigma(x) = (1/n) sum_i N(x; x_i, sigma^2 I), so choosing sigma is choosing that estimate's bandwidth.
The leave-one-out likelihood sum_j log (1/(n-1)) sum_{i != j} N(x_j; x_i, sigma^2 I) is the standard criterion.

Pascal Vincent, A Connection Between Score Matching and Denoising Autoencoders, 2011, section 4.
R. P. W. Duin, On the Choice of Smoothing Parameters for Parzen Estimators, 1976.
"""

import math

import torch
from torch import Tensor

from ebm_lab.core.random import subset


def leave_one_out(x: Tensor, sigmas: Tensor, queries: int = 500) -> Tensor:
    """Compute the mean leave-one-out log-likelihood in nats, (n, *shape) and (S,) -> (S,), over the first `queries`
    points, which must be in random order."""
    flat = x.flatten(1).double()
    n, d = flat.shape
    m = min(queries, n)
    square = torch.cdist(flat[:m], flat).square_()
    square[torch.arange(m), torch.arange(m)] = torch.inf
    nearest = square.amin(1)
    excess = (nearest[:, None] - square).float()  # small where it matters, so that float32 is enough
    values = []
    for s in sigmas.tolist():
        weights = excess.div(2 * s * s).clamp_(min=-80).exp_()  # the largest is 1, and exp is slow where it underflows
        values.append(weights.sum(1).double().log().mean() - nearest.mean() / (2 * s * s) - d * math.log(s))
    return torch.stack(values) - math.log(n - 1) - 0.5 * d * math.log(2 * math.pi)


def distinct(x: Tensor, most: int = 20_000) -> Tensor:
    """Return the distinct rows among `most` rows of x (n, *shape), flattened, on the CPU and in random order."""
    points = torch.unique(subset(x, most).flatten(1).cpu(), dim=0)
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]


def bandwidth(x: Tensor, scale: float) -> float:
    """Return the maximiser of `leave_one_out` over [scale / 1000, scale], to two digits; at most 20,000 points are
    used.

    Repeated points are dropped first, because they would drive the maximiser to zero. The maximiser grows with the
    dimension, and so does the cost of blurring the data by it, which blur.py bounds.
    """
    points = distinct(x)
    low, high = math.log(scale / 1000), math.log(scale)
    for _ in range(2):
        grid = torch.linspace(low, high, 13, dtype=torch.float64)
        best, width = grid[int(leave_one_out(points, grid.exp()).argmax())].item(), (high - low) / 12
        low, high = best - width, best + width
    return float(f"{math.exp(best):.2g}")
