"""Kernels that displace bits and categories, for energy discrepancy on discrete data.

    bernoulli:  each site takes another value with probability eps
    grid:       one site, drawn at random, takes another value
    absorbing:  one site is masked; the points around the masked copy are those with all values there

Any kernel q(y | x) gives ED = KL(p || p_theta) - KL(Qp || Qp_theta), least at p = p_theta if q tells points apart. With
the mean over the K refills of one random site, the absorbing kernel's ED is the pseudo-likelihood: PL / d - log K.

Tobias Schroder, Zijing Ou, Yingzhen Li and Andrew B. Duncan, Energy-Based Modelling for Discrete and Mixed Data via
Heat Equations on Structured Spaces, 2024, arXiv:2412.01019.
"""

import math
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from ebm_lab.core.discrete import Draws, Sites, log_odds
from ebm_lab.core.functional import EnergyFn

DiscreteKernel = Literal["bernoulli", "grid", "absorbing"]


def displaced(x: Tensor, sites: Sites, kernel: DiscreteKernel, eps: float, generator: Generator) -> Tensor:
    """Draw one point from the kernel `bernoulli` or `grid` at each x (n, *shape)."""
    if kernel == "grid":
        noise = torch.empty_like(x.flatten(1)).exponential_(generator=generator)
        return sites.apply(x, torch.where(sites.moves(x), noise, 0.0).argmax(1))
    if not sites.one_hot:
        flips = torch.empty_like(x).uniform_(generator=generator) < eps
        return torch.where(flips, 1 - x, x)
    stays, moves = math.log1p(-eps), math.log(eps / (sites.categories - 1))
    return Draws(generator).categories(torch.where(x > 0, stays, moves))


def absorbing_discrepancy(energy: EnergyFn, x: Tensor, sites: Sites, which: Tensor) -> Tensor:
    """Return the mean over the sites of `which` of log (1 / K) sum_c exp(E(x) - E(x with x_i = c)), (B,); `which`: all
    changes of some sites, those of one category in a row."""
    odds = log_odds(energy, x, sites, which)
    each = odds.view(len(x), sites.categories, -1).logsumexp(1) if sites.one_hot else softplus(odds)
    return each.mean(1) - math.log(sites.categories)
