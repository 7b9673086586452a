"""Ratio matching: the squared error of each conditional probability.

    L = E_p sum_m sigmoid(D_m)^2,    D_m = E(x) - E(x^m)

It is the loss of _neighbours.py with phi(D) = sigmoid(D)^2. It is bounded, so that no datum can dominate; but where the
model is certain of the wrong value, D -> +inf, its gradient vanishes.

Aapo Hyvarinen, Some Extensions of Score Matching, 2007.
"""

from ebm_lab.core.registry import register
from ebm_lab.objectives._neighbours import Neighbours, ratio_matching


@register("objective", "ratio_matching")
class RatioMatching(Neighbours):
    """Compare each datum with its neighbours by sigmoid(D)^2."""

    phi = staticmethod(ratio_matching)
