"""Energies of a point and its class at many noise levels: one network with a value f_y(x, sigma) for each class y.

    E(x, y, sigma) = base(x, sigma) - f_y(x, sigma) + log K,    E(x, sigma) = -log sum_y exp(-E(x, y, sigma))
    p_sigma(y | x) = softmax_y f(x, sigma)

The constant log K lets the marginal be the base itself where f is 0.
"""

import math
from collections.abc import Callable

from torch import Tensor

from ebm_lab.core.features import Need
from ebm_lab.core.interfaces import Dataset
from ebm_lab.models.labelled import class_count
from ebm_lab.models.levels import NoiseEnergy


class LabelledLevels(NoiseEnergy):
    """An energy of noise levels and classes. The classes that inherit from it have the layers of one without classes,
    whose `network` has one output for each."""

    needs = (Need("dataset", "classes"),)
    offers = NoiseEnergy.offers | {"labels"}
    network: Callable[[Tensor, Tensor], Tensor]
    """Computes f of every class, (B, K), of the arguments of `correction`."""

    def outputs(self, dataset: Dataset) -> int:
        self.classes = class_count(dataset)
        return self.classes

    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        return math.log(self.classes) - self.network(u, sigma).logsumexp(1)

    def logits(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Compute -E(x, y, sigma) of every class, (B, K); None is the lowest level."""
        base, u, level = self.anchored(x, self.ladder.sigma_min if sigma is None else sigma)
        return self.network(u, level) - (base + math.log(self.classes)).unsqueeze(1)

    def forward(self, x: Tensor, y: Tensor | None = None, sigma: Tensor | float | None = None) -> Tensor:
        """Compute E(x, y, sigma), for labels y (B,) or one for all, 0-d, or E(x, sigma) without labels, (B,)."""
        if y is None:
            return self.energy(x, self.ladder.sigma_min if sigma is None else sigma)
        return -self.logits(x, sigma).gather(1, y.expand(len(x)).unsqueeze(1)).squeeze(1)
