"""The energies of the benchmark as a hand-written script has them, in plain torch.

They have the functions and weights of the lab's, but no optimisation of the lab's energies makes the reference faster.

    E(x) = f(u) + |u|^2 / (2 c^2),  u = (x - mean) / scale        perceptron
    E(x) = f(x) + |u|^2 / (2 c^2)                                 convolutions
    E(x) = 1/2 |L' (x - mu)|^2                                    Gaussian, L lower triangular

Memory layout and precision are torch's defaults.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from ebm_lab.energies.conv import Conv
from ebm_lab.energies.gaussian import Gaussian
from ebm_lab.energies.mlp import MLP
from ebm_lab.models import curved


class PlainMLP(nn.Module):
    mean: Tensor

    def __init__(self, layers: nn.Sequential, mean: Tensor, scale: float, confine: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.net, self.scale, self.weight = layers, scale, 0.5 / confine**2

    def forward(self, x: Tensor) -> Tensor:
        u = ((x - self.mean) / self.scale).flatten(1)
        return self.net(u).squeeze(1) + self.weight * (u * u).sum(1)


class PlainConv(PlainMLP):
    def forward(self, x: Tensor) -> Tensor:
        u = (x - self.mean) / self.scale
        return self.net(x).squeeze(1) + self.weight * (u * u).flatten(1).sum(1)


class PlainGaussian(nn.Module):
    mean: Tensor
    factor: Tensor

    def __init__(self, mean: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        u = (x - self.mean) @ self.factor
        return 0.5 * (u * u).sum(1)


def plain(energy: nn.Module) -> nn.Module:
    """Copy an energy of the lab to plain torch; return it as it is if other libraries do not have it either."""
    energy = usual(copy.deepcopy(energy))
    if isinstance(energy, Gaussian):
        return PlainGaussian(energy.mean.detach(), energy.factor.detach().tril())
    if isinstance(energy, MLP | Conv):
        quadratic = energy.quadratic
        assert quadratic is not None, "an energy without a base has one"
        shape = energy.mean.shape if isinstance(energy, MLP) else (1, *_image_shape(quadratic.mean))
        layers = cast(nn.Sequential, energy.net.to(memory_format=torch.contiguous_format))
        kind = PlainMLP if isinstance(energy, MLP) else PlainConv
        return kind(layers, quadratic.mean.view(shape), 1 / float(quadratic.whiten), quadratic.width or float("inf"))
    return energy


USUAL = {curved.SiLU: nn.SiLU, curved.Conv2d: nn.Conv2d, curved.GroupNorm: nn.GroupNorm}


def usual(net: nn.Module) -> nn.Module:
    """Let the lab's own layers compute as those of torch that they extend, in place."""
    for module in net.modules():
        module.__class__ = USUAL.get(type(module), type(module))
    return net


def _image_shape(flat: Tensor) -> tuple[int, int]:
    side = round(len(flat) ** 0.5)
    return side, side
