"""Noise laws fitted to data, for noise-contrastive estimation: anything with `sample` and `log_prob`."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from ebm_lab.core.distributions import Distribution, UniformBox

NoiseLaw = Literal["gaussian", "mixture", "uniform"]


@dataclass(frozen=True)
class Mixture:
    """sum_j weights_j N(means_j, L_j L_j') on samples of `shape`; weights (K,), means (K, d), factors L (K, d, d)
    lower triangular. K = 1 is a full-covariance Gaussian."""

    weights: Tensor
    means: Tensor
    factors: Tensor
    shape: tuple[int, ...]

    def sample(self, n: int, generator: Generator) -> Tensor:
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.empty(n, self.means.shape[1], 1, device=self.means.device).normal_(generator=generator)
        return (self.means[which] + (self.factors[which] @ z).squeeze(-1)).view(n, *self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        centred = (x.flatten(1)[None] - self.means[:, None]).mT  # (K, d, B)
        white = torch.linalg.solve_triangular(self.factors, centred, upper=False)
        log_det = self.factors.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        each = -0.5 * white.square().sum(1) - log_det[:, None] - 0.5 * self.means.shape[1] * math.log(2 * math.pi)
        return torch.logsumexp(each + self.weights.log()[:, None], 0)


def fit_noise(
    law: NoiseLaw, train: Tensor, components: int, widen: float, data_noise: float, generator: Generator
) -> Distribution:
    """The noise of that law for the data train (n, *shape), stds times `widen`; `data_noise` is the std of what will
    be added to the data, and joins the covariance."""
    shape, flat = tuple(train.shape[1:]), train.flatten(1).double()
    if law == "uniform":
        low, high = train.amin(0) - 3 * data_noise, train.amax(0) + 3 * data_noise
        margin = (0.5 * (widen - 1) + 0.05) * (high - low).clamp_min(1e-3 * float((high - low).max()))
        return UniformBox(low - margin, high + margin)
    if law == "mixture" and components > 1:
        weights, means, covariances = _fit_mixture(flat, components, generator)
    else:
        weights, means, covariances = torch.ones(1).double(), flat.mean(0, keepdim=True), flat.T.cov()[None]
    d = flat.shape[1]
    # A thousandth of the data's variance keeps coordinates that never change (a digit's corners) from being singular.
    floor = 1e-3 * float(flat.var(0).mean()) + data_noise**2
    covariances = widen**2 * (covariances.view(-1, d, d) + floor * torch.eye(d, device=flat.device).double())
    factors = torch.linalg.cholesky(covariances)
    to = train.dtype
    return Mixture(weights.to(train.device, to), means.to(train.device, to), factors.to(train.device, to), shape)


def _fit_mixture(flat: Tensor, components: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and full covariances by EM, on at most 10,000 points."""
    from sklearn.mixture import GaussianMixture  # a slow import, needed only here

    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    spread = float(flat.var(0).mean())
    model = GaussianMixture(components, reg_covar=1e-3 * spread, random_state=seed).fit(flat[:10_000].cpu().numpy())
    return tuple(torch.from_numpy(a) for a in (model.weights_, model.means_, model.covariances_))
