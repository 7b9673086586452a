"""A multilayer perceptron as an energy of many noise levels.

    E(x, sigma) = -log N(x; mean, v^2 I) + f(u, log sigma)
    u = (x - mean) / v,    v^2 = sigma^2 + scale^2

Each hidden layer is scaled and shifted as a function of log sigma (models/conditioning.py). f grows at most linearly,
so that Z exists at every level.
"""

from collections.abc import Container
from typing import Annotated, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ebm_lab.core.functional import GradientFn, per_sample
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.model import Known
from ebm_lab.core.registry import register
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.conditioning import FilmMLP
from ebm_lab.models.ladder import Sigma
from ebm_lab.models.layers import Activated, Activation
from ebm_lab.models.levels import NoiseEnergy
from ebm_lab.models.perceptron import BACK, SMOOTH

WHAT_THEY_ARE_OF = ("forward", "energy", "anchored", "inputs", "correction", "network")
"""Methods that the formulas for derivatives presume."""


@register("energy", "noise_mlp")
class NoiseMLP(Activated, NoiseEnergy):
    """Any event shape, flattened. `hidden`: widths of the hidden layers; `sigma_min`, `sigma_max` and `levels`: the
    ladder, `auto` from the data (models/ladder.py)."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        hidden: Annotated[list[PositiveInt], Field(min_length=1)],
        activation: Activation,
        sigma_min: Sigma,
        sigma_max: Sigma,
        levels: Annotated[int, Field(ge=2)],
        base: BaseName,
    ) -> None:
        super().__init__(dataset, sigma_min, sigma_max, levels, base)
        self.net = FilmMLP(dataset.mean.numel(), hidden, self.outputs(dataset), activation)
        self.begin_at_base(self.net.last)
        self.look_along_hidden(self.net.layers[0], dataset)

    def correction(self, u: Tensor, sigma: Tensor) -> Tensor:
        return self.network(u, sigma).squeeze(1)

    def network(self, u: Tensor, sigma: Tensor) -> Tensor:
        """Compute the outputs of the last layer, (B, outputs), of the arguments of `correction`."""
        return self.net(u.flatten(1), self.ladder.height(sigma))

    def _formulas(self, known: Container[type]) -> bool:
        """Return whether the formulas below hold: the class changes nothing that they are of, and the activation's
        derivatives are known."""
        same = all(getattr(type(self), name) is getattr(NoiseMLP, name) for name in WHAT_THEY_ARE_OF)
        return same and type(self.net.act) in known

    def gradient(self) -> GradientFn | None:
        return self.gradient_given()

    def gradient_given(self, *, y: Tensor | None = None, sigma: Tensor | float | None = None) -> GradientFn | None:
        level = self.ladder.sigma_min if sigma is None else sigma
        if (isinstance(level, Tensor) and level.ndim) or not self._formulas(BACK):
            return None
        with torch.no_grad():
            _, one, v = self.inputs(self.mean, level)
            net = self.net.at(self.ladder.height(one)).detached()

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            x = x.detach()
            base, pull = self.base_gradient(x, level)
            u = self.inputs(x, level)[0].flatten(1)
            f, grad = net.value_and_grad(u if self.bound is None else self.bound(u))
            grad = grad if self.bound is None else self.bound.turn(u, grad)
            return base + f, pull + grad.view(x.shape) / v

        return at

    def derivatives(self, x: Tensor, v: Tensor) -> Known | None:
        return self.derivatives_given(x, v)

    def derivatives_given(
        self, x: Tensor, v: Tensor, *, y: Tensor | None = None, sigma: Tensor | float | None = None
    ) -> Known | None:
        if len(v) or not self._formulas(SMOOTH):
            return None
        e, grad, _ = self._derivatives(x, self.ladder.sigma_min if sigma is None else sigma, rates=False)
        return e, grad, x.new_zeros(len(x))

    def known_rates(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        return cast(Known, self._derivatives(x, sigma, rates=True)) if self._formulas(SMOOTH) else None

    def _derivatives(self, x: Tensor, sigma: Tensor | float, rates: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute E, grad_x E and, if `rates`, dE / d log sigma, to which the network adds
        -r u . grad_u f + df/dc dc / d log sigma, with r = d log v / d log sigma = (sigma / v)^2 and the height c."""
        (base, pull), (u, levels, width) = self.base_gradient(x, sigma), self.inputs(x, sigma)
        u, c = u.flatten(1), self.ladder.height(levels)
        seen = u if self.bound is None else self.bound(u)
        if len(c) == 1 < len(x):
            (f, grad, _), rise = self.net.at(c).derivatives(seen, seen.new_empty(0, *seen.shape)), None
        else:
            f, grad, rise = self.net.derivatives(seen, c, rates)
        grad = grad if self.bound is None else self.bound.turn(u, grad)
        e, slope = base + f, pull + grad.view(x.shape) / per_sample(width, x)
        if rise is None:
            return e, slope, None
        rate = self.base_rate(x, levels) - (levels / width) ** 2 * (u * grad).sum(1) + self.ladder.height_rate * rise
        return e, slope, rate
