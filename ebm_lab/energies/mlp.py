"""A multilayer perceptron on flat inputs, plus a fixed quadratic that makes Z exist.

    E(x) = f(u) + |W (x - mean)|^2 / (2 confine^2),    u = (x - mean) / scale,  W = 1 / scale or a whitening

with the mean and the scale of the training data. f grows at most linearly, so that the quadratic dominates far away and
exp(-E) can be integrated; score matching alone does not ensure that.
"""

from itertools import pairwise

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from ebm_lab.core.functional import GradientFn
from ebm_lab.core.interfaces import Dataset, Energy
from ebm_lab.core.registry import register
from ebm_lab.models.layers import Activated, Activation, ConfineShape, Quadratic, initialise, make_activation
from ebm_lab.models.perceptron import perceptron

ROWS = 4096
"""Points whose gradient is computed at once: the activations of many more do not fit into the cache."""


@register("energy", "mlp")
class MLP(Activated, Energy):
    """Any event shape, flattened; He's initialisation. `hidden`: widths of the hidden layers; `confine`: the
    quadratic's width in units of the data's scale, null for none; `confine_shape`: isotropic, or the data's covariance.
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
    ) -> None:
        super().__init__()
        self.register_buffer("mean", dataset.mean.clone())
        self.scale, self.quadratic = dataset.scale, Quadratic(dataset, confine, confine_shape, confine_floor)
        widths = [self.mean.numel(), *hidden]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), make_activation(activation)]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        initialise(self.net)

    def forward(self, x: Tensor) -> Tensor:
        u = ((x - self.mean) / self.scale).flatten(1)
        return self.net(u).squeeze(1) + self.quadratic(x)

    def gradient(self) -> GradientFn | None:
        net = perceptron(self.net, smooth=False) if type(self).forward is MLP.forward else None
        if net is None:
            return None
        net, mean, scale, quadratic = net.detached(), self.mean, self.scale, self.quadratic

        def at(x: Tensor) -> tuple[Tensor, Tensor]:
            if len(x) > ROWS:
                e, grads = zip(*map(at, x.split(ROWS)), strict=True)
                return torch.cat(e), torch.cat(grads)
            x = x.detach()
            f, grad = net.value_and_grad(((x - mean) / scale).flatten(1))
            q, pull = quadratic.with_gradient(x)
            return f + q, grad.view(x.shape) / scale + pull

        return at

    def derivatives(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        net = perceptron(self.net, smooth=True) if type(self).forward is MLP.forward else None
        if net is None:
            return None
        u, turned = ((x - self.mean) / self.scale).flatten(1), v.flatten(2) / self.scale
        f, grad, bend = net.derivatives(u, turned)
        q, pull = self.quadratic.with_gradient(x)
        bend = bend + self.quadratic.curvature(v) if len(v) else bend
        return f + q, grad.view(x.shape) / self.scale + pull, bend
