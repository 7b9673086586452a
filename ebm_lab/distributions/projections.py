"""Directions along which data are least like a Gaussian, which a network would hardly find in many dimensions.

    u_k:  maximise |E[(u . z)^4]| over orthogonal unit vectors,    z = S^(-1/2) (x - m)

by independent component analysis on whitened data. A Gaussian base has mean and covariance right, so what is left to
learn shows in third and fourth moments, and gradient descent from random weights finds a direction by fourth moments
alone only with some d^3 points. With fewer, a network is given the directions to begin with, and EM a start along them.
A direction counts if its skewness or excess kurtosis on held-out points is `SIGNIFICANT` standard errors from zero,
which are sqrt(6 / n) and sqrt(24 / n) for a Gaussian.

Aapo Hyvarinen, Fast and Robust Fixed-Point Algorithms for Independent Component Analysis, 1999 (the cubic contrast).
Gerard Ben Arous, Reza Gheissari and Aukosh Jagannath, Online stochastic gradient descent on non-convex losses from
high-dimensional inference, 2021, theorem 1.3 (the number of points).
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from ebm_lab.core.random import subset

MOST = 8
"""Directions that are returned, at most."""
ROWS = 10_000
"""Rows of each split that directions are found by, at most."""
SIGNIFICANT = 6.0


def are_hidden(rows: int, dimensions: int) -> bool:
    """Is `rows` too few for a network to find such directions by itself?"""
    return dimensions**3 > rows


def non_gaussian_directions(x: Tensor, held_out: Tensor) -> Tensor:
    """Return the directions a (k, d), k at most MOST, in which x (n, d) is least like a Gaussian, the most significant
    first: a . x has standard deviation 1, and is uncorrelated with that of other directions. float64."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    x, held_out = subset(x, ROWS).double(), subset(held_out, ROWS).double()
    mean, (values, axes) = x.mean(0), torch.linalg.eigh(x.T.cov(correction=0))
    spread = values > 1e-10 * values[-1]
    whiten = axes[:, spread] * values[spread].rsqrt()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        settings: dict[str, Any] = {"whiten": False, "fun": "cube", "max_iter": 100, "tol": 1e-2, "random_state": 0}
        found = FastICA(**settings)
        found.fit(((x - mean) @ whiten).numpy())
    u = torch.from_numpy(found.components_)
    directions = (u / u.norm(dim=1, keepdim=True)) @ whiten.T
    y = (held_out - mean) @ directions.T
    y, n = (y - y.mean(0)) / y.std(0), len(y)
    skewness, kurtosis = (y**3).mean(0) / math.sqrt(6 / n), ((y**4).mean(0) - 3) / math.sqrt(24 / n)
    score = torch.maximum(skewness.abs(), kurtosis.abs())
    order = score.argsort(descending=True)[:MOST]
    return directions[order[score[order] > SIGNIFICANT]]
