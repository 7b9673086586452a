"""Noise laws fitted to data for noise-contrastive estimation, each with `sample` and `log_prob`."""

from typing import Literal

import torch
from torch import Generator, Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.random import seed_from, subset
from ebm_lab.distributions.elementary import Distribution, Gaussian, UniformBox
from ebm_lab.distributions.flow import Flow
from ebm_lab.distributions.mixture import GaussianMixture

NoiseLaw = Literal["gaussian", "mixture", "uniform", "flow"]


def fit_noise(
    law: NoiseLaw, train: Tensor, components: int, widen: float, data_noise: float, generator: Generator
) -> Distribution:
    """Fit a noise law to the data train (n, *shape), with its stds multiplied by `widen`.

    `data_noise` is the std of the noise that will be added to the data, and is included. Noise narrower than the data
    is refused: where it has no samples, nothing keeps the model's density low.
    """
    if widen < 1:
        raise UserError(
            f"objective.widen={widen:g}: noise narrower than the data teaches no density; must be at least 1"
        )
    shape, flat = tuple(train.shape[1:]), train.flatten(1).double()
    if law == "uniform":
        low, high = train.amin(0) - 3 * data_noise, train.amax(0) + 3 * data_noise
        margin = (0.5 * (widen - 1) + 0.05) * (high - low).clamp_min(1e-3 * float((high - low).max()))
        return UniformBox(low - margin, high + margin)
    # A thousandth of the data's variance keeps coordinates that never change (a digit's corners) non-singular.
    floor = 1e-3 * float(flat.var(0).mean()) + data_noise**2
    if law == "flow":
        return Flow(train, floor**0.5, widen, generator)
    d = flat.shape[1]
    round_ = floor * torch.eye(d).double()
    if law == "gaussian" or components == 1:
        covariance = widen**2 * (flat.T.cov().view(d, d) + round_.to(flat))
        return Gaussian(flat.mean(0).view(shape).to(train), covariance.to(train))
    weights, means, covariances = _fit_mixture(flat, components, generator)
    weights, means, covariances = (t.to(train) for t in (weights, means, widen**2 * (covariances + round_)))
    return GaussianMixture(weights, means.view(-1, *shape), covariances=covariances)


def _fit_mixture(flat: Tensor, components: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Fit weights, means and full covariances by EM, on at most 10,000 points."""
    if len(flat) < components:
        raise UserError(
            f"objective.components={components}: a mixture of so many Gaussians needs as many training points, and "
            f"there are {len(flat)}; give fewer components or objective.noise=gaussian"
        )
    from sklearn.mixture import GaussianMixture  # a slow import, needed only here

    seed = seed_from(generator)
    spread, x = float(flat.var(0).mean()), subset(flat, 10_000).cpu().numpy()
    model = GaussianMixture(components, reg_covar=1e-3 * spread, random_state=seed).fit(x)
    return torch.from_numpy(model.weights_), torch.from_numpy(model.means_), torch.from_numpy(model.covariances_)
