"""Sequential Monte Carlo: annealed importance sampling whose particles are resampled along the way.

    at each temperature b_t, in this order:
    weight:    log w_i += (b_t - b_(t-1)) u(x_i),    u(x) = -E(x) - log p_0(x);  in general E_(t-1)(x_i) - E_t(x_i)
    resample:  if ESS = (sum w)^2 / sum w^2 < N / 2:
               log Z += log mean w,  x_i <- x_(a_i) with P(a_i = j) = w_j / sum w,  log w_i <- 0
    move:      x_i by a kernel that leaves p_(b_t) exactly invariant
    at the end log Z += log mean w

E[Z_hat] = Z for any number of particles and temperatures, with or without resampling. If the particles were moved
before they are weighted it would not be: a move at b_t brings them to where the increment is large. Resampling is
systematic: N evenly spaced pointers, shifted together by one uniform number, into the cumulated weights, so that
particle j is taken either floor or ceil of N w_j / sum w times.

Pierre Del Moral, Arnaud Doucet and Ajay Jasra, Sequential Monte Carlo Samplers, 2006, section 3.1.1 and equations 14
and 31.
Genshiro Kitagawa, Monte Carlo Filter and Smoother for Non-Gaussian Nonlinear State Space Models, 1996 (systematic).
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ebm_lab.evaluation._annealed_importance import Move, Rise, effective_sample_size


class Estimate(NamedTuple):
    """log_z: (R,) in nats; x: the last particles, (R N, *shape), with log weights log_w (R, N); resampled: how often,
    (R,)."""

    log_z: Tensor
    x: Tensor
    log_w: Tensor
    resampled: Tensor


def systematic(log_w: Tensor, u: Tensor) -> Tensor:
    """Return which particles are taken, (R, N), for log weights (R, N) and one uniform number of each run, (R,)."""
    n = log_w.shape[1]
    pointers = (torch.arange(n, device=log_w.device) + u[:, None]) / n
    return torch.searchsorted(log_w.softmax(1).cumsum(1), pointers, right=True).clamp_max(n - 1)


def log_mean(log_w: Tensor) -> Tensor:
    """Compute log mean w over the last axis."""
    return log_w.logsumexp(-1) - math.log(log_w.shape[-1])


def sequential(rise: Rise, b: list[float], move: Move, x: Tensor, runs: int, generator: Generator) -> Estimate:
    """Run `runs` independent populations, all in one batch x (R N, *shape) ~ p_0, along temperatures b from 0 to 1;
    move(x, t) moves states by a kernel that leaves p_(b_t) invariant."""
    log_w = torch.zeros(runs, len(x) // runs, dtype=torch.float64, device=x.device)
    log_z, resampled = log_w[:, 0], torch.zeros(runs, dtype=torch.int64, device=x.device)
    n, own = log_w.shape[1], len(x) // runs * torch.arange(runs, device=x.device)[:, None]
    for t in range(1, len(b)):
        log_w = log_w + rise(x, b[t - 1], b[t]).view(runs, n)
        if t + 1 == len(b):
            break
        few = effective_sample_size(log_w) < n / 2
        taken = systematic(log_w, torch.empty_like(log_z).uniform_(generator=generator))
        taken = torch.where(few[:, None], taken, torch.arange(n, device=x.device))
        log_z, resampled = torch.where(few, log_z + log_mean(log_w), log_z), resampled + few
        log_w = torch.where(few[:, None], 0.0, log_w)
        x = move(x[(own + taken).flatten()], t)
    return Estimate(log_z + log_mean(log_w), x, log_w, resampled)
