"""The discrete Metropolis-adjusted Langevin algorithm: all sites at once, exact at any step size.

    accept x -> x' with probability min(1, exp(E(x) - E(x')) q(x | x') / q(x' | x))

with the proposal q of _discrete_langevin.py. A larger step changes more sites and is accepted less often. k steps take
k + 1 gradients.

Ruqi Zhang, Xingchao Liu and Qiang Liu, A Langevin-like Sampler for Discrete Distributions, 2022, arXiv:2206.09914.
"""

from pydantic import PositiveFloat, PositiveInt

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.samplers._discrete_langevin import DiscreteLangevin


@register("sampler", "dmala")
class DMALA(DiscreteLangevin):
    """`steps` moves, each accepted or rejected. `step_size`: alpha, for bits 0 and 1."""

    exact = True
    offers = DiscreteLangevin.offers | {"exact"}

    def __init__(self, dataset: Dataset, *, steps: PositiveInt, step_size: PositiveFloat) -> None:
        super().__init__(dataset, steps, step_size)
