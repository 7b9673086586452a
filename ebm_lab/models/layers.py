"""Building blocks shared by several energies."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebm_lab.core.features import NON_SMOOTH, Offers, Part
from ebm_lab.core.interfaces import Dataset
from ebm_lab.models.curved import Conv2d, SiLU

Activation = Literal["silu", "softplus", "tanh", "gelu", "relu", "leaky_relu"]
_MODULES: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
}


class Activated(Part):
    """A model with the setting `activation`, which determines whether its score is smooth."""

    @classmethod
    def offers_of(cls, *, activation: Activation = "silu", **settings: Any) -> Offers:
        kinked = issubclass(_MODULES[activation], NON_SMOOTH)
        return super().offers_of(**settings) - ({"smooth"} if kinked else set())


def make_activation(name: str) -> nn.Module:
    """Return the activation; `silu` with its own second derivative (models/curved.py)."""
    return SiLU() if name == "silu" else _MODULES[name]()


def initialise(net: nn.Module) -> None:
    """Apply He's initialisation to every linear layer but the last: weights N(0, 2 / fan_in), biases N(0, 1).

    With torch's default the signal shrinks from layer to layer, and chain-based training then stays for thousands of
    steps at densities without fine structure (a ring for eight Gaussians).
    Kaiming He et al., Delving Deep into Rectifiers, 2015, equation 10.
    """
    *hidden, _ = [m for m in net.modules() if isinstance(m, nn.Linear)]
    for layer in hidden:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(layer.bias)


def perceptron_layers(widths: Sequence[int], activation: Activation) -> list[nn.Module]:
    """Return linear layers from each of `widths` to the next, each followed by an activation of torch's own, whose
    derivatives models/perceptron.py knows."""
    return [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), _MODULES[activation]())]


def conv_layers(
    shape: tuple[int, int, int], channels: Sequence[int], hidden: int, activation: Activation
) -> list[nn.Module]:
    """Return 3x3 convolutions for images of this shape (C, H, W), of which the first keeps the image's size and each
    further one halves it, then a linear layer of `hidden` outputs, each followed by an activation."""
    depth, height, width = shape
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(zip([depth, *channels], channels, strict=False)):
        stride = 1 if i == 0 else 2
        layers += [Conv2d(c_in, c_out, 3, stride, padding=1), make_activation(activation)]
        height, width = -(-height // stride), -(-width // stride)
    flat = channels[-1] * height * width
    return [*layers, nn.Flatten(), nn.Linear(flat, hidden), make_activation(activation)]


ConfineShape = Literal["isotropic", "covariance"]


class Quadratic(nn.Module):
    """The fixed quadratic that makes Z exist: |W (x - mean)|^2 / (2 width^2) per sample, (B, *shape) -> (B,).

    shape `isotropic`: W = 1 / scale of the data. shape `covariance`: W = L^-1 with L L' the training data's covariance
    plus floor * scale^2 * I, so that chains from anywhere descend to the Gaussian fitted to the data; with a floor of
    data_noise^2 and a width of 1, it is the Gaussian fitted to the noisy data. width None: no quadratic, 0.
    """

    mean: Tensor
    whiten: Tensor

    def __init__(self, dataset: Dataset, width: float | None, shape: ConfineShape, floor: float) -> None:
        super().__init__()
        self.width, d = width, dataset.mean.numel()
        self.register_buffer("mean", dataset.mean.flatten().clone())
        whiten = torch.tensor(1 / dataset.scale, dtype=torch.float64)
        if shape == "covariance":
            covariance = dataset.train.flatten(1).double().T.cov().view(d, d).cpu()
            factor = torch.linalg.cholesky(covariance + floor * dataset.scale**2 * torch.eye(d, dtype=torch.float64))
            whiten = torch.linalg.inv(factor)
        self.register_buffer("whiten", whiten.to(dataset.mean))

    def forward(self, x: Tensor) -> Tensor | float:
        if self.width is None:
            return 0.0
        centred = x.flatten(1) - self.mean
        u = centred @ self.whiten.T if self.whiten.ndim else centred * self.whiten
        return u.square().sum(1) / (2 * self.width**2)

    def gradient(self) -> Callable[[Tensor], tuple[Tensor | float, Tensor | float]]:
        """Return x -> the value, (B,), and the gradient, (B, *shape), with their constants computed once."""
        if self.width is None:
            return lambda x: (0.0, 0.0)
        mean, whiten, inverse = self.mean, self.whiten, 1 / self.width**2
        stiffness = whiten.square() * inverse

        def isotropic(x: Tensor) -> tuple[Tensor, Tensor]:
            flat = x.flatten(1) - mean
            pull = flat * stiffness
            return (flat * pull).sum(1) * 0.5, pull.view(x.shape)

        def general(x: Tensor) -> tuple[Tensor, Tensor]:
            u = (x.flatten(1) - mean) @ whiten.T
            return u.square().sum(1) * (0.5 * inverse), (u * inverse @ whiten).view(x.shape)

        return general if whiten.ndim else isotropic

    def curvature(self, v: Tensor) -> Tensor | float:
        """Compute sum_k v_k' Hess v_k, (B,), for v (K, B, *shape)."""
        if self.width is None:
            return 0.0
        flat = v.flatten(2)
        turned = flat @ self.whiten.T if self.whiten.ndim else flat * self.whiten
        return turned.square().sum((0, 2)) / self.width**2
