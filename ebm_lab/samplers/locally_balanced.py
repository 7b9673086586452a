"""The locally balanced sampler: one change at a time, chosen by the energies of all neighbours.

    q(m | x) ~ g(e^{D_m(x)}),    D_m(x) = E(x) - E(x^m)
    sqrt:    g(t) = sqrt(t)        barker:  g(t) = t / (1 + t)        min:  g(t) = min(1, t)

and a Metropolis test, whose ratio is that of the sums of the weights at both points. Each step takes M energies, or the
energy's formula for the log odds where it has one; gwg takes one gradient.

Giacomo Zanella, Informed Proposals for Local MCMC in Discrete Spaces, 2020, arXiv:1711.07424.
"""

from collections.abc import Callable
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import logsigmoid

from ebm_lab.core.discrete import log_odds
from ebm_lab.core.functional import EnergyFn, evaluate
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.samplers._one_change import OneChange

Balance = Literal["sqrt", "barker", "min"]
LOG_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrt": lambda odds: odds / 2,
    "barker": logsigmoid,
    "min": lambda odds: odds.clamp_max(0),
}
"""log g(e^D) as a function of D."""


@register("sampler", "locally_balanced")
class LocallyBalanced(OneChange):
    """`steps` proposals of one change each. `balance`: the function g."""

    def __init__(self, dataset: Dataset, *, steps: PositiveInt, balance: Balance) -> None:
        super().__init__(dataset, steps)
        self.log_weights = LOG_WEIGHTS[balance]

    def weigh(self, energy: EnergyFn) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        return lambda x: (evaluate(energy, x), self.log_weights(log_odds(energy, x, self.sites)))

    def cost(self) -> int:
        return self.sites.changes
