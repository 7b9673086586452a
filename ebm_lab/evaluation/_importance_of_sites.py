"""log Z of discrete data from exact samples of two laws at once: the data's own, where known, and independent sites.

    x_i ~ m = (n_p p + n_r r) / (n_p + n_r),    log w(x) = -E(x) - log m(x),    Z = E_m[w]
    KL(p || q) = log Z - E_p[-E - log p],    q = exp(-E) / Z

r, independent sites with about the data's frequencies (distributions/product.py), has mass at every point. With samples
of p alone a part of Z could be missing unseen: a model that is uniform over more points than p has the same weight at
all of p's samples. Here r's samples show that part. The standard errors are those of independent samples of m, a little
too large, since the number from each law is fixed.

Eric Veach and Leonidas J. Guibas, Optimally Combining Sampling Techniques for Monte Carlo Rendering, 1995 (the balance
heuristic).
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_lab.core.functional import EnergyFn, evaluate, in_parts
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import stream, subset
from ebm_lab.distributions.product import product_law
from ebm_lab.evaluation._annealed_importance import effective_sample_size, log_mean_exp

DRAWS = 10_000
"""Samples of each law."""


class Mixed(NamedTuple):
    """x: (n, *shape) samples of m; log_m: (n,) in float64; log_p: (n_p,) of the first rows, which are the samples of p,
    empty where p isn't known."""

    x: Tensor
    log_m: Tensor
    log_p: Tensor


class Found(NamedTuple):
    """log Z with its jackknife standard error, nats; the effective sample size as a share of the samples; and
    KL(p || q) with its standard error, nats, nan where p isn't known."""

    log_z: float
    se: float
    ess: float
    forward: float
    forward_se: float


@torch.no_grad()
def mixed_samples(dataset: Dataset) -> Mixed:
    """Draw samples of both laws, the same ones at every call. A known law without a sampler lends the validation
    points, which no model was fitted to."""
    law, generator = product_law(dataset), stream(0, "likelihood/sites", 0, dataset.train.device)
    parts = [law.sample(DRAWS, generator)]
    known = dataset.log_prob(dataset.val[:1]) is not None
    if known:
        own = stream(0, "likelihood/law")  # the law lives on the CPU
        drawn = subset(dataset.val, DRAWS) if dataset.law is None else dataset.law.sample(DRAWS, own)
        parts.insert(0, drawn.to(dataset.train))
    x = torch.cat(parts)
    shares = [math.log(len(part) / len(x)) for part in parts]
    log_r = in_parts(law.log_prob, x, 4096).double()
    if not known:
        return Mixed(x, log_r, log_r[:0])
    log_p = in_parts(partial(_log_prob, dataset), x, 4096)
    return Mixed(x, torch.logaddexp(log_p + shares[0], log_r + shares[1]), log_p[: len(parts[0])])


@torch.no_grad()
def weigh_sites(energy: EnergyFn, samples: Mixed) -> Found:
    """Return what the samples say of this energy."""
    log_q = -in_parts(partial(evaluate, energy), samples.x, 65_536).double()
    log_w = log_q - samples.log_m
    log_z, se = (float(v) for v in log_mean_exp(log_w))
    terms = log_q[: len(samples.log_p)] - samples.log_p
    n = len(terms)
    return Found(
        log_z=log_z,
        se=se,
        ess=float(effective_sample_size(log_w)) / len(log_w),
        forward=log_z - float(terms.mean()) if n else math.nan,
        forward_se=math.hypot(se, float(terms.std()) / n**0.5) if n > 1 else math.nan,
    )


def _log_prob(dataset: Dataset, x: Tensor) -> Tensor:
    """Return log p at x, (n, *shape) -> (n,) in float64."""
    log_p = dataset.log_prob(x)
    assert log_p is not None, "it is known"
    return log_p.double().to(x.device)
