"""Pseudo-likelihood: the sum over sites of the log probability of each value given all others.

    L = -E_p sum_i log p_theta(x_i | the others),    for bits  E_p sum_i log(1 + e^{D_i})

It is the loss of _neighbours.py with phi(D) = log(1 + e^D), d / 2 times conditional NCE with one flip. It is bounded
below by 0, grows only linearly in a wrong D, and is convex in D, so it is the first of these losses to try.

Julian Besag, Statistical Analysis of Non-Lattice Data, 1975.
"""

from torch import Tensor

from ebm_lab.core.registry import register
from ebm_lab.objectives._neighbours import Neighbours, log_pseudo_likelihood


@register("objective", "pseudo_likelihood")
class PseudoLikelihood(Neighbours):
    """Compare the values of each site, given the others."""

    def values(self, odds: Tensor, moves: Tensor) -> Tensor:
        count = self.sites.count if self.drawn is None else self.drawn
        return log_pseudo_likelihood(odds, self.sites, count)
