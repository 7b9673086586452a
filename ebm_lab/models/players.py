"""Networks of a second player: a generator of points, and a critic that judges them.

generator:  x = g(z) + s e,    z ~ N(0, I_latent),  e ~ N(0, I),    g(z) = mean + scale net(z),  s = scale std
critic:     net((x - mean) / scale)

with the mean and the scale of the training data. Both networks are perceptrons on flat inputs.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import seed_from, seeded
from ebm_lab.models.layers import initialise

NARROWEST, WIDEST = 0.01, 1.0
"""Range of a generator's std, in units of the data's scale. Towards 0 its samples lie on a surface, which has no
density, and its entropy falls without end."""
Std = Annotated[float, Field(ge=NARROWEST, le=WIDEST)]


def perceptron(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Return a perceptron of these widths with SiLU between its layers, and He's initialisation."""
    with seeded(seed_from(generator)):
        layers = [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.SiLU())]
        net = nn.Sequential(*layers[:-1])
        initialise(net)
    return net


class _BoundedExp(torch.autograd.Function):
    """exp(x).clamp(low, high) with that value as its derivative, except where descent would leave the range."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        value = x.exp().clamp(low, high)
        ctx.save_for_backward(x, value)
        ctx.ends = math.log(low), math.log(high)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x, value), (low, high), grad = ctx.saved_tensors, ctx.ends, grads[0]
        outwards = ((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0))
        return (grad * value).masked_fill(outwards, 0.0), None, None


def bounded_exp(x: Tensor, low: float, high: float) -> Tensor:
    """Return exp(x) limited to [low, high]. Descent can leave an end inwards, where the gradient of a clamp is 0."""
    value = _BoundedExp.apply(x, low, high)
    assert isinstance(value, Tensor)
    return value


class GeneratorNet(nn.Module):
    """x = g(z) + s e. `std`: its initial value, in units of the data's scale; it is learnt with the network."""

    mean: Tensor

    def __init__(
        self, dataset: Dataset, generator: torch.Generator, latent: int, hidden: Sequence[int], std: float
    ) -> None:
        super().__init__()
        self.latent, self.scale = latent, dataset.scale
        self.register_buffer("mean", dataset.mean.clone())
        self.net = perceptron([latent, *hidden, self.mean.numel()], generator).to(self.mean)
        self.log_std = nn.Parameter(self.mean.new_full((), std).log())

    def forward(self, z: Tensor) -> Tensor:
        """Compute g(z), (..., latent) -> (..., *shape)."""
        return self.mean + self.scale * self.net(z).view(*z.shape[:-1], *self.mean.shape)

    def std(self) -> Tensor:
        """Return s in data units, 0-d."""
        return self.scale * bounded_exp(self.log_std, NARROWEST, WIDEST)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n pairs (x, z), (n, *shape) and (n, latent), with a graph to the parameters."""
        z = self.mean.new_empty(n, self.latent).normal_(generator=generator)
        e = self.mean.new_empty(n, *self.mean.shape).normal_(generator=generator)
        return self(z) + self.std() * e, z

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n samples, (n, *shape)."""
        return self.draw(n, generator)[0]

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Compute log p(z) + log p(x | z) without the terms in 2 pi, (..., *shape), (..., latent) -> (...)."""
        axes = tuple(range(-self.mean.ndim, 0))
        square = ((x - self(z)) / self.std()).square().sum(axes)
        return -0.5 * (square + z.square().sum(-1)) - self.mean.numel() * self.std().log()


class Critic(nn.Module):
    """A network of points, 0 everywhere at first: (B, *shape) -> (B, outputs)."""

    mean: Tensor

    def __init__(self, dataset: Dataset, generator: torch.Generator, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.scale = dataset.scale
        self.register_buffer("mean", dataset.mean.clone())
        self.net = perceptron([self.mean.numel(), *hidden, outputs], generator).to(self.mean)
        last = self.net[-1]
        assert isinstance(last, nn.Linear), "a perceptron ends with a linear layer"
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(((x - self.mean) / self.scale).flatten(1))
