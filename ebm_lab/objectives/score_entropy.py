"""Score entropy: the ratios of neighbours by a Bregman divergence, and the limit of energy discrepancy.

    L = E_p sum_m [ e^{D_m} + D_m - 1 ],    D_m = E(x) - E(x^m)

It is the loss of _neighbours.py with phi(D) = e^D + D - 1: E_p e^D + E_p D has the same minimum in each ratio e^D as
the score entropy of discrete diffusion, without its noise. As eps -> 0, the energy discrepancy with flips of
probability eps, divided by eps, tends to it. It is unbounded below at neighbours without mass, and its variance is that
of e^D: use batches of 512 (with 128, 16 bits, its KL was six times as large).

Aaron Lou, Chenlin Meng and Stefano Ermon, Discrete Diffusion Modeling by Estimating the Ratios of the Data
Distribution, 2023, arXiv:2310.16834.
"""

from ebm_lab.core.registry import register
from ebm_lab.objectives._neighbours import Neighbours, score_entropy


@register("objective", "score_entropy")
class ScoreEntropy(Neighbours):
    """Compare each datum with its neighbours by e^D + D - 1."""

    phi = staticmethod(score_entropy)
    exponential = True
