"""What the blur of a law costs: the gap that a perfect model of the blurred law has.

    q = p * N(0, sigma^2 I):    E_p[ log p(x) - log q(x) ] = KL(p || q)

q is known for Gaussians, their mixtures and curves with Gaussian noise, whose variances grow by sigma^2. For any other
law it is a mean over DRAWS noise vectors e, q(x) = E[ p(x + sigma e) ], at POINTS of the points at most; both signs of
each vector are used, so that the slope of p cancels.
"""

import math
from dataclasses import replace
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebm_lab.core.interfaces import Dataset, Distribution
from ebm_lab.core.random import subset
from ebm_lab.distributions.baselines import log_prob_of
from ebm_lab.distributions.curves import NoisyCurves
from ebm_lab.distributions.elementary import Gaussian, IsotropicGaussian
from ebm_lab.distributions.mixture import GaussianMixture
from ebm_lab.distributions.pushed import PushedMixture

POINTS, DRAWS = 500, 256


class Cost(NamedTuple):
    """nats; se: its standard error over the points."""

    nats: float
    se: float


@singledispatch
def blurred(law: Distribution, sigma: float) -> Distribution | None:
    """Return the law of x + sigma e, x ~ law and e ~ N(0, I); None where it has no formula here."""
    return None


@blurred.register
def _(law: IsotropicGaussian, sigma: float) -> IsotropicGaussian:
    return replace(law, std=math.hypot(law.std, sigma))


@blurred.register
def _(law: NoisyCurves, sigma: float) -> NoisyCurves:
    return replace(law, std=math.hypot(law.std, sigma))


@blurred.register
def _(law: Gaussian, sigma: float) -> Gaussian:
    return replace(law, covariance=_wider(law.covariance, sigma))


@blurred.register
def _(law: GaussianMixture, sigma: float) -> GaussianMixture:
    if law.stds is not None:
        return replace(law, stds=(law.stds**2 + sigma**2).sqrt())
    assert law.covariances is not None, "a mixture has one of the two"
    return replace(law, covariances=_wider(law.covariances, sigma))


@blurred.register
def _(law: PushedMixture, sigma: float) -> None:
    return None


def blur_gap(dataset: Dataset, x: Tensor, sigma: float, generator: Generator) -> Cost | None:
    """E_x[ log p(x) - log q(x) ] over points x (n, *shape) of the data's law p; None where p is not known."""
    q = None if dataset.law is None else blurred(dataset.law, sigma)
    x = x if q is not None else subset(x, POINTS)
    log_p = dataset.log_prob(x)
    if log_p is None:
        return None
    log_q = _noisy_mean(dataset, x, sigma, generator) if q is None else log_prob_of(q, x)
    difference = log_p.double().cpu() - log_q
    return Cost(float(difference.mean()), float(difference.std(correction=0)) / len(x) ** 0.5)


def _noisy_mean(dataset: Dataset, x: Tensor, sigma: float, generator: Generator) -> Tensor:
    """log of the mean of p(x + sigma e), (n,)."""
    total = torch.full((len(x),), -math.inf, dtype=torch.float64)
    for _ in range(DRAWS // 2):
        e = torch.empty_like(x).normal_(generator=generator)
        for sign in (1, -1):
            log_p = dataset.log_prob(x + sign * sigma * e)
            assert log_p is not None, "asked before"
            total = torch.logaddexp(total, log_p.double().cpu())
    return total - math.log(2 * (DRAWS // 2))


def _wider(covariance: Tensor, sigma: float) -> Tensor:
    return covariance + sigma**2 * torch.eye(covariance.shape[-1]).to(covariance)
