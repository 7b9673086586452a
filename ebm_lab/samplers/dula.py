"""The discrete unadjusted Langevin algorithm: all sites at once, with a bias that falls with the step size.

    bits:        flip i with probability sigmoid(D_i / 2 - 1 / (2 alpha))
    categories:  x'_i = c with probability ~ exp(D_{c i} / 2 - [c is not x_i] / (2 alpha))

D: the log odds that grad E(x) guesses, alpha: the step size. A step is one gradient. For
E = (0, .4, -.3, .2, .5, -.1, .3, 0) on three bits the law is off by a total variation of .083 at alpha = 1, .017 at .2
and .004 at .125.

Ruqi Zhang, Xingchao Liu and Qiang Liu, A Langevin-like Sampler for Discrete Distributions, 2022, arXiv:2206.09914.
"""

from pydantic import PositiveFloat, PositiveInt

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.samplers._discrete_langevin import DiscreteLangevin


@register("sampler", "dula")
class DULA(DiscreteLangevin):
    """`steps` moves without a Metropolis test. `step_size`: alpha, for bits 0 and 1."""

    exact = False

    def __init__(self, dataset: Dataset, *, steps: PositiveInt, step_size: PositiveFloat) -> None:
        super().__init__(dataset, steps, step_size)
