"""The Gaussian as an energy, with everything known in closed form.

    E(x) = 1/2 (x - mu)' P (x - mu),    P = L L',    log Z = d/2 log 2 pi - 1/2 log |P|

mu and the lower-triangular L are learnt. The estimates by maximum likelihood and by score matching coincide: mu is the
data's mean, and P the inverse of its covariance.
"""

import math

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from ebm_lab.core.functional import GradientFn
from ebm_lab.core.interfaces import Dataset, Energy
from ebm_lab.core.registry import register


@register("energy", "gaussian")
class Gaussian(Energy):
    """Any event shape, flattened. It starts at mu = the data's mean and P = I / (width * scale)^2; `width` is in units
    of the data's scale."""

    def __init__(self, dataset: Dataset, *, width: PositiveFloat) -> None:
        super().__init__()
        d = dataset.mean.numel()
        self.mean = nn.Parameter(dataset.mean.flatten().clone())
        self.factor = nn.Parameter(torch.eye(d) / (width * dataset.scale))

    @property
    def precision(self) -> Tensor:
        """P = L L', (d, d)."""
        lower = self.factor.tril()
        return lower @ lower.T

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * ((x.flatten(1) - self.mean) @ self.factor.tril()).square().sum(1)

    def gradient(self) -> GradientFn | None:
        mean, lower = self.mean.detach(), self.factor.detach().tril()
        if type(self).forward is not Gaussian.forward:
            return None

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            y = (x.detach().flatten(1) - mean) @ lower
            return 0.5 * y.square().sum(1), (y @ lower.T).view(x.shape)

        return at

    def exact_log_z(self) -> Tensor:
        d = len(self.mean)
        return 0.5 * d * math.log(2 * math.pi) - self.factor.diagonal().abs().log().sum()
