"""A deep kernel exponential family: kernels at learnt points in a learnt feature space, times a Gaussian base.

    E(x) = -sum_r sum_l alpha_rl k_r(z_l, x) - log q_0(x),    q_0 = N(mean, (base scale)^2 I)
    k_r(z, x) = exp(-|phi_r(z) - phi_r(x)|^2 / (2 D w_r^2)),    phi_r(x) = A_r u + f_r(u),    u = (x - mean) / scale

phi_r has D features, the sum of a linear skip connection and a small softplus network f_r. The papers' kernel is the
mixture sum_r rho_r k_r, which is alpha_rl = rho_r alpha_l; here each kernel has its own coefficients, so that a narrow
one may raise a density that a wide one lowers. Since 0 < k_r <= 1, |E + log q_0| <= sum |alpha| =: c, and
exp(-c) <= Z <= exp(c): Z always exists. All of alpha, z, w and phi are learnt; alpha starts at 0, where the model is
its base.

The papers solve for the alpha that minimises the regularised score-matching loss on half of each batch, a linear
problem, and take a gradient step in the other parameters on the other half. Here all parameters follow the objective's
gradient. So the energy works with every objective, most of which have no such solution, and a comparison of objectives
does not compare solvers. The held-out half no longer guards against overfitting: watch a held-out metric instead.

Li Wenliang, Danica J. Sutherland, Heiko Strathmann and Arthur Gretton, Learning Deep Kernels for Exponential Family
Densities, 2019, sections 2 and 3, arXiv:1811.08357.
Yang Song, Sahaj Garg, Jiaxin Shi and Stefano Ermon, Sliced Score Matching, 2019, section 6.1, arXiv:1905.07088.
"""

import math
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset, Energy
from ebm_lab.core.registry import register
from ebm_lab.distributions.elementary import IsotropicGaussian


def gaussian_kernel(a: Tensor, b: Tensor, width: Tensor | float) -> Tensor:
    """Compute exp(-|a_i - b_j|^2 / (2 width^2)), (n, d) and (m, d) -> (n, m); twice differentiable, also at a = b."""
    square = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return torch.exp(-square / (2 * width**2))


class Features(nn.Module):
    """phi(u) = A u + f(u), (B, d) -> (B, features): f a softplus network, A a linear map drawn so that phi keeps the
    mean square of u, per feature as per coordinate."""

    def __init__(self, d: int, hidden: list[int], features: int) -> None:
        super().__init__()
        self.skip = nn.Linear(d, features, bias=False)
        nn.init.normal_(self.skip.weight, std=d**-0.5)
        layers: list[nn.Module] = []
        for i, o in pairwise([d, *hidden]):
            layers += [nn.Linear(i, o), nn.Softplus()]
        self.net = nn.Sequential(*layers, nn.Linear([d, *hidden][-1], features))

    def forward(self, u: Tensor) -> Tensor:
        return self.skip(u) + self.net(u)


@register("energy", "dkef")
class DKEF(Energy):
    """Any event shape, flattened. `points`: number of inducing points z, which start at random training points;
    `widths`: the initial w of each kernel, a distance per coordinate in units of the data's scale; `features` and
    `hidden`: number of features and hidden widths of each kernel's network; `base`: the std of q_0, in units of the
    data's scale."""

    mean: Tensor

    def __init__(
        self,
        dataset: Dataset,
        *,
        points: PositiveInt,
        widths: Annotated[list[PositiveFloat], Field(min_length=1)],
        hidden: list[PositiveInt],
        features: PositiveInt,
        base: PositiveFloat,
    ) -> None:
        super().__init__()
        n, d = len(dataset.train), dataset.mean.numel()
        if points > n:
            raise UserError(f"energy.points={points}: must be at most the number of training points, {n}")
        self.register_buffer("mean", dataset.mean.clone())
        self.scale, self.base_std = dataset.scale, base
        which = torch.randperm(n)[:points]
        self.z = nn.Parameter(self._unit(dataset.train[which]).detach())
        self.alpha = nn.Parameter(torch.zeros(len(widths), points))
        self.log_widths = nn.Parameter(torch.tensor(widths).log() + 0.5 * math.log(features))
        self.features = nn.ModuleList(Features(d, hidden, features) for _ in widths)

    def _unit(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.scale).flatten(1)

    def kernels(self, z: Tensor, x: Tensor) -> Tensor:
        """Compute k_r(z_l, x_i), (L, d) and (B, *shape) -> (R, B, L), with z in units of u."""
        u, widths = self._unit(x), self.log_widths.exp()
        return torch.stack([gaussian_kernel(phi(u), phi(z), w) for phi, w in zip(self.features, widths, strict=True)])

    def forward(self, x: Tensor) -> Tensor:
        log_base = IsotropicGaussian(self.mean, self.base_std * self.scale).log_prob(x)
        return -torch.einsum("rbl,rl->b", self.kernels(self.z, x), self.alpha) - log_base
