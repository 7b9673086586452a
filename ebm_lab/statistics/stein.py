"""Kernel Stein discrepancy: the distance of points from a model whose score is known.

    KSD^2 = E h(x, x'),    h(x, y) = s(x)'s(y) k + s(x)' grad_y k + grad_x k' s(y) + tr(grad_x grad_y' k)

with x, x' independent draws of the points' law q and s the model's score. KSD is 0 where q is the model and positive
elsewhere, and no log Z is needed. With B = 1 + |x - y|^2 / c^2 the inverse multiquadric kernel has

    k = B^-1/2,    grad_x k = -(x - y) B^-3/2 / c^2 = -grad_y k,
    tr(grad_x grad_y' k) = d B^-3/2 / c^2 - 3 |x - y|^2 B^-5/2 / c^4

Thanks to its slow decay, KSD detects mass that escapes to infinity.

Qiang Liu, Jason Lee and Michael Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, 2016, theorem 3.6
and section 4, arXiv:1602.03253. Jackson Gorham and Lester Mackey, Measuring Sample Quality with Kernels, 2017,
theorem 8, arXiv:1703.01717.
"""

import torch
from torch import Tensor


def imq_stein_kernel(x: Tensor, s: Tensor, c: float) -> Tensor:
    """Compute h between all pairs of x (..., n, d) with the model's scores s (..., n, d): (..., n, n)."""
    d, r2 = x.shape[-1], torch.cdist(x, x).square()
    b = 1 + r2 / c**2
    sx = s @ x.mT  # s_i . x_j
    own = sx.diagonal(dim1=-2, dim2=-1)
    cross = own.unsqueeze(-1) + own.unsqueeze(-2) - sx - sx.mT  # (s_i - s_j) . (x_i - x_j)
    return (s @ s.mT) * b**-0.5 + (cross + d) * b**-1.5 / c**2 - 3 * r2 * b**-2.5 / c**4


def u_statistic(h: Tensor) -> Tensor:
    """Average h (..., n, n) over its pairs i != j, (...): an unbiased estimate of E h(x, x'), which can be negative."""
    n = h.shape[-1]
    return (h.sum((-1, -2)) - h.diagonal(dim1=-2, dim2=-1).sum(-1)) / (n * (n - 1))


def wild_bootstrap(h: Tensor, w: Tensor) -> Tensor:
    """Draw from the U-statistic's law under the hypothesis that the points were the model's: sum_{i != j} w_i w_j h_ij
    / (n (n - 1)), (..., B), for independent signs w (..., B, n). It is right for large n, where E h(x, .) = 0 under the
    model.

    Kacper Chwialkowski, Heiko Strathmann and Arthur Gretton, A Kernel Test of Goodness of Fit, 2016,
    arXiv:1602.02964, for independent points.
    """
    n = h.shape[-1]
    return (((w @ h) * w).sum(-1) - h.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)) / (n * (n - 1))


def bootstrap_std(h: Tensor) -> Tensor:
    """Compute the std of `wild_bootstrap` over all signs, sqrt(2 sum_{i != j} h_ij^2) / (n (n - 1)), (...)."""
    n = h.shape[-1]
    square = h.square().sum((-1, -2)) - h.diagonal(dim1=-2, dim2=-1).square().sum(-1)
    return (2 * square).sqrt() / (n * (n - 1))
