"""The cost of blurring the data, and a noise level that costs little in any dimension.

    q = p * N(0, sigma^2 I):    KL(p || q) <= sum_k w_k sum_j f(sigma^2 / lambda_kj)
    f(r) = 1/2 ln(1 + r) - 1/2 r / (1 + r)

for a mixture p of Gaussians with weights w_k, whose covariances have the eigenvalues lambda_kj: an equality for one
Gaussian, and a bound for more, since KL is convex in both its arguments. A model of q has this gap to p, however well
it is trained. For small r, f(r) is r^2 / 4, so that the sigma of a given cost falls as d^(-1/4), while the bandwidth
of a kernel density estimate grows with d.

The mixture is fitted to one half of the rows. The other half selects the number of Gaussians, the smallest whose
held-out likelihood is within NATS of the best, and gives the variances along the eigenvectors. Variances of the fitted
half would be too small, and zero along some directions if there are fewer rows than dimensions.
"""

import math
import warnings

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.bandwidth import bandwidth, distinct

NATS = 0.01
"""The largest cost of the blur for a noise level given as `auto`."""
ROWS = 4000
"""The largest number of rows used to fit and select a mixture."""
COMPONENTS = 64
"""The largest number of Gaussians in a mixture."""
FEW = 8
"""A Gaussian with fewer held-out rows has unknown variances, and its cost is left out."""
THIN = 1e-3
"""Directions whose std is below this fraction of the data's scale are left out: there is no density to blur."""


def blur_cost(sigma: float, weights: Tensor, variances: Tensor) -> float:
    """Compute the bound above in nats, for weights (K,) and variances lambda (K, d), inf for directions to leave
    out."""
    r = sigma**2 / variances
    return float((weights[:, None] * 0.5 * (torch.log1p(r) - r / (1 + r))).sum())


def largest_blur(nats: float, weights: Tensor, variances: Tensor) -> float:
    """Return the largest sigma that costs at most `nats`, or inf if no sigma costs anything."""
    if not bool(variances.isfinite().any()):
        return math.inf
    low, high = -300.0, 300.0  # log sigma
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if blur_cost(math.exp(middle), weights, variances) <= nats else (low, middle)
    return math.exp(low)


def local_variances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a mixture of Gaussians to distinct rows x (n, d) in random order, and return its (weights, variances), (K,)
    and (K, d)."""
    x = x[:ROWS].double()
    x = x - x.mean(0)
    scale = x.var(0).mean().sqrt()
    if len(x) < 2 * FEW:
        return torch.ones(1).to(x), (scale**2).expand(1, x.shape[1])
    fitted, held_out = (x / scale).chunk(2)
    weights, variances = _held_out_variances(_fit(fitted, held_out), held_out)
    return weights, torch.where(variances < THIN**2, torch.inf, variances * scale**2)


def _fit(x: Tensor, held_out: Tensor):
    """Fit scikit-learn's mixture to x (n, d) with the fewest Gaussians, out of 1, 2, 4, .., whose likelihood of
    `held_out` is within NATS of the best. The search ends after two numbers in a row that are no better."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    most = max(1, min(COMPONENTS, len(x) // (2 * x.shape[1])))
    found: list[tuple[float, GaussianMixture]] = []
    for k in (2**i for i in range(most.bit_length())):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture = GaussianMixture(k, reg_covar=THIN**2, random_state=0).fit(x.numpy())
        found.append((float(mixture.score(held_out.numpy())), mixture))
        best = max(value for value, _ in found)
        if best > max(value for value, _ in found[-2:]):
            break
    return next(mixture for value, mixture in found if value >= best - NATS)


def _held_out_variances(mixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (weights, variances) of x (n, d) along the eigenvectors of each Gaussian, with each row weighted by
    its probability of belonging to that Gaussian."""
    odds, covariances = (torch.from_numpy(a) for a in (mixture.predict_proba(x.numpy()), mixture.covariances_))
    rows = odds.sum(0)
    u = x @ torch.linalg.eigh(covariances).eigenvectors  # (K, n, d)
    share = (odds / rows.clamp_min(1.0)).T[..., None]
    mean = (share * u).sum(1, keepdim=True)
    variances = (share * (u - mean) ** 2).sum(1) * (rows / (rows - 1).clamp_min(1.0))[:, None]
    return rows / len(x), torch.where(rows[:, None] < FEW, torch.inf, variances)


def two_digits(value: float, most: float = math.inf) -> float:
    """Round `value` to two digits, or down to two digits if the result would exceed `most`."""
    rounded = float(f"{value:.2g}")
    if rounded > most:
        rounded -= 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{rounded:.2g}")


def noise_level(dataset: Dataset, factor: float, key: str) -> tuple[float, list[str]]:
    """Return the noise level that `auto` stands for in the setting `key`, to two digits, and notes for the user on its
    cost.

    It is `factor` times the bandwidth that maximises the leave-one-out likelihood, but costs at most NATS. Images get
    no such bound, because their exact pixel values have no density.
    """
    x = distinct(dataset.train)
    if len(x) < 2:
        raise UserError(f"{key}=auto: needs two different training points; give a number")
    sigma = two_digits(factor * bandwidth(dataset.train, dataset.scale))
    if dataset.bounds is not None:
        return sigma, []
    weights, variances = local_variances(x)
    if blur_cost(sigma, weights, variances) > NATS:
        most = largest_blur(NATS, weights, variances)
        sigma = two_digits(most, most)
    cost = blur_cost(sigma, weights, variances)
    return sigma, [f"{key}={sigma:g}: this blur costs about {cost:.2g} nats, judged by Gaussians fitted to the data"]
