"""Concrete score matching: the squared error of the ratios of neighbours.

    L = E_p sum_m [ (e^{D_m} - 1)^2 / 2 + e^{D_m} - e^{-D_m} ],    D_m = E(x) - E(x^m)

Up to a constant this is E_p sum_m (r_m - p(x^m) / p(x))^2 / 2 for the model's r_m = e^{D_m}, whose cross term is
rewritten by exchanging x and x^m: it is the loss of _neighbours.py with phi as above. A form without one of its terms
misses the condition phi'(D) = e^D phi'(-D), and has its minimum elsewhere.

Its minimum is the data's law, but the variance of its gradient is that of e^{2D}: in mini-batches it does not train
beyond some bits (KL 0.3 to 0.5 where the others reach 0.02). It is here to be compared with; score_entropy and
pseudo_likelihood learn the same ratios.

Chenlin Meng, Kristy Choi, Jiaming Song and Stefano Ermon, Concrete Score Matching: Generalized Score Matching for
Discrete Data, 2022, arXiv:2211.00802.
"""

from ebm_lab.core.registry import register
from ebm_lab.objectives._neighbours import Neighbours, concrete_score


@register("objective", "concrete_score")
class ConcreteScore(Neighbours):
    """Compare each datum with its neighbours by the squared error of e^D."""

    phi = staticmethod(concrete_score)
    exponential = True
