"""Gibbs with gradients: one change at a time, chosen by what the gradient says of all of them.

    q(m | x) ~ exp(D_m(x) / 2),    D_m(x): the log odds of the change m that grad E(x) guesses (core/discrete.py)

and a Metropolis test. It is the locally balanced proposal with g(t) = sqrt(t), for one gradient instead of M energies.
The gradient only proposes: the test takes the energies themselves, so that the law is exact however wrong the guess.

Will Grathwohl, Kevin Swersky, Milad Hashemi, David Duvenaud and Chris J. Maddison, Oops I Took A Gradient: Scalable
Sampling for Discrete Distributions, 2021, algorithm 1, arXiv:2102.04509.
"""

from collections.abc import Callable

from pydantic import PositiveInt
from torch import Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.functional import EnergyFn, gradient_of
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.samplers._one_change import OneChange


@register("sampler", "gwg")
class GWG(OneChange):
    """`steps` proposals of one change each. k steps take k + 1 gradients."""

    needs = (*OneChange.needs, Need("energy", "score"))

    def __init__(self, dataset: Dataset, *, steps: PositiveInt) -> None:
        super().__init__(dataset, steps)

    def weigh(self, energy: EnergyFn) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        slope = gradient_of(energy)

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            e, grad = slope(x)
            return e, self.sites.guessed_odds(x, grad) / 2

        return at

    def cost(self) -> int:
        return 1
