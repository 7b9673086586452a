"""A multilayer perceptron on flat inputs, plus a fixed quadratic that makes Z exist.

    E(x) = f(u) + |W (x - mean)|^2 / (2 confine^2),    u = (x - mean) / scale,  W = 1 / scale or a whitening

with the mean and the scale of the training data. f grows at most linearly, so that the quadratic dominates far away and
exp(-E) can be integrated; score matching alone does not ensure that.
"""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from ebm_lab.core.functional import GradientFn
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.registry import register
from ebm_lab.distributions.fitting import BaseName
from ebm_lab.models.base import Anchored
from ebm_lab.models.layers import Activated, Activation, ConfineShape, initialise, perceptron_layers
from ebm_lab.models.perceptron import perceptron

ROWS = 4096
"""Points whose gradient is computed at once: the activations of many more do not fit into the cache."""


@register("energy", "mlp")
class MLP(Activated, Anchored):
    """Any event shape, flattened; He's initialisation. `hidden`: widths of the hidden layers; `confine`: the
    quadratic's width in units of the data's scale, null for none; `confine_shape`: isotropic, or the data's covariance;
    `base`: a law fitted to the data in the quadratic's place (models/base.py).
    """

    mean: Tensor

    def __init__(
        self,
        dataset: Dataset,
        *,
        hidden: list[PositiveInt],
        activation: Activation,
        confine: PositiveFloat | None,
        confine_shape: ConfineShape,
        confine_floor: PositiveFloat,
        base: BaseName,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", dataset.mean.clone())
        self.scale = dataset.scale
        self.build_anchor(dataset, base, confine, confine_shape, confine_floor)
        widths = [self.mean.numel(), *hidden]
        layers = perceptron_layers(widths, activation)
        last = nn.Linear(widths[-1], 1)
        self.net = nn.Sequential(*layers, last)
        initialise(self.net)
        self.begin_at_base(last)
        self.look_along_hidden(self.net[0], dataset)

    def forward(self, x: Tensor) -> Tensor:
        u = ((x - self.mean) / self.scale).flatten(1)
        return self.net(u if self.bound is None else self.bound(u)).squeeze(1) + self.anchor(x)

    def gradient(self) -> GradientFn | None:
        net = perceptron(self.net, smooth=False) if type(self).forward is MLP.forward else None
        if net is None:
            return None
        net, mean, scale, bound = net.detached(), self.mean, self.scale, self.bound
        anchor = self.anchor_gradient()

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            if len(x) > ROWS:
                e, grads = zip(*map(at, x.split(ROWS)), strict=True)
                return torch.cat(e), torch.cat(grads)
            x = x.detach()
            u = ((x - mean) / scale).flatten(1)
            f, grad = net.value_and_grad(u if bound is None else bound(u))
            grad = grad if bound is None else bound.turn(u, grad)
            q, pull = anchor(x)
            return f + q, _sum(grad.view(x.shape), 1 / scale, pull)

        return at

    def derivatives(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        net = perceptron(self.net, smooth=True) if type(self).forward is MLP.forward else None
        if net is None:
            return None
        u, turned = ((x - self.mean) / self.scale).flatten(1), v.flatten(2)
        turned = turned / self.scale if len(v) else turned
        if self.bound is None:
            f, grad, bend = net.derivatives(u, turned)
        else:
            f, inner, bend = net.derivatives(self.bound(u), self.bound.turn(u, turned))
            grad, bend = self.bound.turn(u, inner), bend + self.bound.bend(u, turned, inner) if len(v) else bend
        q, pull = self.anchor_gradient()(x)
        bend = bend + self.anchor_curvature(x, v) if len(v) else bend
        return f + q, _sum(grad.view(x.shape), 1 / self.scale, pull), bend


def _sum(grad: Tensor, factor: float, pull: Tensor | float) -> Tensor:
    """Compute factor grad + pull."""
    return torch.add(pull, grad, alpha=factor) if isinstance(pull, Tensor) else factor * grad
