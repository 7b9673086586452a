"""Entropy of a law from its samples alone, by the distances to their nearest neighbours.

    H = mean_i [ d log rho_i ] + log V_d + psi(n) - psi(1),    rho_i = min_(j != i) |x_i - x_j|

with V_d the volume of the unit ball in d dimensions. It is unbiased where the density is constant around each point,
else biased by O(n^(-2 / d)); a change of scale is always exact, H(c x) = H(x) + d log c. It is differentiable in x; the
derivative is that of H in the mean, and has a finite variance only in d >= 3, where 1 / rho has one. Points that
coincide give -inf.

L. F. Kozachenko and N. N. Leonenko, Sample Estimate of the Entropy of a Random Vector, 1987.
"""

import math

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError


def nearest_neighbour_entropy(x: Tensor) -> Tensor:
    """Compute one term per point, (n, *shape) -> (n,), in nats; their mean is the estimate of H."""
    flat = x.flatten(1)
    n, d = flat.shape
    if n < 2:
        raise UserError(f"the entropy of chains needs at least two of them, and there is {n}: batch_size=2 or more")
    with torch.no_grad():
        distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.fill_diagonal_(torch.inf).argmin(1)
    rho_squared = (flat - flat[nearest]).square().sum(1)
    log_ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)
    psi = torch.special.digamma(torch.tensor([float(n), 1.0], dtype=torch.float64)).tolist()
    return 0.5 * d * rho_squared.log() + log_ball + psi[0] - psi[1]
