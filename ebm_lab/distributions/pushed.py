"""A law seen through an invertible map, x = f(raw):  log p_x(x) = log p(f^-1(x)) - log |dx / draw|."""

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from ebm_lab.core.interfaces import Distribution
from ebm_lab.core.maps import Composed
from ebm_lab.distributions.elementary import Gaussian
from ebm_lab.distributions.mixture import GaussianMixture


@dataclass(frozen=True)
class Pushed:
    """`law` seen through `map`; draws have the precision and the device of the law's."""

    law: Distribution
    map: Composed

    def sample(self, n: int, generator: Generator) -> Tensor:
        raw = self.law.sample(n, generator)
        return self.map.forward(raw).to(raw)

    def log_prob(self, x: Tensor) -> Tensor:
        return (self.law.log_prob(self.map.inverse(x)).double().cpu() - self.map.log_det_at(x)).to(x.device)


@dataclass(frozen=True)
class PushedMixture(GaussianMixture):
    """A mixture of Gaussians seen through `map`: the components' odds at a point, and its distances from them in their
    own stds, are those at its raw point. weights, means, stds and covariances are the raw law's."""

    map: Composed = field(default_factory=lambda: Composed(()))

    def sample(self, n: int, generator: Generator) -> Tensor:
        return self.map.forward(super().sample(n, generator))

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) - self.map.log_det_at(x)

    @property
    def middles(self) -> Tensor:
        return self.map.forward(self.means)

    def _standardised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super()._standardised(self.map.inverse(x))


def pushed(law: Distribution, map: Composed) -> Distribution:
    """Return `law` seen through `map`; a mixture of Gaussians remains one with known components.

    Through a linear map, x = A raw + b, Gaussians remain Gaussians: N(A m + b, A S A').
    """
    if map.is_linear and isinstance(law, Gaussian):
        return Gaussian(map.forward(law.mean[None])[0], _moved(law.covariance, map, law.mean))
    if map.is_linear and type(law) is GaussianMixture:
        covariances = law.covariances
        if covariances is None:
            assert law.stds is not None, "a mixture has one of the two"
            covariances = torch.diag_embed(law.stds.expand_as(law.means).flatten(1).square())
        return GaussianMixture(law.weights, map.forward(law.means), covariances=_moved(covariances, map, law.means[0]))
    if type(law) is GaussianMixture:
        return PushedMixture(law.weights, law.means, law.stds, law.covariances, map)
    return Pushed(law, map)


def _moved(covariance: Tensor, map: Composed, at: Tensor) -> Tensor:
    """Return A S A' for S (..., d, d), with A from the map's values one unit along each axis from `at` (*shape)."""
    d = at.numel()
    unit = covariance.diagonal(dim1=-2, dim2=-1).reshape(-1, d).double().amax(0).sqrt()  # keeps the digits of A
    steps = torch.diag(unit).view(d, *at.shape)
    a = (map.forward(at + steps) - map.forward(at - steps)).reshape(d, d).mT / (2 * unit)
    moved = a @ covariance.double() @ a.mT
    return (moved + moved.mT) / 2
