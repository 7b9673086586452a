"""Laws fitted to the training points, which any model of them should beat: a Gaussian, and a mixture of Gaussians.

    gaussian:  N(m, S),    m and S = 1/n sum (x - m)(x - m)' over the training split
    mixture:   sum_k w_k N(m_k, S_k) by EM, K chosen by the likelihood of the validation split (fitting.py)

Each law is fitted once per data set and kept as long as the data set lives. Images have none, because the exact values
of their pixels have no density, and neither have points with a direction in which they do not vary.

Arthur P. Dempster, Nan M. Laird and Donald B. Rubin, Maximum Likelihood from Incomplete Data via the EM Algorithm,
1977.
"""

from typing import Any

import torch
from torch import Tensor

from ebm_lab.core.features import features_of
from ebm_lab.core.functional import in_parts
from ebm_lab.core.interfaces import Dataset, Distribution
from ebm_lab.core.random import subset
from ebm_lab.distributions.elementary import Gaussian
from ebm_lab.distributions.fitting import fit_mixture
from ebm_lab.distributions.mixture import GaussianMixture

ROWS = 10_000
"""Rows that a mixture is fitted to, and rows that choose it, at most."""
DIMENSIONS, MANY = 100, 1000
"""Above the first no mixture is fitted, for EM takes minutes; above the second no Gaussian either."""
FLAT = 1e-10
"""Correlations with an eigenvalue below this have a direction in which the points do not vary."""
APART = 6.0
"""Standard deviations between components beyond which a score does not see their relative weight: D_F is then 0.014
where the Kullback-Leibler divergence is half a nat (docs/theory.md, 17)."""

ENOUGH = 0.1
"""A base that is worse by fewer nats than the fitted mixture has about the right weights of the groups."""


def log_prob_of(law: Distribution, x: Tensor) -> Tensor:
    """log density of points x (B, *shape) in nats, (B,) in float64 on the CPU, for a law that lives there."""
    return in_parts(law.log_prob, x.detach().cpu().double(), 4096)


def fitted_gaussian(dataset: Dataset) -> Gaussian | None:
    """Return the Gaussian of greatest likelihood on the training points, in float64 on the CPU; None where there is
    none."""
    kept = _kept(dataset)
    if "gaussian" not in kept:
        kept["gaussian"] = _fit_gaussian(dataset.train) if _is_points(dataset) else None
    return kept["gaussian"]


def fitted_mixture(dataset: Dataset) -> GaussianMixture | None:
    """Return the mixture of Gaussians fitted to the training points, in float64 on the CPU; None where there is
    none."""
    kept = _kept(dataset)
    if "mixture" not in kept:
        gaussian = fitted_gaussian(dataset)
        small = gaussian is not None and gaussian.mean.numel() <= DIMENSIONS
        kept["mixture"] = _fit_mixture(gaussian, dataset.train, dataset.val) if gaussian is not None and small else None
    return kept["mixture"]


def groups_apart(mixture: GaussianMixture, blur: float) -> list[Tensor]:
    """Split the components, blurred by N(0, blur^2 I), into groups that lie far apart; returns their numbers.

    Two components are in one group where a chain of pairs connects them whose distance sqrt(d' S^-1 d), d between the
    means and S the mean of the two covariances, is at most APART standard deviations.
    """
    means, covariances = mixture.means.flatten(1), mixture.covariances
    assert covariances is not None, "a fitted mixture has covariances"
    covariances = covariances + blur**2 * torch.eye(means.shape[1]).to(covariances)
    offset = means[:, None] - means
    spread = (covariances[:, None] + covariances) / 2
    distance = (offset * torch.linalg.solve(spread, offset)).sum(2).sqrt()
    near = (distance <= APART).double()
    for _ in range(len(means).bit_length()):
        near = (near @ near > 0).double()
    return [row.nonzero().flatten() for row in near.unique(dim=0)]


def blind_note(dataset: Dataset, name: str, blur: float, base: Distribution | None) -> str | None:
    """Say that an objective whose loss compares points no further than `blur` apart does not learn the weights of
    modes, where these data have such modes; None where they have not, or where the energy's base has their weights."""
    mixture = fitted_mixture(dataset)
    groups = groups_apart(mixture, blur) if mixture is not None else []
    if mixture is None or len(groups) < 2 or (base is not None and _is_as_good(base, mixture, dataset.val)):
        return None
    weights = sorted(float(mixture.odds[group].sum()) for group in groups)
    return (
        f"the data fall into {len(groups)} groups more than {APART:g} standard deviations apart, of weights "
        f"{weights[0]:.2g} to {weights[-1]:.2g}: {name} learns the shape of each and hardly their weights; nce and pcd "
        f"learn both"
    )


def _kept(dataset: Dataset) -> dict[str, Any]:
    """The laws fitted to this data set so far, which it carries with it."""
    return vars(dataset).setdefault("_fitted_laws", {})


def _is_points(dataset: Dataset) -> bool:
    return dataset.bounds is None and "continuous" in features_of(dataset)


@torch.no_grad()
def _is_as_good(base: Distribution, mixture: GaussianMixture, x: Tensor) -> bool:
    """Return whether the base explains points x (n, *shape) as well as the mixture, to ENOUGH nats."""
    lost = log_prob_of(mixture, x).mean() - in_parts(base.log_prob, x, 4096).double().cpu().mean()
    return float(lost) <= ENOUGH


def _fit_gaussian(train: Tensor) -> Gaussian | None:
    x = train.detach().cpu().flatten(1).double()
    if x.shape[1] > MANY:
        return None
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    std = covariance.diagonal().sqrt()
    correlation = covariance / torch.outer(std, std)
    if not bool(correlation.isfinite().all()) or float(torch.linalg.eigvalsh(correlation)[0]) < FLAT:
        return None
    return Gaussian(mean.view(train.shape[1:]), covariance)


def _fit_mixture(gaussian: Gaussian, train: Tensor, val: Tensor) -> GaussianMixture:
    """Fit on z = L^-1 (x - m), L L' = S, so that the fit is the same in all units and axes."""
    mean, factor = gaussian.mean.flatten(), torch.linalg.cholesky(gaussian.covariance)

    def whitened(x: Tensor) -> Tensor:
        flat = subset(x, ROWS).detach().cpu().flatten(1).double() - mean
        return torch.linalg.solve_triangular(factor, flat.T, upper=False).T.contiguous()

    found = fit_mixture(whitened(train), whitened(val))
    assert found.axes is not None, "a mixture of points has full covariances"
    covariances = factor @ (found.axes * found.variances[:, None]) @ found.axes.mT @ factor.T
    means = (mean + found.means @ factor.T).view(-1, *gaussian.mean.shape)
    return GaussianMixture(found.log_weights.exp(), means, covariances=covariances)
