"""A law seen through an invertible map, x = f(raw):  log p_x(x) = log p(f^-1(x)) - log |dx / draw|."""

from dataclasses import dataclass, field

from torch import Generator, Tensor

from ebm_lab.core.interfaces import Distribution
from ebm_lab.core.maps import Composed
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
    """Return `law` seen through `map`; a mixture of Gaussians remains one with known components."""
    if type(law) is GaussianMixture:
        return PushedMixture(law.weights, law.means, law.stds, law.covariances, map)
    return Pushed(law, map)
