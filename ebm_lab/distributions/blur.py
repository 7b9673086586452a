"""What a blur of the data costs, and a noise level that costs little in any dimension.

    q = p * N(0, sigma^2 I):    KL(p || q) <= sum_k w_k sum_j f(sigma^2 / lambda_kj)
    f(r) = 1/2 ln(1 + r) - 1/2 r / (1 + r)

for a mixture p of Gaussians with weights w_k, whose covariances have the eigenvalues lambda_kj: an equality for one
Gaussian, and a bound for more, since KL is convex in both its arguments. A model of q has this gap to p, however well
it is trained. For small r, f(r) is r^2 / 4, so that the sigma of a given cost falls as d^(-1/4), while the bandwidth
of a kernel density estimate grows with d.

The mixture is fitted to one half of the rows. The other half chooses how many Gaussians it has, the fewest that come
within what the blur may cost of the best held-out likelihood, and gives the variances along the eigenvectors. Variances
of the half that was fitted to are too small, and zero along some directions where rows are fewer than dimensions.
"""

import math
import warnings

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.distributions.bandwidth import bandwidth, distinct

NATS = 0.01
"""What the blur of a noise level given as `auto` may cost."""
ROWS = 4000
"""Rows that a mixture is fitted to and chosen by, at most."""
COMPONENTS = 64
"""Gaussians in a mixture, at most."""
FEW = 8
"""Held-out rows of a Gaussian below which its variances are unknown, and its share of the cost left out."""
THIN = 1e-3
"""Data whose std along a direction is below this part of their scale have no density there that a blur could spoil."""


def blur_cost(sigma: float, weights: Tensor, variances: Tensor) -> float:
    """The bound above in nats, for weights (K,) and variances lambda (K, d), inf where they count for nothing."""
    r = sigma**2 / variances
    return float((weights[:, None] * 0.5 * (torch.log1p(r) - r / (1 + r))).sum())


def largest_blur(nats: float, weights: Tensor, variances: Tensor) -> float:
    """The largest sigma whose cost is at most `nats`; inf where no sigma costs anything."""
    if not bool(variances.isfinite().any()):
        return math.inf
    low, high = -300.0, 300.0  # log sigma
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if blur_cost(math.exp(middle), weights, variances) <= nats else (low, middle)
    return math.exp(low)


def local_variances(x: Tensor) -> tuple[Tensor, Tensor]:
    """(weights, variances), (K,) and (K, d), of a mixture of Gaussians for different rows x (n, d) in random order."""
    x = x[:ROWS].double()
    x = x - x.mean(0)
    scale = x.var(0).mean().sqrt()
    if len(x) < 2 * FEW:
        return torch.ones(1).to(x), (scale**2).expand(1, x.shape[1])
    fitted, held_out = (x / scale).chunk(2)
    weights, variances = _of_held_out(_fit(fitted, held_out), held_out)
    return weights, torch.where(variances < THIN**2, torch.inf, variances * scale**2)


def _fit(x: Tensor, held_out: Tensor):
    """scikit-learn's mixture on x (n, d) of the fewest Gaussians, out of 1, 2, 4, .., for which the likelihood of
    `held_out` is within NATS of the best; two numbers in a row that are no better end the search."""
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


def _of_held_out(mixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """(weights, variances) of x (n, d) along the eigenvectors of each Gaussian, by the odds that rows are of it."""
    odds, covariances = (torch.from_numpy(a) for a in (mixture.predict_proba(x.numpy()), mixture.covariances_))
    rows = odds.sum(0)
    u = x @ torch.linalg.eigh(covariances).eigenvectors  # (K, n, d)
    share = (odds / rows.clamp_min(1.0)).T[..., None]
    mean = (share * u).sum(1, keepdim=True)
    variances = (share * (u - mean) ** 2).sum(1) * (rows / (rows - 1).clamp_min(1.0))[:, None]
    return rows / len(x), torch.where(rows[:, None] < FEW, torch.inf, variances)


def two_digits(value: float, most: float = math.inf) -> float:
    """`value` to two digits; the next smaller such number where that is above `most`."""
    rounded = float(f"{value:.2g}")
    if rounded > most:
        rounded -= 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{rounded:.2g}")


def noise_level(dataset: Dataset, factor: float, key: str) -> tuple[float, list[str]]:
    """The noise level that the setting `key` gets for `auto`, to two digits, and what to tell the user of its cost.

    `factor` times the bandwidth that maximises the leave-one-out likelihood, but no more than what costs NATS. Images
    get no such bound, for the exact values of their pixels have no density.
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
    return sigma, [f"{key}={sigma:g}: such a blur costs about {cost:.2g} nats, by Gaussians fitted to the data"]
